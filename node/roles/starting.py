"""How many jobs of a client are being begun at once.

To begin a job takes some ten milliseconds: an auction, signatures, saves.  A thousand at once would
all be late, be hedged and given up for that, and so need twice the time; one after the other each
is quick, and those that have begun go on meanwhile.
"""

from typing import Final

import trio

STARTS_MAX: Final = 32
START_S: Final = 5.0
"""From then on a job holds up no other, begun or not: it may wait for who is not there."""


class Starts:
    """The places of a client's jobs that are being begun."""

    def __init__(self) -> None:
        self._places = trio.Semaphore(STARTS_MAX)

    async def take(self, nursery: trio.Nursery) -> "Start":
        """Wait for a place.

        Args:
            nursery: Ends with the job; the place is free again after `START_S` at the latest.
        """
        await self._places.acquire()
        start = Start(self._places)
        nursery.start_soon(start.expire)
        return start


class Start:
    """One place."""

    def __init__(self, places: trio.Semaphore) -> None:
        self._places = places
        self._done = trio.Event()

    def done(self) -> None:
        """The job has begun, or has come to nothing.  Idempotent."""
        if not self._done.is_set():
            self._done.set()
            self._places.release()

    async def expire(self) -> None:
        """Give the place back in time."""
        with trio.move_on_after(START_S):
            await self._done.wait()
        self.done()
