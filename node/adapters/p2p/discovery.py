"""Hints about workers from gossip and the DHT; each is loaded when it is first needed."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from node.adapters.p2p.transport import Libp2pTransport
from node.config import NetworkConfig
from node.errors import DecodeError
from node.protocol import codec
from node.protocol.fields import Hash, Signed
from node.protocol.statements import Announcement

if TYPE_CHECKING:
    from node.adapters.p2p.dht import Dht
    from node.adapters.p2p.gossip import Gossip

TOPIC = "/gpu-market/announce/1/"
HEARD_MAX = 512

Accept = Callable[[Signed[Announcement]], bool]


def topic_of(model: Hash) -> str:
    """The gossip topic of a model's announcements."""
    return TOPIC + model.hex()


class Libp2pDiscovery:
    """Implements `ports.Discovery`.  Made by `open_discovery`."""

    def __init__(
        self,
        transport: Libp2pTransport,
        config: NetworkConfig,
        nursery: trio.Nursery,
        accept: Accept,
    ) -> None:
        self._host, self._config = transport.host, config
        self._nursery, self._accept = nursery, accept
        self._gossip: Gossip | None = None
        self._dht: Dht | None = None
        self._heard: deque[Signed[Announcement]] = deque(maxlen=HEARD_MAX)
        self._arrival = trio.Event()

    def start(self) -> None:
        """Start what the configuration allows; else it starts with its first use."""
        if self._config.gossip:
            self._gossiping()
        if self._config.dht:
            self._hashing()

    async def publish(self, announcement: Signed[Announcement]) -> int:
        """Gossip it on the topic of each of its models.  Nothing happens with gossip off.

        Returns:
            To how many peers it went, on the topic with the fewest.

        Raises:
            Unavailable: Gossip is down.
        """
        if not self._config.gossip:
            return 0
        data = codec.encode_struct(announcement)
        models = {each.model for each in announcement.statement.models}
        reached = [await self._gossiping().publish(topic_of(model), data) for model in models]
        return min(reached, default=0)

    async def follow(self, model: Hash) -> None:
        """Start to hear announcements of a model.  Nothing happens with gossip off.

        Raises:
            Unavailable: Gossip is down, or too many models are followed.
        """
        if self._config.gossip:
            await self._gossiping().join(topic_of(model))

    async def provide(self, model: Hash) -> None:
        """Say in the DHT that this node serves a model.  Nothing happens with the DHT off.

        Raises:
            Unavailable: No other peer took the record.
        """
        if self._config.dht:
            await self._hashing().provide(model)

    async def find(self, model: Hash) -> tuple[str, ...]:
        """Multiaddrs of peers that the DHT names for a model; may be empty, may lie.

        Raises:
            Unavailable: The DHT is down.
        """
        return await self._hashing().find(model) if self._config.dht else ()

    async def heard(self) -> AsyncIterator[Signed[Announcement]]:
        """Announcements that gossip brought, the oldest dropped while nobody reads; one reader."""
        while True:
            while self._heard:
                yield self._heard.popleft()
            self._arrival = trio.Event()
            await self._arrival.wait()

    def _gossiping(self) -> "Gossip":
        if self._gossip is None:
            from node.adapters.p2p.gossip import Gossip

            self._gossip = Gossip(self._host, self._belongs, self._on_data)
            self._nursery.start_soon(self._gossip.run)
        return self._gossip

    def _hashing(self) -> "Dht":
        if self._dht is None:
            from node.adapters.p2p.dht import Dht

            self._dht = Dht(self._host)
            self._nursery.start_soon(self._dht.run)
        return self._dht

    def _belongs(self, topic: str, data: bytes) -> bool:
        try:
            announcement = codec.decode_signed(Announcement, data)
        except DecodeError:
            return False
        models = announcement.statement.models
        return any(topic_of(each.model) == topic for each in models) and self._accept(announcement)

    def _on_data(self, data: bytes) -> None:
        self._heard.append(codec.decode_signed(Announcement, data))
        self._arrival.set()


def load_all() -> None:
    """Import gossip and DHT now instead of on first use."""
    import node.adapters.p2p.dht
    import node.adapters.p2p.gossip  # noqa: F401


@asynccontextmanager
async def open_discovery(
    transport: Libp2pTransport,
    config: NetworkConfig,
    *,
    accept: Accept = lambda _: True,
    eager: bool = False,
) -> AsyncIterator[Libp2pDiscovery]:
    """Discovery on a transport's host.

    Args:
        accept: Whether to keep and relay an announcement, decided at once and without I/O: a
            check of its signature keeps forgeries from travelling.
        eager: Start gossip and DHT at once, so that others can use this node for theirs.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        discovery = Libp2pDiscovery(transport, config, nursery, accept)
        if eager:
            discovery.start()
        try:
            yield discovery
        # Carried around the nursery, which would wrap the caller's own error in a group.
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
