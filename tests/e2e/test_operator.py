"""What an operator does beside a running worker, and a buyer with a wallet."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Devnet, devnet_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
UNIT = 1_000_000


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    folder: Path = tmp_path_factory.mktemp("operator")
    with devnet_up(folder, "--workers", "1", "--clients", "2") as running:
        yield running


@pytest.fixture
def worker(net: Devnet) -> str:
    home: str = net.ready["workers"][0]["home"]
    return home


def test_status_of_a_running_worker(net: Devnet, worker: str) -> None:
    status = net.node("status", "--json", home=worker).json
    assert status["running"] is True
    assert status["address"] == net.ready["workers"][0]["address"]
    assert status["models"][0]["id"] == net.ready["workers"][0]["model"]
    assert net.ready["workers"][0]["multiaddr"] in status["addrs"]
    assert status["chain"]["rpc"][0]["error"] == ""
    shown = net.node("status", home=worker)
    assert shown.code == 0
    assert re.search(r"^running +yes$", shown.out, re.MULTILINE)


def test_status_of_a_client_at_rest(net: Devnet) -> None:
    status = net.node("status", "--json").json
    assert status["running"] is False
    assert status["chain"]["problem"] == ""
    assert status["chain"]["free_micro"] > 0


def test_market_shows_its_offer(net: Devnet) -> None:
    (offer,) = net.node("market", "--json").json
    assert offer["worker"] == net.ready["workers"][0]["address"]
    assert offer["model"] == net.ready["workers"][0]["model"]
    shown = net.node("market", "--once")
    assert offer["worker"] in shown.out


def test_nobody_offers(net: Devnet) -> None:
    alone = net.node(
        "market", "--once", "--wait", "0.5", "--bootstrap", "/ip4/127.0.0.1/tcp/1/p2p/"
        "16Uiu2HAmLPvDDX2QMRZALvCD1QTm8yqAW7SMpX9udMoByaRRbzAq",
    )  # fmt: skip
    assert alone.code == 69
    assert alone.out == ""


def test_a_home_has_one_owner(net: Devnet, worker: str) -> None:
    for command in (["serve"], ["submit", "Hello"]):
        refused = net.node(*command, home=worker)
        assert refused.code == 75
        assert "is in use by `node serve`" in refused.err


def test_doctor_beside_a_running_worker(net: Devnet, worker: str) -> None:
    examined = net.node("doctor", "--json", home=worker)
    found = {check["name"]: check["status"] for check in examined.json["checks"]}
    assert examined.code == 0, examined.out
    assert found["process"] == found["port"] == found["rpc"] == found["escrow"] == "ok"


def test_earned_and_redeemed_by_the_running_worker(net: Devnet, worker: str) -> None:
    before = net.node("wallet", "show", "--json", home=worker).json["credit_micro"]
    paid_micro = net.submit("What is a voucher?", "--max-tokens", "16")["amount_micro"]
    earned = net.node("earnings", "--json", home=worker).json
    assert earned["hours"][0]["paid_micro"] == paid_micro
    assert earned["totals"]["vouchered_micro"] == paid_micro
    redeemed = net.node("redeem", home=worker)
    assert redeemed.code == 0, redeemed.err
    assert re.search("0x[0-9a-f]{64}", redeemed.out)
    assert net.node("redeem", home=worker).out == "nothing to redeem\n"
    after = net.node("wallet", "show", "--json", home=worker).json
    assert after["credit_micro"] == before + paid_micro
    assert after["transactions"][0]["kind"] == "redeem"
    claimed = net.node("wallet", "claim", "--json", home=worker).json
    assert claimed["amount_micro"] == before + paid_micro
    assert net.node("wallet", "show", "--json", home=worker).json["token_micro"] == paid_micro


def test_deposit_lock_and_exit(net: Devnet) -> None:
    home = net.client_homes[1]

    def figures() -> dict[str, Any]:
        shown: dict[str, Any] = net.node("wallet", "show", "--json", home=home).json
        return shown

    before = figures()
    done = net.node("wallet", "deposit", str(5 * UNIT), "--json", home=home)
    assert done.code == 0, done.err
    assert json.loads(done.out)["amount_micro"] == 5 * UNIT
    assert figures()["free_micro"] == before["free_micro"] + 5 * UNIT
    assert figures()["token_micro"] == before["token_micro"] - 5 * UNIT

    payee = net.ready["workers"][0]["address"]
    assert net.node("wallet", "lock", payee, str(2 * UNIT), home=home).code == 0
    assert figures()["locked_micro"] == 2 * UNIT

    assert net.node("wallet", "withdraw", home=home).code == 0
    assert figures()["exit"] == "waiting"
    assert net.node("wallet", "deposit", "1", home=home).code == 77
    assert net.node("wallet", "withdraw", "--cancel", home=home).code == 0
    assert figures()["exit"] == "none"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["deposit", "0"], 2),
        (["deposit", "999000000000"], 77),
        (["lock", "nobody", "5"], 78),
        (["withdraw", "--cancel"], 77),
        (["claim"], 77),
    ],
)
def test_refused_by_the_wallet(net: Devnet, arguments: list[str], code: int) -> None:
    refused = net.node("wallet", *arguments, home=net.client_homes[0])
    assert refused.code == code, refused.err
    assert "Traceback" not in refused.err
