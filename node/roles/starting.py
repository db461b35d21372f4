"""How many jobs of a client are being begun at once.

To begin a job takes some ten milliseconds: an auction, signatures, saves.  A thousand at once would
all be late, be hedged and given up for that, and so need twice the time; one after the other each
is quick, and those that have begun go on meanwhile.
"""

from collections.abc import Callable
from typing import Final

import trio

from node.protocol.fields import Hash

STARTS_MAX: Final = 32
START_S: Final = 5.0
"""From then on a job holds up no other, begun or not: it may wait for who is not there."""


class Starts:
    """The places of a client's jobs that are being begun, by model: one that nobody sells now
    holds up no other."""

    def __init__(self) -> None:
        self._places: dict[Hash, trio.Semaphore] = {}

    async def take(self, model: Hash, nursery: trio.Nursery) -> "Start":
        """Wait for a place.

        Args:
            model: Which is wanted.
            nursery: Ends with the job; the place is free again after `START_S` at the latest.
        """
        places = self._places.setdefault(model, trio.Semaphore(STARTS_MAX))
        try:
            await places.acquire()
        except trio.Cancelled:
            self._forget(model)
            raise
        start = Start(places, lambda: self._forget(model))
        nursery.start_soon(start.expire)
        return start

    def _forget(self, model: Hash) -> None:
        places = self._places.get(model)
        if places and places.value == STARTS_MAX and not places.statistics().tasks_waiting:
            del self._places[model]


class Start:
    """One place."""

    def __init__(self, places: trio.Semaphore, on_done: Callable[[], None]) -> None:
        self._places = places
        self._on_done = on_done
        self._done = trio.Event()

    def done(self) -> None:
        """The job has begun, or has come to nothing.  Idempotent."""
        if not self._done.is_set():
            self._done.set()
            self._places.release()
            self._on_done()

    async def expire(self) -> None:
        """Give the place back in time."""
        try:
            with trio.move_on_after(START_S):
                await self._done.wait()
        finally:
            self.done()
