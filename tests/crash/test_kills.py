"""Worker, client and redeemer die at some moments of their work; `scripts/crash`: at all."""

import json
from pathlib import Path

import pytest

from devnet.spawner import Child
from node.adapters import keystore
from node.app import control
from node.app.home import Home
from node.errors import ExitCode
from tests.crash.runs import Kill, kill
from tests.crash.steps import ended, serving
from tests.crash.world import COMMAND_S, World

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
RANDOM = 3
"""Kills per role at a moment that is nobody's choice."""
POINTS = {
    "worker": ("store.payee.save_voucher.before", "send.ReceiptFrame.before"),
    "client": ("store.payer.save_vouchers.before", "send.AwardFrame.after"),
    "redeemer": ("store.chain.begin_transaction.after", "rpc.broadcast.after"),
}
"""Of each role those where most is at stake."""
INIT_POINTS = (
    "file.private.before", "file.private.after", "file.fsync.before", "file.fsync.after",
    "file.rename.before", "file.rename.after",
)  # fmt: skip


def test_nothing_is_lost_and_nothing_signed_twice(market: World) -> None:
    for role, points in POINTS.items():
        kills = [Kill()] * RANDOM + [Kill(point) for point in points]
        done = kill(role, market, kills, tell=print)
        assert done.points == len(points), done.missed
    books = market.settle()
    assert market.violations == []
    assert books["redeemed_micro"] == books["vouchered_micro"] > 0


def test_init_dies_and_is_run_again(market: World, tmp_path: Path) -> None:
    """It says that there is a home already only if there is one that works."""
    log = tmp_path / "log"
    for point in INIT_POINTS:
        for count in (1, 2, 3):
            home = tmp_path / f"{point}-{count}"
            command = ("init", "--light", "--generate-password")
            probe = {"point": point, "count": count}
            first = market.spawner.start(*command, home=home, err=log, probe=probe)
            died = first.wait(COMMAND_S) == -9
            again = market.spawner.start(*command, home=home, err=log).wait(COMMAND_S)
            assert died or count > 1, "no such point"
            assert again in (ExitCode.OK, ExitCode.CONFIG)
            password = keystore.read_password(home / "password")
            assert len(keystore.unlock(Home(home).keystore, password)) == 32
    assert "Traceback" not in log.read_text()


def test_a_second_process_on_the_same_home(market: World) -> None:
    """The one that stays is named; what a killed one left behind is in nobody's way."""
    client, worker = market.clients[0], market.worker
    with serving(market) as child:
        worker.log.write_text("")
        code, text = ended(worker, market.serve())
        assert code == ExitCode.TRY_AGAIN
        assert f"is in use by `node serve` (process {child.pid})" in text
        assert "hint: " in text
        # Other commands hand their work over; clients of one home wait for each other.
        assert market.redeem().wait(COMMAND_S) == ExitCode.OK
        client.log.write_text("")
        both = [market.submit(client), market.submit(client)]
        assert [each.wait(COMMAND_S) for each in both] == [0, 0], client.log.read_text()
        assert "waiting for `node submit`" in client.log.read_text()
    left_behind(market, market.serve())
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
    market.check(client, worker)
    assert not market.violations


def left_behind(market: World, child: Child) -> None:
    """Its lock file, with its number, and its socket."""
    assert market.ready(child)
    child.kill()
    child.wait(COMMAND_S)
    home = Home(market.worker.home)
    assert json.loads(home.lock.read_text())["pid"] == child.pid
    assert home.socket.exists()
    with pytest.raises(control.NotRunning):
        control.call(home, "status", {}, timeout_s=5.0)
