"""Model servers behind workers die, freeze and come back: no job hangs, offers go and return."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devnet.network import Devnet as Net
from devnet.network import Options, up
from node.adapters import model_folder
from node.app import receipts
from node.errors import ExitCode
from tests.adapters.openai.process import Backend, backend_up
from tests.adapters.openai.server import NAME
from tests.e2e.conftest import Devnet
from tests.e2e.seller_process import Seller, client_of, eventually, seller_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
PROMPT = "What is a voucher?"
TOKENS = 120
JOB = ("--ignore-eos", "--max-tokens", str(TOKENS), "--seed", "7", PROMPT)
PAUSE_S = 0.05
"""A server's between two tokens, so that a job lasts for seconds."""
QUICK_TOKENS = 64
"""An answer's first ones come without a pause, so that probes take no longer than they must."""
ENDS_S = 30.0
OFFERS_S = 30.0


@dataclass(frozen=True)
class Shop:
    """A worker, and the server that it sells."""

    seller: Seller
    backend: Backend


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """A chain; whoever sells comes with the tests."""
    with up(Options(workers=0, clients=0)) as running:
        yield running


def open_shop(
    stack: ExitStack, net: Net, home: Path, *argv: str, bootstrap: tuple[str, ...] = ()
) -> Shop:
    backend = stack.enter_context(
        backend_up("--pause", str(PAUSE_S), "--pause-after", str(QUICK_TOKENS), *argv)
    )
    seller = seller_up(
        net, home, url=backend.url, models=(f"{NAME}={model_folder.shipped()}",),
        bootstrap=bootstrap,
    )  # fmt: skip
    return Shop(stack.enter_context(seller), backend)


def buyer_of(net: Net, home: Path, *shops: Shop) -> Devnet:
    client = client_of(net, home, bootstrap=tuple(shop.seller.multiaddr for shop in shops))
    return Devnet(os.getpid(), net.to_json() | {"client_home": str(client.home)})


def offered(buyer: Devnet, shop: Shop) -> bool:
    ran = buyer.node("market", "--once", "--json", "--wait", "2")
    if ran.code == ExitCode.NO_PEERS:  # nobody sells anything
        return False
    assert ran.code == ExitCode.OK, ran.err
    return any(row["worker"] == shop.seller.address for row in ran.json)


def start(buyer: Devnet, shops: list[Shop], *argv: str) -> tuple[subprocess.Popen[str], Shop]:
    """A job, once it has been in mid-answer for a moment; and who has it."""
    eventually(lambda: not any(shop.seller.active() for shop in shops), within_s=ENDS_S)
    process = buyer.start("submit", "--json", *argv, *JOB)
    busy: list[Shop] = eventually(
        lambda: [shop for shop in shops if shop.seller.active()], within_s=ENDS_S
    )
    time.sleep(10 * PAUSE_S)
    assert process.poll() is None
    return process, busy[0]


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], float]:
    began_s = time.monotonic()
    out, err = process.communicate(timeout=ENDS_S)
    assert "Traceback" not in err
    assert process.returncode is not None
    return process.returncode, json.loads(out), time.monotonic() - began_s


def test_a_job_goes_on_with_another_worker_when_its_server_dies(net: Net, tmp_path: Path) -> None:
    with ExitStack() as stack:
        one = open_shop(stack, net, tmp_path / "one")
        other = open_shop(stack, net, tmp_path / "other", bootstrap=(one.seller.multiaddr,))
        for shop in (one, other):
            shop.seller.wait_sold()
        buyer = buyer_of(net, tmp_path / "client", one, other)
        whole = buyer.submit("--worker", other.seller.address, *JOB)
        assert whole["tokens_out"] == TOKENS
        process, struck = start(buyer, [one, other])
        struck.backend.kill()
        code, result, _ = ended(process)
        assert code == ExitCode.OK
        assert (result["failure"], result["tokens_out"]) == (None, TOKENS)
        assert result["text"] == whole["text"]
        first, *others = result["segments"]
        assert first["worker"] == struck.seller.address != others[-1]["worker"]
        assert 0 < first["tokens_out"] == others[0]["position"]
        assert receipts.verify_file(Path(result["receipt"])).passed
        struck.seller.wait_sold(sold=False)
        assert not offered(buyer, struck)
        struck.backend.start()
        struck.seller.wait_sold()
        eventually(lambda: offered(buyer, struck), within_s=OFFERS_S)
        assert buyer.submit("--worker", struck.seller.address, *JOB)["text"] == whole["text"]


@pytest.fixture(scope="module")
def text_shop(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A server of text that begins anew instead of going on: nobody can take its jobs over."""
    with ExitStack() as stack:
        shop = open_shop(stack, net, tmp_path_factory.mktemp("text") / "seller", "--text")
        shop.seller.wait_sold()
        yield shop


def test_with_nobody_to_go_on_a_job_ends_with_what_was_delivered(
    net: Net, text_shop: Shop, tmp_path: Path
) -> None:
    buyer = buyer_of(net, tmp_path / "client", text_shop)
    whole = buyer.submit(*JOB)
    process, _ = start(buyer, [text_shop])
    text_shop.backend.kill()
    code, result, took_s = ended(process)
    assert code == ExitCode.TRY_AGAIN
    assert result["failure"]
    assert result["text"]
    assert whole["text"].startswith(result["text"])
    assert 0 < result["tokens_out"] < whole["tokens_out"]
    assert 0 < result["amount_micro"] < whole["amount_micro"]
    assert took_s < 15
    assert receipts.verify_file(Path(result["receipt"])).passed
    text_shop.seller.wait_sold(sold=False)
    assert not offered(buyer, text_shop)
    text_shop.backend.start()
    text_shop.seller.wait_sold()
    eventually(lambda: offered(buyer, text_shop), within_s=OFFERS_S)
    again = buyer.submit(*JOB)
    assert (again["text"], again["finish_reason"]) == (whole["text"], "length")


def test_a_frozen_server_holds_no_job(net: Net, text_shop: Shop, tmp_path: Path) -> None:
    buyer = buyer_of(net, tmp_path / "client", text_shop)
    process, _ = start(buyer, [text_shop], "--set", "client.silence_s=2")
    text_shop.backend.signal(signal.SIGSTOP)
    code, result, took_s = ended(process)
    assert code == ExitCode.TRY_AGAIN
    assert result["failure"]
    assert result["text"]
    assert took_s < 15
    eventually(lambda: not text_shop.seller.active(), within_s=ENDS_S)
    text_shop.seller.wait_sold(sold=False)
    text_shop.backend.signal(signal.SIGCONT)
    text_shop.seller.wait_sold()
    eventually(lambda: offered(buyer, text_shop), within_s=OFFERS_S)
    assert buyer.submit(*JOB)["text"]
