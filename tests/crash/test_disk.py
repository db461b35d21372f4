"""A disk that is full, or takes nothing more: signing stops, nothing unsaved leaves, it goes on.

The kernel itself refuses the writes: by a limit on the length of files (SQLite calls that an I/O
error), and on a real file system without space where the test may mount one.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from devnet.spawner import Child
from node.errors import ExitCode
from tests.crash.test_backups import ended, serving
from tests.crash.world import COMMAND_S, Party, World

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]
TMPFS_BYTES = 8 * 2**20
PAGE = 4096


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own; skips the test where none may be mounted."""
    folder.mkdir()
    size = f"size={TMPFS_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def living_on(disk: Path, party: Party) -> Iterator[None]:
    """Its home lies on another disk for a while."""
    usual, there = party.identity, disk / party.home.name
    shutil.copytree(usual.home, there, ignore=shutil.ignore_patterns("*.sock"))
    party.identity = replace(usual, home=there)
    try:
        yield
    finally:
        shutil.rmtree(usual.home)
        shutil.copytree(there, usual.home, ignore=shutil.ignore_patterns("*.sock"))
        party.identity = usual


@contextmanager
def nearly_full(disk: Path, left_bytes: int) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - left_bytes)))
    try:
        yield
    finally:
        filler.unlink()


def sound(market: World, *parties: Party) -> None:
    market.check(*parties)
    assert not market.violations


def failed(party: Party, child: Child) -> str:
    """It ended by itself, with one clear line and what to do."""
    code, text = ended(party, child)
    assert code in (ExitCode.FAILED, ExitCode.CONFIG, ExitCode.WALLET), text
    (error,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return error


def test_a_worker_whose_disk_takes_no_more(market: World) -> None:
    client, worker = market.newcomer(), market.worker
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
    worker.log.write_text("")
    child = market.serve(file_bytes_max=30 * PAGE)
    assert market.ready(child), worker.log.read_text()[-2000:]
    while child.running:
        market.submit(client).wait(COMMAND_S)
    error = failed(worker, child)
    assert "the store can't be used: disk I/O error" in error
    sound(market, worker, client)
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
    sound(market, worker, client)


@pytest.mark.parametrize("pages", [6, 28])
def test_a_client_whose_disk_takes_no_more(market: World, pages: int) -> None:
    client = market.newcomer()
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
        client.log.write_text("")
        error = failed(client, market.submit(client, file_bytes_max=pages * PAGE))
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


def test_a_full_disk_at_each_step_of_a_job(market: World, tmp_path: Path) -> None:
    client = market.clients[1]
    codes = set()
    with (
        small_disk(tmp_path / "disk") as disk,
        living_on(disk, client),
        serving(market),
    ):
        assert market.job(client), client.log.read_text()[-2000:]
        client.log.write_text("")
        for left_pages in (0, 2, 12, 36):
            with nearly_full(disk, left_pages * PAGE):
                code, text = ended(client, market.submit(client))
            codes.add(code)
            assert code == ExitCode.OK or "error: " in text, (left_pages, code)
            sound(market, client)
        assert market.job(client), client.log.read_text()[-2000:]
        sound(market, client, market.worker)
    assert len(codes - {ExitCode.OK}) >= 1


def test_a_full_disk_at_each_step_of_a_sale(market: World, tmp_path: Path) -> None:
    client, worker = market.newcomer(), market.worker
    with small_disk(tmp_path / "disk") as disk, living_on(disk, worker):
        for left_pages in (0, 8, 40):
            worker.log.write_text("")
            with nearly_full(disk, left_pages * PAGE):
                child = market.serve()
                if market.ready(child):
                    while child.running:
                        market.submit(client).wait(COMMAND_S)
                failed(worker, child)
            sound(market, worker, client)
        with serving(market):
            assert market.job(client), client.log.read_text()[-2000:]
        assert market.redeem().wait(COMMAND_S) == ExitCode.OK
    sound(market, client, worker)


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
