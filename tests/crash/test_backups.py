"""Homes put back from old copies: refused, with what to do, before anything is signed or sold."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devnet.spawner import Child
from node.errors import ExitCode
from tests.crash.statements import Said
from tests.crash.world import COMMAND_S, Party, World

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]
FILES = ("node.sqlite", "node.sqlite-wal", "node.sqlite-shm")


@contextmanager
def serving(market: World) -> Iterator[Child]:
    child = market.serve()
    assert market.ready(child), market.worker.log.read_text()[-2000:]
    try:
        yield child
    finally:
        child.kill(15)
        code = child.wait(COMMAND_S)
    assert code == 0


def sell(market: World, client: Party) -> None:
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]


@contextmanager
def restored(home: Path, aside: Path, *, whole: bool) -> Iterator[None]:
    """An old copy (in `aside`) stands in the home's place for a while; then the newest again."""
    newest = aside.with_name(f"{aside.name}-newest")
    shutil.copytree(home, newest)
    put_back(aside, home, whole=whole)
    try:
        yield
    finally:
        put_back(newest, home, whole=True)
        shutil.rmtree(newest)
        shutil.rmtree(aside)


def put_back(copy: Path, home: Path, *, whole: bool) -> None:
    if whole:
        shutil.rmtree(home)
        shutil.copytree(copy, home)
        return
    for name in FILES:
        (home / name).unlink(missing_ok=True)
        if (copy / name).exists():
            shutil.copy2(copy / name, home / name)


def ended(party: Party, child: Child) -> tuple[int | None, str]:
    """Its exit code, and what it said since the last call."""
    code = child.wait(COMMAND_S)
    text = party.log.read_text()
    party.log.write_text("")
    assert "Traceback" not in text
    return code, text


def awards(party: Party) -> int:
    """Awards that ever left this home."""
    said = Said()
    return sum(type(frame).__name__ == "AwardFrame" for _, frame in said.read_record(party.record))


@pytest.mark.parametrize("whole", [False, True])
def test_a_client_from_an_old_copy(market: World, tmp_path: Path, whole: bool) -> None:
    """The database alone is told by its watermark; with the whole home the worker tells."""
    client = market.clients[0]
    sell(market, client)
    shutil.copytree(client.home, tmp_path / "old")
    sell(market, client)
    before = awards(client)
    with restored(client.home, tmp_path / "old", whole=whole), serving(market):
        for _ in range(2):
            code, text = ended(client, market.submit(client))
            assert code == ExitCode.CONFIG, text
            assert "old copy" in text or "not the copy that this home used last" in text
            assert "hint: " in text
        assert awards(client) == before
    sell(market, client)
    market.check(client, market.worker)
    assert not market.violations


def test_a_worker_from_an_old_copy(market: World, tmp_path: Path) -> None:
    client, worker = market.clients[0], market.worker
    sell(market, client)
    shutil.copytree(worker.home, tmp_path / "old")
    sell(market, client)
    with restored(worker.home, tmp_path / "old", whole=False):
        worker.log.write_text("")
        for start in (market.serve, market.redeem):
            code, text = ended(worker, start())
            assert code == ExitCode.CONFIG, text
            assert "not the copy that this home used last" in text
            assert "put the newest node.sqlite back" in text
        # What it still has may be turned into money; it never sells again.
        code, text = ended(worker, market.redeem("--old-store"))
        assert code == ExitCode.OK, text
        code, text = ended(worker, market.serve())
        assert code == ExitCode.CONFIG, text
    sell(market, client)
    assert market.redeem().wait(COMMAND_S) == ExitCode.OK
    market.check(client, worker)
    assert not market.violations
