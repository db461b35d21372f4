"""Output that payers had, and took back by a cutoff without paying for it.

A little is on its way at every honest cutoff.  Who cuts off at the start whatever was delivered
gets answers for nothing, each within the quantum: so what a payer may disown is bounded over all
its jobs together, by one quantum, that grows again with time and with what it pays.
"""

from collections import OrderedDict
from dataclasses import dataclass

from node.protocol.fields import Address

PAYERS_MAX = 4096
REGROWN_S = 3600.0
"""Time in which the whole allowance comes back."""
PAID_SHARE = 16
"""One part in so many of what a payer pays adds to its allowance."""


@dataclass(slots=True)
class _Account:
    left_micro: float
    at_s: float


class Disowned:
    """What each payer may still take back, in memory only: a restart forgives."""

    def __init__(self, *, allowance_micro: int) -> None:
        """
        Args:
            allowance_micro: What a payer may disown at once.
        """
        self._allowance_micro = float(allowance_micro)
        self._payers: OrderedDict[Address, _Account] = OrderedDict()

    def note(self, payer: Address, *, disowned_micro: int, paid_micro: int, now_s: float) -> None:
        """A segment of this payer has ended.

        Args:
            payer: Whose deposit pays.
            disowned_micro: What was delivered beyond the cutoff and not paid.
            paid_micro: What was paid for the segment.
            now_s: Monotonic.
        """
        account = self._regrown(payer, now_s)
        left_micro = min(account.left_micro + paid_micro / PAID_SHARE, self._allowance_micro)
        account.left_micro = left_micro - disowned_micro
        if account.left_micro == self._allowance_micro:
            del self._payers[payer]
        while len(self._payers) > PAYERS_MAX:
            self._payers.popitem(last=False)

    def exceeded(self, payer: Address, now_s: float) -> bool:
        """Whether this payer disowned more than it may."""
        return payer in self._payers and self._regrown(payer, now_s).left_micro < 0

    def _regrown(self, payer: Address, now_s: float) -> _Account:
        account = self._payers.get(payer)
        if account is None:
            account = self._payers[payer] = _Account(self._allowance_micro, now_s)
        self._payers.move_to_end(payer)
        regrown = (now_s - account.at_s) / REGROWN_S * self._allowance_micro
        account.left_micro = min(account.left_micro + regrown, self._allowance_micro)
        account.at_s = now_s
        return account
