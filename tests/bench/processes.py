"""Processes of a bench: forked from one that has imported everything, ended with their starter.

Twenty workers that each import a network stack would take a minute of this bench.  What a process
does after that is its own: key, store, host, loop.
"""

import multiprocessing
import os
import select
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import trio

PRELOAD: Final = ["tests.bench.seller", "tests.bench.stages"]
RESULT_S: Final = 180.0
END_S: Final = 5.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


class StageFailed(Exception):
    """A process of the bench ended without a result."""


class Child:
    """A process that runs an async function and sends back what it tells."""

    def __init__(self, main: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Start it.

        Args:
            main: Called with the arguments and a function that sends a value to this process.
        """
        self._results, theirs = _context.Pipe(duplex=False)
        self._process = _context.Process(
            target=_run, args=(main, arguments, theirs, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def result(self) -> Any:
        """The next value that it sends.

        Raises:
            StageFailed: It ended, or sent nothing for too long.
        """
        try:
            if self._results.poll(RESULT_S):
                return self._results.recv()
        except EOFError:
            self._process.join(END_S)
            raise StageFailed(f"a process ended with {self._process.exitcode}") from None
        raise StageFailed("a process said nothing for too long")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        """Kill it; nothing that matters is left in it."""
        self._process.kill()
        self._process.join(END_S)


def stage(main: Callable[..., Awaitable[None]], *arguments: Any) -> Any:
    """Run an async function in a process of its own; its first value."""
    child = Child(main, *arguments)
    try:
        return child.result()
    finally:
        child.end()


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, its threads that have ended included; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _run(
    main: Callable[..., Awaitable[None]],
    arguments: Sequence[Any],
    results: Connection,
    starter: int,
) -> None:
    threading.Thread(target=_end_with_starter, args=(starter,), daemon=True).start()
    trio.run(partial(main, *arguments, results.send))


def _end_with_starter(starter: int) -> None:
    """`kill -9` of the bench must leave nothing: the fork server is no parent to wait for."""
    descriptor = os.pidfd_open(starter)
    select.select([descriptor], [], [])
    os._exit(1)
