"""Homes put back from old copies: refused, with what to do, before anything is signed or sold."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.errors import ExitCode
from tests.crash.statements import Said
from tests.crash.steps import ended, serving
from tests.crash.world import COMMAND_S, Party, World
from tests.crash.world import world as bring_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]
FILES = ("node.sqlite", "node.sqlite-wal", "node.sqlite-shm")


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


def put_back(copy: Path, home: Path, *, whole: bool) -> None:
    if whole:
        shutil.rmtree(home)
        shutil.copytree(copy, home)
        return
    for name in FILES:
        (home / name).unlink(missing_ok=True)
        if (copy / name).exists():
            shutil.copy2(copy / name, home / name)


def awards(party: Party) -> int:
    """Awards that ever left this home."""
    said = Said()
    return sum(type(frame).__name__ == "AwardFrame" for _, frame in said.read_record(party.record))


def test_a_client_from_an_old_copy(market: World, tmp_path: Path) -> None:
    """The database alone is told by its watermark; with the whole home the worker tells."""
    client, old = market.newcomer(), tmp_path / "old"
    with serving(market):
        assert market.job(client), client.log.read_text()[-2000:]
        shutil.copytree(client.home, old)
        assert market.job(client)
        before = awards(client)
        for whole in (False, True):
            client.log.write_text("")
            with restored(client.home, old, whole=whole):
                code, text = ended(client, market.submit(client))
            assert code == ExitCode.CONFIG, text
            said = "restored from an old copy" if whole else "not the copy that this home used last"
            assert f"{said}" in text.splitlines()[-2]
            assert "hint: put the newest" in text
            assert awards(client) == before
        assert market.job(client), client.log.read_text()[-2000:]
    market.check(client, market.worker)
    assert not market.violations


@pytest.fixture
def market_of_its_own(tmp_path: Path) -> Iterator[World]:
    """What is sent from an old copy is not in the newest copy's journal: nobody else's market."""
    with bring_up(tmp_path / "market", clients=1, seed=2) as running:
        yield running


def test_a_worker_from_an_old_copy(market_of_its_own: World, tmp_path: Path) -> None:
    market = market_of_its_own
    client, worker, old = market.newcomer(), market.worker, tmp_path / "old"
    sell(market, client)
    shutil.copytree(worker.home, old)
    sell(market, client)
    with restored(worker.home, old, whole=False):
        worker.log.write_text("")
        for start in (market.serve, market.redeem):
            code, text = ended(worker, start())
            assert code == ExitCode.CONFIG, text
            assert "not the copy that this home used last" in text
            assert "hint: put the newest node.sqlite back" in text
        # What it still has may be turned into money; it never sells again.
        code, text = ended(worker, market.redeem("--old-store"))
        assert code == ExitCode.OK, text
        code, text = ended(worker, market.serve())
        assert code == ExitCode.CONFIG, text
    assert market.redeem().wait(COMMAND_S) == ExitCode.OK
    market.check(client, worker)
    assert not market.violations
