"""Hints about workers: who says it sells which models, and where.  Nothing is awarded on them.

Anybody may pass an announcement on, so the book trusts only its signature, and bounds what any one
neighbourhood of addresses can fill: a flood of identities from a few networks crowds out itself.
The addresses in an announcement are claims; a worker that a session was made with is proven, and
is not pushed out by those that are not.
"""

import hashlib
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from node.errors import SignatureError
from node.protocol import codec, limits, signing
from node.protocol.fields import ZERO_HASH, Address, Hash, Signed
from node.protocol.statements import Announcement

WORKERS_MAX = 2048
PER_NETWORK_MAX = 32
"""Unproven workers that one /24 (IPv6: /48; names: their last two labels) may have in the book."""
TOMBSTONES_MAX = 4096
SKEW_MS = 120_000
"""How far another's wall clock may be off before its announcements are not believed."""
TTL_S_MAX = 24 * 3600
CROWD = 200
"""From so many workers on an interval heeds how loud their topic is; with fewer that is chance."""
REPLY_BYTES_MAX = limits.FRAME_BYTES_MAX - 1024

INTERVAL_S_MIN = 10.0
TOPIC_RATE_MAX = 0.2
"""Announcements per second that a model's topic should carry, all its workers together.  Each costs
every node that hears it 11 to 16 ms and 7 kB (docs/scaling.md): 0.3 % of a core and 1.3 kB/s."""
TTL_INTERVALS = 2
"""Life of an announcement, in intervals: longer, and books are full of workers long gone."""
EARLY_PAUSES_S = (2.0, 10.0)
"""After its first announcements a worker waits so long: gossip's mesh is still forming."""
MESH_FORMED = 4
"""With so many peers in the mesh one repeat is enough: on a large topic those of workers that just
came would be more than all others.  GossipSub looks for more peers below this."""
ANY_MODEL = ZERO_HASH
"""In `AnnouncementsWanted`: workers of whatever model."""


class Drop(StrEnum):
    """Why an announcement was not kept."""

    FORGED = "forged"
    """Its signer is not its worker, or it is for another chain or escrow."""
    EXPIRED = "expired"
    FUTURE = "future"
    """Issued later than any honest clock could say."""
    REPLAYED = "replayed"
    """Older than what is known of this worker."""
    DUPLICATE = "duplicate"
    """The very one that is known: gossip and exchange overlap."""
    UNUSABLE = "unusable"
    """No address or no model."""
    CROWDED = "crowded"
    """Its network has as many workers here as it may."""
    UNCHECKED = "unchecked"
    """Its source sends more than is checked in the time."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One worker's newest announcement."""

    signed: Signed[Announcement]
    size: int
    """Bytes on the wire."""
    expires_ms: int
    networks: frozenset[str]
    proven: bool = False

    @property
    def statement(self) -> Announcement:
        """What the worker says."""
        return self.signed.statement


