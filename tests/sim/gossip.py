"""Announcements between simulated nodes, on the worst gossip there could be."""

from collections.abc import AsyncIterator

import trio

from node.protocol.fields import Hash, Signed
from node.protocol.statements import Announcement
from tests.sim.network import Net, SimTransport


class Gossip:
    """What joins discoveries: it loses, repeats, delays and reorders."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self.nodes: list[SimDiscovery] = []
        self.loss = 0.1
        self.repeat = 0.1
        self.delay_s = 1.0
        self.nursery: trio.Nursery | None = None

    def spread(self, source: "SimDiscovery", announcement: Signed[Announcement]) -> int:
        """On its way to whoever follows one of its models: so many."""
        topics = {each.model for each in announcement.statement.models}
        rng = self._net.rng
        hearers = [node for node in self.nodes if node is not source and node.models & topics]
        for node in hearers:
            while rng.random() >= self.loss:
                assert self.nursery is not None
                self.nursery.start_soon(self._bring, node, announcement, rng.random())
                if rng.random() >= self.repeat:
                    break
        return len(hearers)

    async def _bring(
        self, node: "SimDiscovery", announcement: Signed[Announcement], share: float
    ) -> None:
        await trio.sleep(self.delay_s * share)
        node.hear(announcement)


class SimDiscovery:
    """`ports.Discovery` for one life of a node."""

    def __init__(self, net: Net, gossip: Gossip, transport: SimTransport) -> None:
        self._net = net
        self._gossip = gossip
        self._transport = transport
        self._heard_in, self._heard = trio.open_memory_channel[Signed[Announcement]](64)
        self.models: set[Hash] = set()
        gossip.nodes.append(self)

    async def publish(self, announcement: Signed[Announcement]) -> int:
        await trio.lowlevel.checkpoint()
        return self._gossip.spread(self, announcement) if self._alive() else 0

    async def follow(self, model: Hash) -> None:
        await trio.lowlevel.checkpoint()
        self.models.add(model)

    async def provide(self, model: Hash) -> None:
        await trio.lowlevel.checkpoint()

    async def find(self, model: Hash) -> tuple[str, ...]:
        await trio.sleep(self._net.latency_s())
        return ()

    async def heard(self) -> AsyncIterator[Signed[Announcement]]:
        async for announcement in self._heard:
            yield announcement

    def hear(self, announcement: Signed[Announcement]) -> None:
        if not self._alive():
            return
        try:
            self._heard_in.send_nowait(announcement)
        except trio.WouldBlock:
            return

    def leave(self) -> None:
        """The node is gone."""
        self._gossip.nodes.remove(self)

    def _alive(self) -> bool:
        return self._net.listening.get(self._transport.peer_id) is self._transport
