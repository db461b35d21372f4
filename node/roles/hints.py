"""Where workers are: gossip, DHT, exchange with peers and bootstrap addresses feed one book.

No source is needed while another works, and none is trusted: an announcement counts for its own
signature, an address from the DHT is tried and asked.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from node.errors import ConfigError, PeerError, SessionLost, Unavailable
from node.protocol import limits, signing
from node.protocol.announcements import ANY_MODEL, AnnouncementBook, Drop
from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import Announcements, AnnouncementsWanted
from node.protocol.signing import checksum
from node.protocol.statements import Announcement
from node.roles.dispatch import Handlers
from node.roles.loudness import Loudness
from node.roles.ports import Clock, Discovery, Inbound, Session, Transport
from node.roles.pulse import Pulse
from node.roles.quotas import Quota, Quotas

log = structlog.get_logger("hints")

FOLLOWED_MAX = 64
ANSWER_S = 1.0
"""After this an exchange is not waited for any longer; its answer still counts."""
EXCHANGE_EVERY_S = 30.0
EXCHANGE_SPARSE_S = 3.0
"""The same while few workers are known."""
EXCHANGE_AMPLE_S = 600.0
"""The same once many are: an answer weighs 29 kB."""
SPARSE_WORKERS = 3
AMPLE_WORKERS = 64
EXCHANGE_PEERS = 3
FIND_EVERY_S = 60.0
"""While fewer than `AMPLE_WORKERS` are known: each look-up ends at the same ten peers."""
NEWCOMERS_MAX = 64
BOOTSTRAP_MAX = 64
BOOTSTRAP_RETRY_S = (0.5, 60.0)
CHECKS = Quota(burst=128, per_s=8, overrun_max=512)
CHECKS_ALL = Quota(burst=512, per_s=128, overrun_max=0)
"""In signature checks (70 µs each)."""
REPLIES = Quota(burst=8, per_s=1, overrun_max=64)
REPLIES_ALL = Quota(burst=64, per_s=16, overrun_max=0)
GOSSIP = bytes(20)
"""Stands for all that gossip brings: who forwarded it is not known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """Somebody to dial who may be a worker."""

    worker: Address | None
    """None when only an address is known, from the DHT."""
    addrs: tuple[str, ...]