class AnnouncementBook:
    """The newest announcement of each worker, bounded in all and per network."""

    def __init__(
        self,
        domain: signing.Domain,
        *,
        workers_max: int = WORKERS_MAX,
        per_network_max: int = PER_NETWORK_MAX,
    ) -> None:
        self._domain = domain
        self._workers_max = workers_max
        self._per_network_max = per_network_max
        self._entries: dict[Address, Entry] = {}
        self._by_model: dict[Hash, dict[Address, None]] = {}
        self._networks: Counter[str] = Counter()
        self._tombstones: OrderedDict[Address, int] = OrderedDict()
        """Of workers no longer held: when their last announcement was issued."""
        self._proven: OrderedDict[Address, None] = OrderedDict()
        self.dropped: Counter[Drop] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def needs_check(self, signed: Signed[Announcement], *, now_ms: int) -> bool:
        """Whether taking it would cost a signature check: what a rate limit counts."""
        return self._cheap_fault(signed.statement, now_ms) is None

    def take(self, signed: Signed[Announcement], *, now_ms: int) -> Drop | None:
        """Keep an announcement, or say (and count) why not.

        Args:
            signed: As received, from whomever.
            now_ms: Unix time by this node's clock.
        """
        drop = self._take(signed, now_ms)
        if drop is not None:
            self.dropped[drop] += 1
        return drop

    def prove(self, worker: Address) -> None:
        """A session with this worker was made: its place in the book is safe."""
        self._proven[worker] = None
        self._proven.move_to_end(worker)
        if len(self._proven) > self._workers_max // 2:
            self._proven.popitem(last=False)
        entry = self._entries.get(worker)
        if entry is not None and not entry.proven:
            entry.proven = True
            self._uncrowd(entry)

    def fail(self, worker: Address) -> None:
        """Nobody answered where it said it was: forgotten until it announces itself anew."""
        self._proven.pop(worker, None)
        self._remove(worker)

    def find(self, worker: Address, *, now_ms: int) -> Announcement | None:
        """What a worker last said, unless it has expired."""
        entry = self._entries.get(worker)
        return entry.statement if entry is not None and entry.expires_ms > now_ms else None

    def networks(self, worker: Address, *, now_ms: int) -> frozenset[str] | None:
        """What `networks_of` says of where a worker last said it is, unless that has expired."""
        entry = self._entries.get(worker)
        return entry.networks if entry is not None and entry.expires_ms > now_ms else None

    def count(self, model: Hash) -> int:
        """Workers known to sell a model, expired ones not yet swept included."""
        return len(self._entries if model == ANY_MODEL else self._by_model.get(model, ()))

    def models(self, *, now_ms: int) -> dict[Hash, tuple[str, int]]:
        """Every model that live announcements name: the name most workers give it, and how many."""
        names: dict[Hash, Counter[str]] = {}
        for entry in self._entries.values():
            if entry.expires_ms > now_ms:
                for each in entry.statement.models:
                    names.setdefault(each.model, Counter())[each.name] += 1
        return {m: (n.most_common(1)[0][0], n.total()) for m, n in names.items()}

    def tiers(self, model: Hash, *, now_ms: int) -> set[int]:
        """In which tiers live announcements name a model."""
        live = (entry for entry in self._entries.values() if entry.expires_ms > now_ms)
        return {
            each.tier for entry in live for each in entry.statement.models if each.model == model
        }

    def select(
        self, model: Hash, *, count_max: int, seed: int, now_ms: int, proven_first: bool = False
    ) -> tuple[Signed[Announcement], ...]:
        """Live announcements for a model, spread over networks, in an order drawn by `seed`.

        Taken in turns, one of each network first, so that no network is more than its share
        while there are others.

        Args:
            model: Which, or `ANY_MODEL`.
            count_max: At most so many.
            seed: Random bits.
            now_ms: Unix time.
            proven_first: Those with whom this node had a session come before all others.
        """
        live = sorted(self._live(model, now_ms), key=lambda pair: _draw(seed, pair[0]))
        turns: Counter[str] = Counter()
        ordered = []
        for _, entry in live:
            turn = max(turns[network] for network in entry.networks)
            for network in entry.networks:
                turns[network] += 1
            ordered.append((proven_first and not entry.proven, turn, entry))
        ordered.sort(key=lambda each: each[:2])
        return tuple(entry.signed for _, _, entry in ordered[:count_max])

    def reply(
        self, model: Hash, *, count_max: int, seed: int, now_ms: int, besides: Address
    ) -> tuple[Signed[Announcement], ...]:
        """What an exchange answers: as `select`, without `besides`, no more than a frame holds."""
        count_max = min(count_max, limits.ANNOUNCEMENTS_PER_EXCHANGE)
        chosen: list[Signed[Announcement]] = []
        room = REPLY_BYTES_MAX
        for signed in self.select(
            model, count_max=count_max + 1, seed=seed, now_ms=now_ms, proven_first=True
        ):
            worker = signed.statement.worker
            if worker == besides:
                continue
            room -= self._entries[worker].size
            if room < 0:
                break
            chosen.append(signed)
        return tuple(chosen[:count_max])

    def sweep(self, *, now_ms: int) -> None:
        """Forget what has expired."""
        for worker in [w for w, entry in self._entries.items() if entry.expires_ms <= now_ms]:
            self._remove(worker)

    def _take(self, signed: Signed[Announcement], now_ms: int) -> Drop | None:
        statement = signed.statement
        worker = statement.worker
        # The cheap checks first: a flood of old ones must not cost a signature check each.
        fault = self._cheap_fault(statement, now_ms)
        if fault is not None:
            return fault
        try:
            signing.verify(signed, self._domain, worker)
        except SignatureError:
            return Drop.FORGED
        networks = networks_of(statement.addrs)
        proven = worker in self._proven
        held = self._entries.get(worker)
        if not proven and not self._room(networks, held, now_ms):
            return Drop.CROWDED
        if held is None and len(self._entries) >= self._workers_max:
            crowd = max(self._networks[network] for network in networks)
            if not self._evict(crowd_min=0 if proven else crowd):
                return Drop.CROWDED
        self._take_out(worker)
        self._insert(
            worker,
            Entry(
                signed=signed,
                size=len(codec.encode_struct(signed)),
                expires_ms=_expires_ms(statement),
                networks=networks,
                proven=proven,
            ),
        )
        return None

    def _cheap_fault(self, statement: Announcement, now_ms: int) -> Drop | None:
        if not statement.addrs or not statement.models:
            return Drop.UNUSABLE
        if _expires_ms(statement) <= now_ms:
            return Drop.EXPIRED
        if statement.issued_ms > now_ms + SKEW_MS:
            return Drop.FUTURE
        held = self._entries.get(statement.worker)
        known_ms = (
            held.statement.issued_ms
            if held is not None
            else self._tombstones.get(statement.worker, -1)
        )
        if statement.issued_ms < known_ms:
            return Drop.REPLAYED
        return Drop.DUPLICATE if statement.issued_ms == known_ms else None

    def _room(self, networks: frozenset[str], held: Entry | None, now_ms: int) -> bool:
        own = held.networks if held is not None and not held.proven else frozenset()
        full = {n for n in networks - own if self._networks[n] >= self._per_network_max}
        if full:
            self.sweep(now_ms=now_ms)
        return all(self._networks[network] < self._per_network_max for network in full)

    def _evict(self, *, crowd_min: int) -> bool:
        """The oldest unproven worker of the most crowded network goes, if that has more."""
        crowded, count = max(self._networks.items(), key=lambda item: item[1])
        if count <= crowd_min:
            return False
        self._remove(
            next(
                worker
                for worker, entry in self._entries.items()
                if crowded in entry.networks and not entry.proven
            )
        )
        return True

    def _insert(self, worker: Address, entry: Entry) -> None:
        self._entries[worker] = entry
        if not entry.proven:
            self._networks.update(entry.networks)
        for each in entry.statement.models:
            self._by_model.setdefault(each.model, {})[worker] = None

    def _remove(self, worker: Address) -> None:
        entry = self._take_out(worker)
        if entry is None:
            return
        self._tombstones[worker] = entry.statement.issued_ms
        self._tombstones.move_to_end(worker)
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)

    def _take_out(self, worker: Address) -> Entry | None:
        entry = self._entries.pop(worker, None)
        if entry is None:
            return None
        if not entry.proven:
            self._uncrowd(entry)
        for each in entry.statement.models:
            sellers = self._by_model.get(each.model, {})
            sellers.pop(worker, None)
            if not sellers:
                self._by_model.pop(each.model, None)
        return entry

    def _uncrowd(self, entry: Entry) -> None:
        for network in entry.networks:
            self._networks[network] -= 1
            if not self._networks[network]:
                del self._networks[network]

    def _live(self, model: Hash, now_ms: int) -> Iterable[tuple[Address, Entry]]:
        workers = self._entries if model == ANY_MODEL else self._by_model.get(model, {})
        for worker in workers:
            entry = self._entries[worker]
            if entry.expires_ms > now_ms:
                yield worker, entry


