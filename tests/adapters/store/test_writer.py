"""The writer thread: order, shared commits, failures; on a real disk, full or gone."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from node.adapters.store import open_stores, open_stores_read_only
from node.adapters.store.schema import VERSION
from node.adapters.store.writer import Writer
from node.errors import ConfigError
from node.protocol.signing import Domain
from node.roles.stores import StoreFailed
from tests.adapters.store.samples import PAYER_TAB, TAB_ID, draft, reservation
from tests.roles.fakes import DOMAIN

CRASHER = Path(__file__).with_name("crasher.py")
ROOT = Path(__file__).resolve().parents[3]


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (x INTEGER PRIMARY KEY)")
    return connection


def insert(x: int, connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO t VALUES (?)", (x,))
    return x


def all_of(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


async def test_many_writes_share_a_commit(tmp_path: Path) -> None:
    writer = Writer(partial(connect, tmp_path / "db"))
    await writer.open()
    got: list[int] = []

    async def write(x: int) -> None:
        got.append(await writer.write(partial(insert, x)))

    async with trio.open_nursery() as nursery:
        for x in range(500):
            nursery.start_soon(write, x)
    assert sorted(got) == list(range(500))
    assert writer.commits < 50
    await writer.close()


async def test_writes_keep_the_order_of_their_calls(tmp_path: Path) -> None:
    """A ledger's rows overwrite each other: the last step's must be written last."""
    writer = Writer(partial(connect, tmp_path / "db"))
    await writer.open()
    seen: list[int] = []
    called: list[int] = []

    async def write(x: int) -> None:
        called.append(x)
        await writer.write(lambda _: seen.append(x))

    async with trio.open_nursery() as nursery:
        for x in range(200):
            nursery.start_soon(write, x)
    assert seen == called
    await writer.close()


async def test_cancelling_does_not_tear_a_write(tmp_path: Path) -> None:
    writer = Writer(partial(connect, tmp_path / "db"))
    await writer.open()
    with trio.CancelScope() as scope:
        scope.cancel()
        await writer.write(partial(insert, 1))
    assert await writer.read(all_of) == [1]
    await writer.close()


async def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    writer = Writer(partial(connect, tmp_path / "db"))
    await writer.open()
    await writer.close()
    with pytest.raises(StoreFailed):
        await writer.write(partial(insert, 1))


async def test_a_bug_in_one_write_is_its_callers(tmp_path: Path) -> None:
    writer = Writer(partial(connect, tmp_path / "db"))
    await writer.open()

    def broken(connection: sqlite3.Connection) -> None:
        insert(7, connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.write(broken)
    await writer.write(partial(insert, 1))
    assert await writer.read(all_of) == [1]
    await writer.close()


async def test_a_full_disk_stops_everything(tmp_path: Path) -> None:
    """SQLite's own page limit gives the same SQLITE_FULL as a disk without space."""

    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("CREATE TABLE IF NOT EXISTS blobs (b BLOB)")
        connection.execute("PRAGMA max_page_count = 8")
        return connection

    def fill(size: int, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO blobs VALUES (zeroblob(?))", (size,))

    writer = Writer(partial(small, tmp_path / "db"))
    await writer.open()
    outcomes: list[str] = []

    async def write(x: int, size: int) -> None:
        try:
            await writer.write(partial(insert, x) if not size else partial(fill, size))
            outcomes.append("saved")
        except StoreFailed:
            outcomes.append("failed")

    await writer.write(partial(insert, 1))
    async with trio.open_nursery() as nursery:
        for x in range(2, 12):
            nursery.start_soon(write, x, 100_000 if x == 6 else 0)
    with pytest.raises(StoreFailed, match="full"):
        await writer.write(partial(insert, 99))  # there would be room for it
    with pytest.raises(StoreFailed) as one:
        await writer.read(all_of)
    with pytest.raises(StoreFailed) as other:
        await writer.read(all_of)
    assert one.value is not other.value  # tracebacks do not pile up on one
    await writer.close()
    kept = all_of(connect(tmp_path / "db"))
    assert len(kept) == 1 + outcomes.count("saved")  # who was told "saved" is there; nobody else


def test_an_io_error_stops_everything(tmp_path: Path) -> None:
    """A file-size limit makes the kernel refuse a write in the middle, with a real errno."""
    path = tmp_path / "node.sqlite"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    run = subprocess.run(
        [sys.executable, str(CRASHER), str(path), "100000"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
        check=False,
    )
    lines = run.stdout.split()
    assert lines[-1] == "failed", (run.stdout[-200:], run.stderr[-500:])
    assert "disk I/O error" in run.stderr or "full" in run.stderr
    told = [int(line) for line in lines[:-1]]
    assert len(told) > 10
    assert trio.run(saved_in, path) == told[-1]


async def saved_in(path: Path) -> int:
    async with open_stores(path, domain=DOMAIN) as stores:
        rows = await stores.payer.load()
        frames = await stores.payer.vouchers_after(TAB_ID, cumulative_micro=0, count_max=10**6)
    cumulative = rows.tabs[0].cumulative_micro if rows.tabs else 0
    assert [frame.voucher.statement.cumulative for frame in frames] == list(
        range(1, cumulative + 1)
    )
    return cumulative


@pytest.mark.parametrize("after", [1, 7, 40])
def test_what_was_said_to_be_saved_survives_kill_9(tmp_path: Path, after: int) -> None:
    path = tmp_path / "node.sqlite"
    process = subprocess.Popen(
        [sys.executable, str(CRASHER), str(path), "1000000"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = 0
    for line in process.stdout:
        told = int(line)
        if told >= after:
            break
    process.kill()
    rest = process.stdout.read().split()
    process.wait()
    told = int(rest[-1]) if rest and rest[-1].isdigit() else told
    # One more may have been saved whose saving nobody heard of; none may be missing.
    assert told <= trio.run(saved_in, path) <= told + 1


async def test_a_second_process_cannot_sign_from_the_same_home(tmp_path: Path) -> None:
    """The process lock is the app's; should it fail, the keys still hold."""
    path = tmp_path / "node.sqlite"
    async with (
        open_stores(path, domain=DOMAIN) as one,
        open_stores(path, domain=DOMAIN) as two,
    ):
        await one.payer.reserve(reservation(1), PAYER_TAB)
        await one.payer.save_vouchers([draft(PAYER_TAB, 1, 5)])
        with pytest.raises(Exception, match="another voucher"):
            await two.payer.save_vouchers([draft(PAYER_TAB, 1, 6)])


async def test_others_may_read_beside_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    with pytest.raises(ConfigError, match="no store yet"):
        async with open_stores_read_only(path):
            pass
    async with open_stores(path, domain=DOMAIN) as owner:
        await owner.payer.reserve(reservation(1), PAYER_TAB)
        async with open_stores_read_only(path) as reader:
            assert len((await reader.payer.load()).reservations) == 1
            await owner.payer.reserve(reservation(2), PAYER_TAB)
            assert len((await reader.payer.load()).reservations) == 2
            with pytest.raises(StoreFailed, match="readonly"):
                await reader.payer.reserve(reservation(3), PAYER_TAB)
        await owner.payer.reserve(reservation(3), PAYER_TAB)
    async with open_stores_read_only(path) as reader:  # and when there is no owner
        assert len((await reader.payer.load()).reservations) == 3


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


async def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_stores(tmp_path / "node.sqlite", domain=DOMAIN) as stores:
            await stores.worker.next_serials(1)
            modes = modes_in(tmp_path)
    finally:
        os.umask(before)
    assert len(modes) == 4  # with the log, the shared index and the watermark
    assert set(modes.values()) == {0o600}


async def test_a_home_belongs_to_one_chain_and_escrow(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with open_stores(path, domain=DOMAIN):
        pass
    for other in (Domain(DOMAIN.chain_id + 1, DOMAIN.escrow), Domain(DOMAIN.chain_id, b"x" * 20)):
        with pytest.raises(ConfigError, match="belongs to chain 31337"):
            async with open_stores(path, domain=other):
                pass
    async with open_stores(path, domain=DOMAIN):
        pass


async def test_files_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    connection = sqlite3.connect(newer)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.commit()
    foreign = tmp_path / "foreign"
    connection = sqlite3.connect(foreign)
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a database, and long enough to be looked at" * 100)
    for path, message in ((newer, "newer"), (foreign, "not a file of this")):
        with pytest.raises(ConfigError, match=message):
            async with open_stores(path, domain=DOMAIN):
                pass
        with pytest.raises(ConfigError, match=message):
            async with open_stores_read_only(path):
                pass
    with pytest.raises(StoreFailed, match="not a database"):
        async with open_stores(garbage, domain=DOMAIN):
            pass
    assert garbage.read_bytes().startswith(b"not a database")
