"""A node's disk: the real tables, a database that a crash leaves as the last commit left it.

The batches are `adapters.store.writer`'s own; only its thread is a task here, and what the disk
takes in time is virtual.
"""

import random
import sqlite3
from collections.abc import Callable
from typing import Any

import trio

from node.adapters.store.chain import SqliteTransactionJournal
from node.adapters.store.client import SqliteClientStore, SqliteMarketStore
from node.adapters.store.keys import SqliteKeyStore
from node.adapters.store.payee import SqlitePayeeStore
from node.adapters.store.payer import SqlitePayerStore
from node.adapters.store.schema import migrate
from node.adapters.store.worker import SqliteWorkerStore
from node.adapters.store.writer import BATCH_MAX, Work, Writer, _Job
from node.roles.stores import StoreFailed, Stores


class Disk:
    """What outlives a process."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.deserialize(_empty())
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.full = False
        self.slow_s = 0.0
        """Added to what each commit takes."""


def _empty() -> bytes:
    if not _EMPTY:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        migrate(connection)
        _EMPTY.append(connection.serialize())
        connection.close()
    return _EMPTY[0]


_EMPTY: list[bytes] = []


class DiskWriter(Writer):
    """`adapters.store.writer.Writer` for one life of a process."""

    def __init__(
        self,
        disk: Disk,
        *,
        rng: random.Random,
        boundary: Callable[[str], None],
        committed: Callable[[list[str]], None],
    ) -> None:
        """
        Args:
            disk: Where to.
            rng: How long each commit takes.
            boundary: Told before and after a commit; may end this life.
            committed: Told what was written, at once.
        """
        super().__init__(lambda: disk.connection)
        self._disk = disk
        self._rng = rng
        self._boundary = boundary
        self._committed = committed
        self._asked = trio.Event()
        self._dead = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until cancelled."""
        task_status.started()
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._jobs:
                await self._round()

    def die(self) -> None:
        """The process is gone: what was not committed never will be."""
        self._dead = True
        self._release(list(self._jobs))
        self._jobs.clear()

    async def _submit(self, work: Work[Any], *, writes: bool) -> Any:
        if self._dead:
            raise StoreFailed("this process is dead")
        job = _Job(work=work, writes=writes, token=trio.lowlevel.current_trio_token())
        self._jobs.append(job)
        self._asked.set()
        with trio.CancelScope(shield=True):
            await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result

    async def _round(self) -> None:
        if any(job.writes for job in self._jobs):
            await trio.sleep(self._rng.uniform(0.0005, 0.004) + self._disk.slow_s)
        else:
            await trio.lowlevel.checkpoint()
        if self._dead:
            return
        jobs = [self._jobs.popleft() for _ in range(min(BATCH_MAX, len(self._jobs)))]
        kinds = [kind_of(job) for job in jobs if job.writes]
        if kinds:
            self._boundary("before commit")
        if self._dead:
            self._release(jobs)
            return
        self._do(self._disk.connection, jobs)
        if kinds and not self._failed:
            self._committed(
                [
                    k
                    for k, job in zip(kinds, (j for j in jobs if j.writes), strict=True)
                    if job.error is None
                ]
            )
            self._boundary("after commit")
        if self._dead:
            self._release(jobs)
            return
        for job in jobs:
            job.done.set()

    def _do(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        if self._disk.full and any(job.writes for job in jobs):
            self._fail(connection, sqlite3.OperationalError("database or disk is full"))
        super()._do(connection, jobs)

    def _release(self, jobs: list[_Job]) -> None:
        for job in jobs:
            job.error = job.error or StoreFailed("this process is dead")
            job.done.set()

    def stores(self) -> Stores:
        """The ports on this writer."""
        return Stores(
            payer=SqlitePayerStore(self),
            payee=SqlitePayeeStore(self),
            worker=SqliteWorkerStore(self),
            client=SqliteClientStore(self),
            market=SqliteMarketStore(self),
            chain=SqliteTransactionJournal(self),
            keys=SqliteKeyStore(self),
        )


def kind_of(job: _Job) -> str:
    """The store's method that a write is of."""
    names = job.work.__qualname__.split(".")
    return names[1] if len(names) > 1 else names[0]
