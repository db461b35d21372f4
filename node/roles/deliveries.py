"""When workers last delivered anything, over all jobs of a client.

A worker that is silent in one stream and delivers in others is there, and busy: to take the job
away gives it to workers that are busy as well, with a prompt to be read again.
"""

from collections import OrderedDict
from typing import Final

from node.protocol.fields import Address
from node.protocol.patience import GAP_S_MIN

WORKERS_MAX: Final = 1024
JUST_NOW_S: Final = GAP_S_MIN
"""No stream is given up sooner: where all of a worker's stop at once, none excuses another."""


class Deliveries:
    """The latest of each worker."""

    def __init__(self) -> None:
        self._at_s: OrderedDict[Address, float] = OrderedDict()

    def note(self, worker: Address, now_s: float) -> None:
        """Output was accepted."""
        self._at_s[worker] = now_s
        self._at_s.move_to_end(worker)
        if len(self._at_s) > WORKERS_MAX:
            self._at_s.popitem(last=False)

    def just_now(self, worker: Address, now_s: float) -> bool:
        """Whether a worker has delivered in the last `JUST_NOW_S`."""
        at_s = self._at_s.get(worker)
        return at_s is not None and now_s - at_s < JUST_NOW_S
