"""The worker's voice: its announcement, the slower repeated the more workers there are."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from node.errors import Unavailable
from node.protocol import signing
from node.protocol.announcements import interval_s, ttl_s
from node.protocol.fields import Address, Signed
from node.protocol.statements import AnnouncedModel, Announcement
from node.roles.hints import Hints
from node.roles.ports import Clock, Discovery, Transport
from node.roles.pulse import Pulse

log = structlog.get_logger("announcer")

PROVIDE_EVERY_S = 6 * 3600.0
"""Provider records live 48 h; nodes that join the DHT later should hold them too."""
PROVIDE_RETRY_S = (1.0, 60.0)
EARLY_INTERVAL_S = 1.0
"""First pause between announcements; doubles up to the regular interval: the mesh is still forming
when a worker starts."""


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
        self.changed = Pulse()
        """Ring it when the description changed."""

    async def run(self) -> None:
        """Announce until cancelled; `Hints.run` must be running."""
        early_s = EARLY_INTERVAL_S
        async with trio.open_nursery() as nursery:
            if self._discovery is not None:
                nursery.start_soon(self._keep_providing, self._discovery)
            while True:
                what = self._describe()
                regular_s = self._interval_s(what)
                await self._hints.tell(self._announcement(what, regular_s))
                wait_s = min(regular_s, early_s) * self._rng.uniform(0.9, 1.1)
                early_s = min(early_s * 2, regular_s)
                await self.changed.wait_at_most(wait_s)

    def _interval_s(self, what: Description) -> float:
        for each in what.models:
            self._hints.follow(each.model)  # to know how many there are, and to tell others
        counts = (self._hints.book.count(each.model) for each in what.models)
        return interval_s(max(counts, default=1))

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
