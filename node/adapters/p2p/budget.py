"""A peer's allowance of work: it refills with time, and each frame costs what it makes us do."""

from dataclasses import dataclass

from node.protocol.frames import Announcements as AnnouncementsFrame
from node.protocol.frames import (
    AnnouncementsWanted,
    AskFrame,
    AwardFrame,
    Bid,
    CutoffFrame,
    FileWanted,
    Frame,
    LockFrame,
    LockReleaseFrame,
    Offer,
    OffersWanted,
    Resume,
    VoucherFrame,
)

UNITS_PER_S = 20_000.0
"""One unit is about 10 µs of CPU: a peer may use a fifth of a core, and 20,000 chunks a second."""
UNITS_BURST = 40_000.0

_UNITS: dict[type[Frame], int] = {
    AskFrame: 20,
    AwardFrame: 50,
    Bid: 20,
    CutoffFrame: 20,
    FileWanted: 20,
    LockFrame: 50,
    LockReleaseFrame: 50,
    Offer: 20,
    OffersWanted: 20,
    VoucherFrame: 50,
    AnnouncementsWanted: 100,
}
_BYTES_PER_UNIT = 2_048


def cost(frame: Frame, size: int) -> int:
    """Units that a frame of `size` bytes takes from its sender's allowance."""
    each = 1 + size // _BYTES_PER_UNIT
    if isinstance(frame, AnnouncementsFrame):
        return each + 20 * len(frame.items)
    if isinstance(frame, Resume):
        return each + 20 * len(frame.vouchers)
    return each + _UNITS.get(type(frame), 0)


@dataclass(slots=True, kw_only=True)
class Bucket:
    """A token bucket; the caller brings the time."""

    units_per_s: float
    units_max: float
    at_s: float
    units: float

    def take(self, units: float, now_s: float) -> float:
        """Take `units`; the seconds to wait until the allowance is out of debt."""
        self.units = min(self.units_max, self.units + (now_s - self.at_s) * self.units_per_s)
        self.at_s = now_s
        self.units -= units
        return max(0.0, -self.units / self.units_per_s)
