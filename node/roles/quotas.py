"""Token buckets: how much work a peer may ask for, and all peers together."""

from collections import OrderedDict
from dataclasses import dataclass

from node.errors import PeerError
from node.protocol.fields import Address
from node.protocol.signing import checksum

PEERS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Limits of one kind of work."""

    burst: float
    per_s: float
    overrun_max: float
    """Refused work, in the same unit, after which a peer that does not slow down is cut off."""


@dataclass(slots=True)
class _Bucket:
    level: float
    at_s: float
    overrun: float = 0.0


class Quotas:
    """One bucket per peer, and one for all of them together."""

    def __init__(self, peer: Quota, *, total: Quota) -> None:
        self._quota = peer
        self._total_quota = total
        self._total = _Bucket(total.burst, 0.0)
        self._peers: OrderedDict[Address, _Bucket] = OrderedDict()
        self.refused = 0

    def spend(self, peer: Address, cost: float, now_s: float) -> bool:
        """Whether a peer may have this much work done now.

        Args:
            peer: Session key of whoever asks.
            cost: Of the work, in the quota's unit.
            now_s: Monotonic.

        Raises:
            PeerError: It went on asking, far beyond its quota.
        """
        bucket = self._peers.get(peer)
        if bucket is None:
            bucket = self._peers[peer] = _Bucket(self._quota.burst, now_s)
        self._peers.move_to_end(peer)
        if len(self._peers) > PEERS_MAX:
            self._peers.popitem(last=False)
        _fill(bucket, self._quota, now_s)
        _fill(self._total, self._total_quota, now_s)
        if bucket.level < cost:
            bucket.overrun += cost
            self.refused += 1
            if bucket.overrun > self._quota.overrun_max:
                raise PeerError(f"{checksum(peer)} asks for too much")
            return False
        if self._total.level < cost:  # not this peer's fault
            self.refused += 1
            return False
        bucket.level -= cost
        self._total.level -= cost
        return True

    def give_back(self, peer: Address, cost: float) -> None:
        """Work that was spent before turned out to be welcome: it counts no more."""
        bucket = self._peers.get(peer)
        if bucket is not None:
            bucket.level = min(bucket.level + cost, self._quota.burst)
        self._total.level = min(self._total.level + cost, self._total_quota.burst)


def _fill(bucket: _Bucket, quota: Quota, now_s: float) -> None:
    gained = max(now_s - bucket.at_s, 0.0) * quota.per_s
    bucket.at_s = now_s
    bucket.level = min(bucket.level + gained, quota.burst)
    bucket.overrun = max(bucket.overrun - gained, 0.0)
