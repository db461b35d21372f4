"""The worker's voice: its announcement, the slower repeated the more workers there are."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from node.errors import Unavailable
from node.protocol import signing
from node.protocol.announcements import EARLY_PAUSES_S, MESH_FORMED, interval_s, ttl_s
from node.protocol.fields import Address, Signed
from node.protocol.statements import AnnouncedModel, Announcement
from node.roles.hints import Hints
from node.roles.ports import Clock, Discovery, Transport
from node.roles.pulse import Pulse

log = structlog.get_logger("announcer")

PROVIDE_EVERY_S = 6 * 3600.0
"""Provider records live 48 h; nodes that join the DHT later should hold them too."""
PROVIDE_RETRY_S = (1.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a worker says of itself."""

    payee: Address
    models: tuple[AnnouncedModel, ...]
    region: str


class Announcer:
    """Announces this node by gossip, in the DHT and to its peers."""

    def __init__(
        self,
        *,
        hints: Hints,
        transport: Transport,
        discovery: Discovery | None,
        clock: Clock,
        domain: signing.Domain,
        key: bytes,
        rng: random.Random,
        describe: Callable[[], Description],
    ) -> None:
        """
        Args:
            hints: What this node knows of others, and its peers.
            transport: Under which addresses it is reached.
            discovery: The DHT; None when it is off.
            clock: Wall clock of the announcements.
            domain: Chain and escrow.
            key: 32-byte session key that signs.
            rng: Spreads the announcements of many workers over time.
            describe: What to say, asked each time.
        """
        self._hints = hints
        self._transport = transport
        self._discovery = discovery
        self._clock = clock
        self._domain = domain
        self._key = key
        self._rng = rng
        self._describe = describe
        self._issued_ms = 0
        self._last_s = 0.0
        self.changed = Pulse()
        """Ring it when the description changed."""

    async def run(self) -> None:
        """Announce until cancelled; `Hints.run` must be running."""
        early, repeated = iter(EARLY_PAUSES_S), False
        async with trio.open_nursery() as nursery:
            if self._discovery is not None:
                nursery.start_soon(self._keep_providing, self._discovery)
            while True:
                what = self._describe()
                if not what.models:  # it waits for what runs them
                    await self.changed.wait_at_most(PROVIDE_RETRY_S[1])
                    continue
                regular_s = self._interval_s(what)
                reached = await self._hints.tell(self._announcement(what, regular_s))
                # Once anyway: the first few peers may be anybody's.
                formed = repeated and reached >= MESH_FORMED
                pause_s, repeated = regular_s if formed else next(early, regular_s), True
                wait_s = min(pause_s, regular_s) * self._rng.uniform(0.9, 1.1)
                await self.changed.wait_at_most(wait_s)

    def _interval_s(self, what: Description) -> float:
        models = [each.model for each in what.models]
        for model in models:
            self._hints.follow(model)  # to know how many there are, and to tell others
        topics = [(self._hints.book.count(m), self._hints.loudness.per_s(m)) for m in models]
        last_s = self._last_s
        each_s = (interval_s(n, last_s=last_s, heard_per_s=heard) for n, heard in topics)
        self._last_s = max(each_s, default=interval_s(1))
        return self._last_s

    def _announcement(self, what: Description, regular_s: float) -> Signed[Announcement]:
        self._issued_ms = max(self._issued_ms + 1, self._clock.unix_ms())
        announcement = Announcement(
            worker=self._transport.address,
            payee=what.payee,
            addrs=self._transport.addrs[:8],
            models=what.models[:32],
            region=what.region,
            issued_ms=self._issued_ms,
            ttl_s=ttl_s(regular_s),
        )
        return signing.sign(announcement, self._domain, self._key)

    async def _keep_providing(self, discovery: Discovery) -> None:
        retry_s = PROVIDE_RETRY_S[0]
        while True:
            try:
                for each in self._describe().models:
                    await discovery.provide(each.model)
                await trio.sleep(PROVIDE_EVERY_S)
            except Unavailable as error:
                log.info("not provided in the DHT", reason=str(error))
                await trio.sleep(retry_s * self._rng.uniform(0.8, 1.2))
                retry_s = min(retry_s * 2, PROVIDE_RETRY_S[1])
