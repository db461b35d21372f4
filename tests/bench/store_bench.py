"""The store on this disk: writes of vouchers and progress, beside SQLite with a commit per write.

One write of ours is what a worker does for a piece of paid output: a signed progress in its segment
and a voucher in its tab.  The other side writes the same two rows, in a table of its own, in one
transaction of the plain `sqlite3` module with the same pragmas: a commit, and a sync, for each.
"""

import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node.adapters.store import open_stores
from node.protocol import signing
from node.protocol.statements import Progress
from node.roles.stores import Stores
from tests.adapters.store import samples
from tests.bench.figures import Figure, Report, median, percentile
from tests.roles.fakes import DOMAIN

TASKS: Final = (1, 8, 64)
PAGE: Final = b"\0" * 4096
ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is run."""

    rounds: int
    round_s: float


QUICK: Final = Plan(rounds=2, round_s=1.0)
FULL: Final = Plan(rounds=5, round_s=3.0)

Write = Callable[[int], Awaitable[None]]


def main(*, quick: bool, json: bool) -> int:
    plan = QUICK if quick else FULL
    report = Report(json, "The store: a voucher and a progress per write, synchronous = FULL")
    # Beside the code: the system's folder for temporary files may be memory.
    with tempfile.TemporaryDirectory(prefix=".bench-store-", dir=ROOT) as folder:
        try:
            trio.run(_run, report, plan, Path(folder))
        except (OSError, sqlite3.Error) as error:
            report.failures.append(str(error))
    return report.end()


async def _run(report: Report, plan: Plan, folder: Path) -> None:
    sync_ms = [1e3 * taken_s for taken_s in _syncs(folder / "sync", 200)]
    report.add(Figure(name="fdatasync of 4 KiB, p50", measured=median(sync_ms), unit="ms"))
    p99 = percentile(sync_ms, 0.99)
    report.add(Figure(name="fdatasync of 4 KiB, p99", measured=p99, unit="ms"))
    async with open_stores(folder / "ours.sqlite", domain=DOMAIN) as stores:
        plain = _Plain(folder / "plain.sqlite")
        writes = await _ours(stores)
        for tasks in TASKS:
            rows = []
            for _ in range(plan.rounds):
                ours = await _measure(writes, tasks, plan.round_s)
                rows.append((ours, plain.measure(plan.round_s)))
            _tell(report, tasks, rows)
        plain.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    per_s: float
    p50_ms: float
    p99_ms: float


def _tell(report: Report, tasks: int, rows: list[tuple[_Round, _Round]]) -> None:
    ours, theirs = (median([row[side].per_s for row in rows]) for side in (0, 1))
    p50_ms = median([row[0].p50_ms for row in rows])
    p99_ms = median([row[0].p99_ms for row in rows])
    name = f"{tasks} tasks" if tasks > 1 else "1 task"
    note = f"plain sqlite3 {theirs:,.0f}/s, p99 {median([row[1].p99_ms for row in rows]):.1f} ms"
    report.add(Figure(name=f"{name}, writes on disk", measured=ours, unit="/s", note=note))
    report.add(
        Figure(
            name=f"{name}, over a commit per write",
            measured=median([row[0].per_s / row[1].per_s for row in rows]),
            unit="x",
            target=1.0 if tasks > 1 else None,
            at_least=True,
        )
    )
    note = f"p50 {p50_ms:.1f} ms"
    report.add(Figure(name=f"{name}, p99 of a write", measured=p99_ms, unit="ms", note=note))


async def _ours(stores: Stores) -> Write:
    """What a worker saves for a piece of output; by task, so that each has a segment of its own."""
    awards = [samples.award(number) for number in range(max(TASKS))]
    digests = [samples.digest_of(award) for award in awards]
    for award, digest in zip(awards, digests, strict=True):
        await stores.worker.begin_segment(
            digest=digest, award=award, terms=samples.terms(), at_ms=1
        )
    # Signed beforehand: the disk is measured, not the curve.
    progress = [signing.sign(_progress(digest), DOMAIN, samples.KEY) for digest in digests]
    row = samples.payee_row(1_000)

    async def write(task: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stores.worker.save_progress, progress[task])
            await stores.payee.save_voucher(row, segments=(), advances={})

    return write


def _progress(award: bytes) -> Progress:
    return Progress(
        award=award,
        tokens_in=16,
        tokens_cached=0,
        tokens_out=1,
        amount=1,
        chain=bytes(32),
        at_ms=1,
    )


async def _measure(write: Write, tasks: int, seconds: float) -> _Round:
    taken_s: list[float] = []
    began_s = time.perf_counter()

    async def work(task: int) -> None:
        while time.perf_counter() - began_s < seconds:
            started_s = time.perf_counter()
            await write(task)
            taken_s.append(time.perf_counter() - started_s)

    async with trio.open_nursery() as nursery:
        for task in range(tasks):
            nursery.start_soon(work, task)
    return _round(taken_s, time.perf_counter() - began_s)


def _round(taken_s: list[float], seconds: float) -> _Round:
    return _Round(
        per_s=len(taken_s) / seconds,
        p50_ms=1e3 * median(taken_s),
        p99_ms=1e3 * percentile(taken_s, 0.99),
    )


class _Plain:
    """The `sqlite3` module as most programs use it."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE rows (id INTEGER PRIMARY KEY, amount INTEGER, content BLOB)"
        )
        self._connection.execute("INSERT INTO rows VALUES (1, 0, ''), (2, 0, '')")

    def measure(self, seconds: float) -> _Round:
        taken_s: list[float] = []
        began_s = time.perf_counter()
        content = os.urandom(300)
        while time.perf_counter() - began_s < seconds:
            started_s = time.perf_counter()
            self._connection.execute("BEGIN IMMEDIATE")
            for row in (1, 2):
                self._connection.execute(
                    "UPDATE rows SET amount = amount + 1, content = ? WHERE id = ?", (content, row)
                )
            self._connection.execute("COMMIT")
            taken_s.append(time.perf_counter() - started_s)
        return _round(taken_s, time.perf_counter() - began_s)

    def close(self) -> None:
        self._connection.close()


def _syncs(path: Path, count: int) -> list[float]:
    taken_s = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range(count):
            os.write(descriptor, PAGE)
            started_s = time.perf_counter()
            os.fdatasync(descriptor)
            taken_s.append(time.perf_counter() - started_s)
    finally:
        os.close(descriptor)
    return taken_s
