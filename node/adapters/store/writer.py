"""One thread owns the connection; many writes share one commit, and so one fsync.

Each write runs in a savepoint of its own: one that is refused undoes nothing of the others.  Who
waits for a write hears of it after the commit.  Once a commit or the disk failed nothing is written
any more: what is on the disk is then only known after a restart.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
import trio

from node.adapters.store.watermark import Watermark
from node.roles.stores import StoreFailed

log = structlog.get_logger("store")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BATCH_MAX = 256
"""Writes in one commit."""


@dataclass(slots=True, eq=False)
class _Job:
    work: Work[Any]
    writes: bool
    token: trio.lowlevel.TrioToken
    done: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs work on a connection, in order.  Open it before use, and close it."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        mark: Callable[[sqlite3.Connection], Watermark] | None = None,
    ) -> None:
        """
        Args:
            connect: Makes the connection, in autocommit mode; called in the thread.
            mark: Opens what counts its commits; called in the thread.
        """
        self._connect = connect
        self._open_mark = mark
        self._mark: Watermark | None = None
        self._jobs: deque[_Job] = deque()
        self._arrived = threading.Condition()
        self._closing = False
        self._failed = ""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._opened = threading.Event()
        self._open_error: BaseException | None = None
        self.commits = 0
        """Since opening; the writes share them."""

    async def open(self) -> None:
        """Start the thread and connect.

        Raises:
            Whatever `connect` raises.
        """
        self._thread.start()
        await trio.to_thread.run_sync(self._opened.wait)
        if self._open_error is not None:
            raise self._open_error

    async def close(self) -> None:
        """Finish what was asked for, then close the connection."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; returns when it is on the disk.

        Cancelling does not undo it: from the call on it runs to its end.

        Raises:
            StoreFailed: The disk failed, now or before.
            NodeError: What `work` raised; nothing of it was written.
        """
        result: T = await self._submit(work, writes=True)
        return result

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which writes nothing, after the writes asked for before it.

        Raises:
            StoreFailed: The disk failed.
        """
        result: T = await self._submit(work, writes=False)
        return result

    async def _submit(self, work: Work[Any], *, writes: bool) -> Any:
        # No checkpoint before the job is queued: writes keep the order of their calls.  The queue
        # has no bound of its own, as each task waits for its job: there are no more than tasks.
        job = _Job(work=work, writes=writes, token=trio.lowlevel.current_trio_token())
        with self._arrived:
            if self._closing:
                raise StoreFailed("the store is closed")
            self._jobs.append(job)
            self._arrived.notify()
        with trio.CancelScope(shield=True):  # memory and disk must not disagree
            await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result

    # ------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        try:
            connection = self._connected()
        except BaseException as error:
            self._open_error = error
            self._opened.set()
            return
        self._opened.set()
        try:
            while jobs := self._next():
                self._do(connection, jobs)
                _tell(jobs)
        finally:
            connection.close()
            if self._mark is not None:
                self._mark.close()

    def _connected(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            if self._open_mark is not None:
                self._mark = self._open_mark(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _next(self) -> list[_Job]:
        with self._arrived:
            while not self._jobs and not self._closing:
                self._arrived.wait()
            return [self._jobs.popleft() for _ in range(min(BATCH_MAX, len(self._jobs)))]

    def _do(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        try:
            if self._failed:
                raise StoreFailed(self._failed)
            if any(job.writes for job in jobs):
                connection.execute("BEGIN IMMEDIATE")
                for job in jobs:
                    _attempt(connection, job)
                self._commit(connection)
            else:
                for job in jobs:
                    _attempt(connection, job)
        except BaseException as error:
            self._fail(connection, error)
            for job in jobs:  # each its own: one that is raised in many tasks grows in all of them
                job.error, job.result = self._failure(), None

    def _commit(self, connection: sqlite3.Connection) -> None:
        if self._mark is None:
            connection.execute("COMMIT")
        else:
            count = self._mark.count(connection)
            connection.execute("COMMIT")
            self._mark.note(count)
        self.commits += 1

    def _fail(self, connection: sqlite3.Connection, error: BaseException) -> None:
        if not self._failed:
            self._failed = str(error) or type(error).__name__
            log.error("store failed", reason=self._failed)
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as again:
                log.error("store not rolled back", reason=str(again))

    def _failure(self) -> StoreFailed:
        return StoreFailed(
            f"the store can't be used: {self._failed}",
            hint="free space on the disk, or check it, then start again",
        )


def _attempt(connection: sqlite3.Connection, job: _Job) -> None:
    """Run one job.  What it refuses is its own; an error of the database is everybody's."""
    if not job.writes:
        job.result = _own(job, connection)
        return
    connection.execute("SAVEPOINT job")
    job.result = _own(job, connection)
    if job.error is not None:
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _own(job: _Job, connection: sqlite3.Connection) -> Any:
    try:
        return job.work(connection)
    except sqlite3.Error:
        raise
    except Exception as error:  # handed to whoever waits for this job, not swallowed
        job.error = error
        return None


def _tell(jobs: list[_Job]) -> None:
    """Wake everybody in one go.  Their loop may be gone, if the process is ending."""

    def wake() -> None:
        for job in jobs:
            job.done.set()

    try:
        jobs[0].token.run_sync_soon(wake)
    except trio.RunFinishedError:
        return