def networks_of(addrs: Iterable[str]) -> frozenset[str]:
    """The networks that multiaddrs claim: /24 of IPv4, /48 of IPv6, last two labels of a name."""
    return frozenset(_network(addr) for addr in addrs)


def crowds(networks: Mapping[Address, frozenset[str]]) -> dict[Address, str]:
    """Each worker's most crowded network: to claim others besides brings no advantage.

    Args:
        networks: Of workers, `networks_of` what they announce; empty where nothing is known, which
            is a network of its own.
    """
    counts = Counter(name for names in networks.values() for name in names)
    return {
        worker: max(names, key=lambda name: (counts[name], name), default="")
        for worker, names in networks.items()
    }


def interval_s(workers: int, *, last_s: float = 0.0, heard_per_s: float = 0.0) -> float:
    """How long a worker waits between announcements.

    Rises with the workers that share its topic, so that the topic carries about
    `TOPIC_RATE_MAX` a second.  A book holds `WORKERS_MAX` at most: where the topic is louder than
    the count explains, there are more, or they come and go quickly, and the last interval was too
    short by as much as the topic was too loud.

    Args:
        workers: Known to sell the most crowded of its models, itself included.
        last_s: The interval before; 0 for none.
        heard_per_s: Announcements that came on the topic lately.
    """
    by_count_s = workers / TOPIC_RATE_MAX
    by_noise_s = last_s * heard_per_s / TOPIC_RATE_MAX if workers >= CROWD else 0.0
    return max(INTERVAL_S_MIN, by_count_s, by_noise_s)


def ttl_s(interval: float) -> int:
    """Life of an announcement that is repeated every `interval` seconds."""
    return min(int(TTL_INTERVALS * interval) + SKEW_MS // 1000, TTL_S_MAX)


def _expires_ms(statement: Announcement) -> int:
    return statement.issued_ms + min(statement.ttl_s, TTL_S_MAX) * 1000 + SKEW_MS


def _network(addr: str) -> str:
    parts = addr.split("/")
    if len(parts) < 3:
        return "other"
    kind, host = parts[1], parts[2]
    try:
        match kind:
            case "ip4":
                return str(ipaddress.ip_network(f"{host}/24", strict=False))
            case "ip6":
                return str(ipaddress.ip_network(f"{host}/48", strict=False))
            case "dns" | "dns4" | "dns6" | "dnsaddr":
                return ".".join(host.casefold().split(".")[-2:])
    except ValueError:
        return "other"
    return "other"


def _draw(seed: int, worker: Address) -> bytes:
    return hashlib.blake2b(worker, digest_size=8, key=seed.to_bytes(16, "big")).digest()
