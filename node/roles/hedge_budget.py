"""How many hedges all jobs of a client may make together.

A worker that is late is worth a second award; a hundred that are late at once mean that the machine
or the network is, and a second award for each would make that worse (Dean and Barroso, The Tail at
Scale, 2013: hedge a few per cent).
"""

from typing import Final

SHARE: Final = 0.1
"""Hedges per award."""
SAVED_MAX: Final = 16.0
"""What a client begins with, and can save up: enough for the jobs of a worker that has died."""


class HedgeBudget:
    """Earned by awards, spent by hedges."""

    def __init__(self) -> None:
        self._left = SAVED_MAX

    @property
    def empty(self) -> bool:
        """There is no hedge to be had."""
        return self._left < 1

    def earn(self) -> None:
        """An award has left."""
        self._left = min(self._left + SHARE, SAVED_MAX)

    def spend(self) -> bool:
        """Whether there is a hedge to be had; it is taken."""
        if self.empty:
            return False
        self._left -= 1
        return True
