"""Homes on a disk that runs full."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from devnet.spawner import Child
from node.errors import ExitCode
from tests.crash.steps import ended, serving
from tests.crash.world import COMMAND_S, Party, World

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
        shutil.rmtree(there)
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


def full_in_jobs(
    market: World, client: Party, disk: Path, *, pages: Sequence[int]
) -> list[int | None]:
    """A client whose disk has so many pages left, each time; returns its exit codes."""
    codes = []
    with living_on(disk, client), serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
        for left in pages:
            client.log.write_text("")
            with nearly_full(disk, left * PAGE):
                code, text = ended(client, market.submit(client))
            codes.append(code)
            assert code == ExitCode.OK or "error: " in text, (left, code)
            sound(market, client, market.worker)
            if "UNPAID" in text:
                break  # it died too often: the worker sells it nothing for an hour
        if "UNPAID" not in text:
            assert market.job(client), client.log.read_text()[-2000:]
        sound(market, client, market.worker)
    return codes


def full_in_sales(market: World, client: Party, disk: Path, *, pages: Sequence[int]) -> None:
    """A worker whose disk has so many pages left, each time: it ends, and goes on after."""
    worker = market.worker
    with living_on(disk, worker):
        for left in pages:
            worker.log.write_text("")
            with nearly_full(disk, left * PAGE):
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
