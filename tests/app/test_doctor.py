"""`node doctor`: each thing that is wrong is found, and its fix named."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from devnet import chain as devchain
from devnet.chain import DevChain
from node.app.doctor import examine, ready, tcp_place
from node.app.findings import Finding
from node.app.init import InitRequest, create

PATHS = {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def chain() -> Iterator[DevChain]:
    with devchain.running() as running:
        yield running


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def make(home: Path, **settings: object) -> Path:
    create(
        InitRequest(
            home=home,
            password=b"pass",
            store_password=True,
            scrypt_n=1024,
            settings={name.replace("__", "."): value for name, value in settings.items()},
        )
    )
    return home


def find(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def check(home: Path, **environ: str) -> list[Finding]:
    return examine(home, flags={}, environ={**PATHS, **environ})


def test_a_home_that_works(tmp_path: Path, chain: DevChain, taken: int) -> None:
    home = make(
        tmp_path / "home",
        chain__rpc_url=chain.anvil.url,
        chain__escrow=chain.contracts.escrow,
        chain__token=chain.contracts.token,
        network__listen=["/ip4/127.0.0.1/tcp/0"],
        network__bootstrap=[f"/ip4/127.0.0.1/tcp/{taken}/p2p/x"],
    )
    findings = check(home)
    assert [f for f in findings if f.status == "problem"] == []
    assert ready(findings)
    assert "opens without a terminal" in find(findings, "key").detail
    assert "chain 31337 at block" in find(findings, "rpc").detail
    assert find(findings, "bootstrap").detail == "1 of 1 answer"


def test_another_chain_and_no_contract(tmp_path: Path, chain: DevChain) -> None:
    other = make(tmp_path / "a", chain__rpc_url=chain.anvil.url, chain__chain_id=1)
    assert "is of chain 31337, chain.chain_id is 1" in find(check(other), "rpc").detail
    empty = make(tmp_path / "b", chain__rpc_url=chain.anvil.url, chain__escrow="0x" + "11" * 20)
    findings = check(empty)
    assert "no contract at 0x11" in find(findings, "escrow").detail
    assert find(findings, "token").detail == "no address is set"
    assert not ready(findings)


def test_rpc_that_is_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    home = make(tmp_path / "home", chain__rpc_url=f"http://127.0.0.1:{port}")
    found = find(check(home), "rpc")
    assert found.status == "problem"
    assert "chain.rpc_url" in found.fix


def test_port_that_is_taken(tmp_path: Path, taken: int) -> None:
    home = make(tmp_path / "home", network__listen=[f"/ip4/127.0.0.1/tcp/{taken}"])
    found = find(check(home), "port")
    assert found.status == "problem"
    assert "network.listen" in found.fix


def test_transport_that_is_not_spoken(tmp_path: Path) -> None:
    home = make(tmp_path / "home", network__listen=["/ip4/127.0.0.1/udp/1/quic-v1"])
    assert "is not TCP" in find(check(home), "port").detail


def test_no_home(tmp_path: Path) -> None:
    findings = check(tmp_path / "none")
    assert find(findings, "home").fix == f"node init --home {tmp_path / 'none'}"
    assert not ready(findings)


def test_wrong_password(tmp_path: Path) -> None:
    home = make(tmp_path / "home")
    (home / "password").write_text("guess\n")
    assert "wrong password" in find(check(home), "key").detail


def test_no_node_js(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find(check(tmp_path / "none"), "node.js")
    assert (found.status, "install Node.js" in found.fix) == ("warning", True)


def test_nobody_to_start_from(tmp_path: Path) -> None:
    assert find(check(make(tmp_path / "home")), "bootstrap").status == "warning"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/ip4/1.2.3.4/tcp/5", ("1.2.3.4", 5)),
        ("/ip6/::1/tcp/5/p2p/x", ("::1", 5)),
        ("/dns4/a.example/tcp/5", ("a.example", 5)),
        ("/ip4/1.2.3.4/udp/5", None),
        ("/ip4/1.2.3.4/tcp/x", None),
        ("/ip4", None),
        ("", None),
    ],
)
def test_place_of_a_multiaddr(text: str, place: tuple[str, int] | None) -> None:
    assert tcp_place(text) == place
