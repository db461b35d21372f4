"""A disk that is full, or takes nothing more: signing stops, nothing unsaved leaves, it goes on.

The kernel itself refuses the writes: by a limit on the length of files (SQLite calls that an I/O
error), and on a real file system without space where the test may mount one.
"""

from pathlib import Path

import pytest

from node.errors import ExitCode
from tests.crash.disks import (
    PAGE,
    failed,
    full_in_jobs,
    full_in_sales,
    nearly_full,
    small_disk,
    sound,
)
from tests.crash.steps import serving
from tests.crash.world import COMMAND_S, World

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]


def test_a_worker_whose_disk_takes_no_more(market: World) -> None:
    client, worker = market.newcomer(), market.worker
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
    worker.log.write_text("")
    child = market.serve(file_bytes_max=14 * PAGE)
    assert market.ready(child), worker.log.read_text()[-2000:]
    while child.running:
        market.submit(client).wait(COMMAND_S)
    error = failed(worker, child)
    assert "the store can't be used: disk I/O error" in error
    sound(market, worker, client)
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
    sound(market, worker, client)


def test_a_client_whose_disk_takes_no_more(market: World) -> None:
    client = market.newcomer()
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
        client.log.write_text("")
        error = failed(client, market.submit(client, file_bytes_max=28 * PAGE))
        assert "the store can't be" in error
        sound(market, client, market.worker)
        assert market.job(client), client.log.read_text()[-2000:]
    sound(market, client, market.worker)


def test_a_redeemer_whose_disk_takes_no_more(market: World) -> None:
    client, worker = market.clients[0], market.worker
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
    worker.log.write_text("")
    sent = market.transactions()
    error = failed(worker, market.redeem(file_bytes_max=2 * PAGE))
    assert "the store can't be" in error
    assert market.transactions() == sent, "sent without being in the journal"
    assert market.redeem().wait(COMMAND_S) == ExitCode.OK
    assert market.transactions() > sent
    sound(market, worker, client)


def test_a_full_disk_in_a_job(market: World, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        codes = full_in_jobs(market, market.newcomer(), disk, pages=(2, 12))
    assert set(codes) - {ExitCode.OK}


def test_a_full_disk_in_a_sale(market: World, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        full_in_sales(market, market.newcomer(), disk, pages=(8,))


def test_a_home_that_finds_no_place(market: World, tmp_path: Path) -> None:
    """`node init` leaves nothing behind that a second attempt would stumble over."""
    log = tmp_path / "log"
    with small_disk(tmp_path / "disk") as disk:
        home = disk / "home"
        command = ("init", "--light", "--generate-password")
        for left_pages in range(6):
            with nearly_full(disk, left_pages * PAGE):
                child = market.spawner.start(*command, home=home, err=log)
                code = child.wait(COMMAND_S)
            assert "Traceback" not in log.read_text(), left_pages
            if code == ExitCode.OK:
                break
            assert code == ExitCode.CONFIG
        else:
            assert market.spawner.start(*command, home=home, err=log).wait(COMMAND_S) == 0
        shown = market.spawner.start("wallet", "show", home=home, err=log)
        assert shown.wait(COMMAND_S) is not None
        assert "keystore" not in log.read_text().splitlines()[-1]
