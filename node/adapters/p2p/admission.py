"""Who may hold an inbound connection: limits on handshakes and on peers of one network address."""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field

import trio

PENDING_MAX = 256
PENDING_PER_IP_MAX = 64
HANDSHAKE_S = 5.0
CONNECTIONS_PER_IP_MAX = 64
"""Public addresses only: behind a loopback or private one there may be any number of peers."""


@dataclass(eq=False, slots=True, kw_only=True)
class Handshake:
    """An inbound connection that has not proven a key yet; `scope` ends it."""

    ip: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass(slots=True, kw_only=True)
class Admission:
    """Counts inbound connections.  An unfinished handshake makes way for a newer one.

    A flood of half-open handshakes therefore never shuts out an honest peer, who needs a slot for a
    few milliseconds, as a refusal of newcomers would.
    """

    connections_max: int
    _pending: list[Handshake] = field(default_factory=list)
    _by_ip: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def begin(self, ip: str) -> Handshake | None:
        """A slot for a handshake, or None if no connection may come of it."""
        if self._by_ip.total() >= self.connections_max or self._full(ip):
            self.refused += 1
            return None
        same = [handshake for handshake in self._pending if handshake.ip == ip]
        if len(same) >= PENDING_PER_IP_MAX:
            self._evict(same[0])
        elif len(self._pending) >= PENDING_MAX:
            self._evict(self._pending[0])
        handshake = Handshake(ip=ip)
        self._pending.append(handshake)
        return handshake

    def end(self, handshake: Handshake) -> None:
        """The handshake is over, well or not.  Idempotent."""
        if handshake in self._pending:
            self._pending.remove(handshake)

    def connected(self, ip: str) -> None:
        """A connection has come of it."""
        self._by_ip[ip] += 1

    def gone(self, ip: str) -> None:
        """A connection has ended."""
        self._by_ip[ip] -= 1
        if not self._by_ip[ip]:
            del self._by_ip[ip]

    def _full(self, ip: str) -> bool:
        return self._by_ip[ip] >= CONNECTIONS_PER_IP_MAX and _is_public(ip)

    def _evict(self, handshake: Handshake) -> None:
        self.refused += 1
        self._pending.remove(handshake)
        handshake.scope.cancel()


def _is_public(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_global
    except ValueError:
        return True