class Hints:
    """Both sides of discovery: what this node heard of workers, and what it says of itself."""

    def __init__(
        self,
        *,
        transport: Transport,
        discovery: Discovery | None,
        clock: Clock,
        domain: signing.Domain,
        rng: random.Random,
        bootstrap: Sequence[str] = (),
    ) -> None:
        """
        Args:
            transport: Sessions, for exchange and for bootstrap dials.
            discovery: Gossip and DHT; None when both are off.
            clock: Wall clock for announcements, monotonic for limits.
            domain: Chain and escrow; announcements for another count as forged.
            rng: Who is asked and told, and in which order.
            bootstrap: Multiaddrs with PeerID to connect to at the start and to stay connected to.
        """
        self._transport = transport
        self._discovery = discovery
        self._clock = clock
        self._domain = domain
        self._rng = rng
        own = {_peer_id(addr) for addr in transport.addrs}
        self._bootstrap = tuple(addr for addr in bootstrap if _peer_id(addr) not in own)
        self._untried = len(self._bootstrap)
        self._followed: dict[Hash, None] = {}
        self._followed_more = Pulse()
        self._found: OrderedDict[Hash, tuple[str, ...]] = OrderedDict()
        self._asked: dict[Address, dict[Hash, float]] = {}
        """Exchanges under way: per peer and model, when they stop being waited for."""
        self._greeted: dict[Address, Session] = {}
        self._checks = Quotas(CHECKS, total=CHECKS_ALL)
        self._replies = Quotas(REPLIES, total=REPLIES_ALL)
        self._newcomers: deque[tuple[Address, Hash]] = deque(maxlen=NEWCOMERS_MAX)
        self._own: Signed[Announcement] | None = None
        self._nursery: trio.Nursery | None = None
        self.loudness = Loudness(clock)
        """Of the models that are followed."""
        self.book = AnnouncementBook(domain)
        self.changed = Pulse()
        """Rings when there may be new leads, or when a search has ended."""
        self.handlers: Handlers = {
            AnnouncementsWanted: self._on_wanted,
            Announcements: self._on_announcements,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, connect to the bootstrap addresses, keep asking; until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for addr in self._bootstrap:
                nursery.start_soon(self._stay_connected, addr)
            nursery.start_soon(self._keep_asking)
            if self._discovery is not None:
                nursery.start_soon(self._listen, self._discovery)
                nursery.start_soon(self._keep_finding, self._discovery)
            for model in self._followed:
                self._start_following(model)
            task_status.started()

    async def greet(self, session: Session) -> None:
        """A new session: tell it who we are if we sell, and ask for what we follow."""
        if self._greeted.get(session.peer) is session:
            return
        self._greeted[session.peer] = session
        self.book.prove(session.peer)
        followed = tuple(self._followed)
        for model in followed:
            self._expect(session, model)
        try:
            if self._own is not None:
                await session.send(Announcements(items=(self._own,)))
            for model in followed:
                await self._ask(session, model)
        except SessionLost:
            return
        self.changed.ring()

    def stay_connected(self, addr: str) -> None:
        """Connect to one more bootstrap address, from now on.

        Raises:
            ConfigError: There are too many.
        """
        if addr in self._bootstrap or addr in self._transport.addrs:
            return
        if len(self._bootstrap) >= BOOTSTRAP_MAX:
            raise ConfigError(f"more than {BOOTSTRAP_MAX} bootstrap addresses")
        self._bootstrap += (addr,)
        self._untried += 1
        if self._nursery is not None:
            self._nursery.start_soon(self._stay_connected, addr)

    def follow(self, model: Hash) -> None:
        """Look for workers of a model from now on (`ANY_MODEL`: of whatever model)."""
        if model in self._followed:
            return
        if len(self._followed) >= FOLLOWED_MAX:
            gone = next(iter(self._followed))
            self._followed.pop(gone)
            self.loudness.forget(gone)
        self._followed[model] = None
        self._followed_more.ring()
        if self._nursery is not None:
            self._start_following(model)

    def searching(self, model: Hash) -> int:
        """Look-ups under way that will answer soon: first bootstrap dials, and exchanges."""
        now_s = self._clock.monotonic_s()
        asked = sum(asks.get(model, 0.0) > now_s for asks in self._asked.values())
        return self._untried + asked

    def leads(self, model: Hash, *, count_max: int) -> tuple[Lead, ...]:
        """Whom to dial for a model: announced workers, spread over networks, then addresses."""
        announced = self.book.select(
            model,
            count_max=count_max,
            seed=self._rng.getrandbits(64),
            now_ms=self._clock.unix_ms(),
        )
        leads = [
            Lead(worker=each.statement.worker, addrs=each.statement.addrs)
            for each in announced
            if each.statement.worker != self._transport.address
        ]
        own = set(self._transport.addrs)
        bare = (addr for addr in self._found.get(model, ()) if addr not in own)
        leads += [Lead(worker=None, addrs=(addr,)) for addr in bare]
        return tuple(leads[:count_max])

    def lead_to(self, worker: Address) -> Lead | None:
        """Where one worker says it is."""
        known = self.book.find(worker, now_ms=self._clock.unix_ms())
        return None if known is None else Lead(worker=worker, addrs=known.addrs)

    def newcomers(self) -> tuple[tuple[Address, Hash], ...]:
        """Workers, with a model of theirs each, that were not known at the last call."""
        found = tuple(self._newcomers)
        self._newcomers.clear()
        return found

    def models(self) -> dict[Hash, tuple[str, int]]:
        """Every model that is announced: its usual name, and how many workers sell it."""
        return self.book.models(now_ms=self._clock.unix_ms())

    def dropped(self) -> dict[str, int]:
        """Announcements that were not kept, by reason."""
        return {reason.value: count for reason, count in self.book.dropped.items()}

    def take(self, signed: Signed[Announcement], *, source: Address) -> Drop | None:
        """Take an announcement from a source; None if it was news.

        Raises:
            PeerError: The source floods.
        """
        now_ms = self._clock.unix_ms()
        if self.book.needs_check(signed, now_ms=now_ms) and not self._checks.spend(
            source, 1, self._clock.monotonic_s()
        ):
            self.book.dropped[Drop.UNCHECKED] += 1
            return Drop.UNCHECKED
        worker = signed.statement.worker
        unheard_of = self.book.find(worker, now_ms=now_ms) is None
        dropped = self.book.take(signed, now_ms=now_ms)
        if dropped is None:
            if unheard_of:
                self._newcomers.extend((worker, each.model) for each in signed.statement.models)
            self.changed.ring()
        return dropped

    async def tell(self, own: Signed[Announcement]) -> int:
        """Tell every peer, now or when it connects, what this worker announces; and gossip it.

        Returns:
            To how many peers gossip took it, which pass it on.
        """
        self._own = own
        self.book.take(own, now_ms=self._clock.unix_ms())
        assert self._nursery is not None, "run() comes first"
        for session in self._transport.sessions().values():
            self._nursery.start_soon(self._send, session, Announcements(items=(own,)))
        if self._discovery is not None:
            try:
                return await self._discovery.publish(own)
            except Unavailable as error:
                log.info("not gossiped", reason=str(error))
        return 0

    async def _stay_connected(self, addr: str) -> None:
        retry_s, tried = BOOTSTRAP_RETRY_S[0], False
        while True:
            session: Session | None = None
            try:
                session = await self._transport.connect((addr,))
            except (Unavailable, PeerError) as error:
                log.info("bootstrap peer not reached", addr=addr, reason=str(error))
            if session is not None:
                # Before it counts as tried: a search must not look finished in between.
                await self.greet(session)
            if not tried:
                tried = True
                self._untried -= 1
                self.changed.ring()
            if session is not None:
                retry_s = BOOTSTRAP_RETRY_S[0]
                await session.wait_lost()
            await trio.sleep(retry_s * self._rng.uniform(0.8, 1.2))
            retry_s = min(retry_s * 2, BOOTSTRAP_RETRY_S[1])

    def _start_following(self, model: Hash) -> None:
        assert self._nursery is not None
        for session in self._transport.sessions().values():
            self._expect(session, model)
            self._nursery.start_soon(self._ask_quietly, session, model)
        if self._discovery is not None and model != ANY_MODEL:
            self._nursery.start_soon(self._start_finding, self._discovery, model)

    def _expect(self, session: Session, model: Hash) -> None:
        asks = self._asked.setdefault(session.peer, {})
        asks[model] = self._clock.monotonic_s() + ANSWER_S

    async def _ask(self, session: Session, model: Hash) -> None:
        self._expect(session, model)
        await session.send(
            AnnouncementsWanted(model=model, count_max=limits.ANNOUNCEMENTS_PER_EXCHANGE)
        )

    async def _ask_quietly(self, session: Session, model: Hash) -> None:
        with trio.move_on_after(ANSWER_S):
            try:
                await self._ask(session, model)
            except SessionLost:
                self._asked.pop(session.peer, None)

    async def _send(self, session: Session, frame: Announcements) -> None:
        with trio.move_on_after(ANSWER_S):
            try:
                await session.send(frame)
            except SessionLost:
                return

    async def _keep_asking(self) -> None:
        """Exchange with a few peers now and then; often while hardly anybody is known."""
        while True:
            await self._exchange_due()
            self.book.sweep(now_ms=self._clock.unix_ms())
            sessions = self._transport.sessions()
            self._asked = {peer: asks for peer, asks in self._asked.items() if peer in sessions}
            self._greeted = {p: s for p, s in self._greeted.items() if sessions.get(p) is s}
            peers = self._rng.sample(sorted(sessions), min(EXCHANGE_PEERS, len(sessions)))
            # Looked up now: who is asked last may have left by then.
            for session in [sessions[peer] for peer in peers]:
                for model in tuple(self._followed):
                    await self._ask_quietly(session, model)

    async def _exchange_due(self) -> None:
        """Wait as long as the least known of the followed models allows."""
        least = min((self.book.count(model) for model in self._followed), default=SPARSE_WORKERS)
        pause_s = EXCHANGE_EVERY_S if least < AMPLE_WORKERS else EXCHANGE_AMPLE_S
        pause_s = EXCHANGE_SPARSE_S if least < SPARSE_WORKERS else pause_s
        await self._followed_more.wait_at_most(pause_s * self._rng.uniform(0.8, 1.2))

    async def _listen(self, discovery: Discovery) -> None:
        async for signed in discovery.heard():
            try:
                news = self.take(signed, source=GOSSIP) is None
            except PeerError:
                continue  # gossip as a whole is over its quota; nobody in particular to blame
            if news:
                for each in signed.statement.models:
                    if each.model in self._followed:
                        self.loudness.note(each.model)

    async def _keep_finding(self, discovery: Discovery) -> None:
        while True:
            await trio.sleep(FIND_EVERY_S * self._rng.uniform(0.8, 1.2))
            for model in tuple(self._followed):
                if model != ANY_MODEL and self.book.count(model) < AMPLE_WORKERS:
                    await self._find(discovery, model)

    async def _start_finding(self, discovery: Discovery, model: Hash) -> None:
        try:
            await discovery.follow(model)
        except Unavailable as error:
            log.info("topic not joined", reason=str(error))
        await self._find(discovery, model)

    async def _find(self, discovery: Discovery, model: Hash) -> None:
        try:
            addrs = await discovery.find(model)
        except Unavailable as error:
            log.info("DHT look-up failed", reason=str(error))
            return
        self._found[model] = addrs[: limits.ANNOUNCEMENTS_PER_EXCHANGE]
        self._found.move_to_end(model)
        if len(self._found) > FOLLOWED_MAX:
            self._found.popitem(last=False)
        if addrs:
            self.changed.ring()

    async def _on_wanted(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, AnnouncementsWanted)
        items: tuple[Signed[Announcement], ...] = ()
        # Over its quota a peer is told nothing, at once: it must not wait for an answer.
        if self._replies.spend(session.peer, 1, self._clock.monotonic_s()):
            items = self._reply(frame)
        await session.send(Announcements(items=items))

    def _reply(self, frame: AnnouncementsWanted) -> tuple[Signed[Announcement], ...]:
        """Everybody but this node, which tells each peer of itself unasked."""
        return self.book.reply(
            frame.model,
            count_max=frame.count_max,
            seed=self._rng.getrandbits(64),
            now_ms=self._clock.unix_ms(),
            besides=self._transport.address,
        )

    async def _on_announcements(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, Announcements)
        for signed in frame.items:
            if self.take(signed, source=session.peer) is Drop.FORGED:
                # Whoever passes it on has checked it, or does not speak for this chain.
                raise PeerError(f"{checksum(session.peer)} passed on a forged announcement")
        # A peer's own announcement by itself was pushed; it is in no answer (`_reply`).
        pushed = len(frame.items) == 1 and frame.items[0].statement.worker == session.peer
        asks = self._asked.get(session.peer)
        if asks and not pushed:
            # An answer does not name its model; answers come in the order of the questions.
            asks.pop(next(iter(asks)))
            self.changed.ring()


def _peer_id(addr: str) -> str:
    return addr.rpartition("/p2p/")[2]
