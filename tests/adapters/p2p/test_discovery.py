"""Gossip and the DHT between real hosts, each also without the other."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest
import trio
from libp2p.kad_dht import value_store

from node.adapters.p2p.dht import PROTOCOL
from node.adapters.p2p.discovery import HEARD_MAX, Libp2pDiscovery, open_discovery, topic_of
from node.adapters.p2p.gossip import MESSAGE_BYTES_MAX, MESSAGES_PER_ORIGIN_BURST, GuardedPubsub
from node.adapters.p2p.supervision import supervise
from node.adapters.p2p.transport import Libp2pTransport
from node.config import NetworkConfig
from node.errors import Unavailable
from node.protocol import codec, signing
from node.protocol.fields import Signed
from node.protocol.statements import AnnouncedModel, Announcement
from tests.adapters.p2p.peers import transport, until

MODEL = bytes(range(32))
OTHER = bytes(32)
DOMAIN = signing.Domain(31337, b"\xee" * 20)
EVERYTHING = NetworkConfig(listen=("/ip4/127.0.0.1/tcp/0",))
GOSSIP_ONLY = NetworkConfig(listen=EVERYTHING.listen, dht=False)
DHT_ONLY = NetworkConfig(listen=EVERYTHING.listen, gossip=False)
OFF = NetworkConfig(listen=EVERYTHING.listen, gossip=False, dht=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    key: bytes
    transport: Libp2pTransport
    discovery: Libp2pDiscovery

    def announcement(self, model: bytes = MODEL, issued_ms: int = 1) -> Signed[Announcement]:
        return signing.sign(
            Announcement(
                worker=self.transport.address,
                payee=self.transport.address,
                addrs=self.transport.addrs,
                models=(a_model(model),),
                region="",
                issued_ms=issued_ms,
                ttl_s=600,
            ),
            DOMAIN,
            self.key,
        )


def a_model(model: bytes) -> AnnouncedModel:
    return AnnouncedModel(model=model, name="m", tier=1, price_in=1, price_out=1)


@asynccontextmanager
async def line(
    count: int,
    config: NetworkConfig = EVERYTHING,
    accept: Callable[[Signed[Announcement]], bool] = lambda _: True,
) -> AsyncIterator[list[Node]]:
    """Nodes of which each is connected with the next only."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for _ in range(count):
            key = os.urandom(32)
            peer = await stack.enter_async_context(transport(config=config, key=key))
            found = await stack.enter_async_context(
                open_discovery(peer, config, accept=accept, eager=True)
            )
            if nodes:
                await peer.connect(nodes[-1].transport.addrs)
            nodes.append(Node(key=key, transport=peer, discovery=found))
        yield nodes


async def hear(node: Node, within_s: float = 10) -> Signed[Announcement]:
    with trio.fail_after(within_s):
        async for signed in node.discovery.heard():
            return signed
    raise AssertionError


def pubsub_of(node: Node) -> GuardedPubsub:
    gossip = node.discovery._gossip
    assert gossip is not None
    assert gossip._pubsub is not None
    return gossip._pubsub


async def meshed(node: Node) -> None:
    await until(lambda: pubsub_of(node).meshed(topic_of(MODEL)), 10)


async def test_an_announcement_travels_along_a_line() -> None:
    async with line(3, GOSSIP_ONLY) as nodes:
        for node in nodes:
            await node.discovery.follow(MODEL)
        for node in nodes:
            await meshed(node)
        sent = nodes[0].announcement()
        await nodes[0].discovery.publish(sent)
        for node in nodes[1:]:
            assert await hear(node) == sent
        assert not nodes[0].discovery._heard


async def test_gossip_started_after_the_connection() -> None:
    async with transport() as a, transport() as b:
        await a.connect(b.addrs)
        async with open_discovery(a, GOSSIP_ONLY) as here, open_discovery(b, GOSSIP_ONLY) as there:
            await here.follow(MODEL)
            await there.follow(MODEL)
            key = os.urandom(32)
            node = Node(key=key, transport=b, discovery=there)
            await until(lambda: topic_of(MODEL) in pubsub_of(node).peer_topics, 10)
            await there.publish(node.announcement())
            heard = Node(key=key, transport=a, discovery=here)
            assert (await hear(heard)).statement.worker == b.address


async def test_gossip_of_a_peer_that_starts_it_much_later() -> None:
    """The attempt on connecting has failed by then, for good as far as the library goes."""
    async with transport() as a, transport() as b, open_discovery(a, GOSSIP_ONLY) as here:
        await here.follow(MODEL)
        first = Node(key=os.urandom(32), transport=a, discovery=here)
        await a.connect(b.addrs)
        await until(lambda: pubsub_of(first)._opening)
        await until(lambda: not pubsub_of(first)._opening)
        async with open_discovery(b, GOSSIP_ONLY) as there:
            await there.follow(MODEL)
            late = Node(key=os.urandom(32), transport=b, discovery=there)
            await until(lambda: topic_of(MODEL) in pubsub_of(late).peer_topics, 10)


async def test_what_does_not_belong_is_neither_heard_nor_relayed() -> None:
    async with line(3, GOSSIP_ONLY) as nodes:
        for node in nodes:
            await node.discovery.follow(MODEL)
        for node in nodes:
            await meshed(node)
        rogue = pubsub_of(nodes[0])
        # Its own checks must not stop it.
        rogue.remove_topic_validator(topic_of(MODEL))
        junk = [
            b"",
            os.urandom(300),
            codec.encode_struct(nodes[0].announcement(OTHER)),
            bytes(MESSAGE_BYTES_MAX + 1),
        ]
        for data in junk:
            await rogue.publish(topic_of(MODEL), data)
        good = nodes[0].announcement(issued_ms=9)
        await rogue.publish(topic_of(MODEL), codec.encode_struct(good))
        assert await hear(nodes[1]) == good
        assert not nodes[1].discovery._heard
        assert not nodes[2].discovery._heard or await hear(nodes[2]) == good
        assert not nodes[2].discovery._heard


async def test_forgeries_can_be_kept_from_travelling() -> None:
    def accept(signed: Signed[Announcement]) -> bool:
        return signing.recover(signed, DOMAIN) == signed.statement.worker

    async with line(2, GOSSIP_ONLY, accept) as nodes:
        for node in nodes:
            await node.discovery.follow(MODEL)
        for node in nodes:
            await meshed(node)
        pubsub_of(nodes[0]).remove_topic_validator(topic_of(MODEL))
        true = nodes[0].announcement()
        forged = Signed(nodes[0].announcement(issued_ms=2).statement, true.signature)
        for each in (forged, true):
            await pubsub_of(nodes[0]).publish(topic_of(MODEL), codec.encode_struct(each))
        assert await hear(nodes[1]) == true


async def test_one_origin_cannot_fill_a_topic() -> None:
    async with line(2, GOSSIP_ONLY) as nodes:
        for node in nodes:
            await node.discovery.follow(MODEL)
        for node in nodes:
            await meshed(node)
        rogue = pubsub_of(nodes[0])
        rogue.remove_topic_validator(topic_of(MODEL))
        for index in range(15):
            data = codec.encode_struct(nodes[0].announcement(issued_ms=index))
            await rogue.publish(topic_of(MODEL), data)
        await hear(nodes[1])
        await trio.sleep(0.3)
        assert len(nodes[1].discovery._heard) < MESSAGES_PER_ORIGIN_BURST


async def test_what_nobody_reads_is_dropped_oldest_first() -> None:
    async with transport() as a, open_discovery(a, OFF) as here:
        node = Node(key=os.urandom(32), transport=a, discovery=here)
        for index in range(HEARD_MAX + 5):
            here._on_data(codec.encode_struct(node.announcement(issued_ms=index)))
        assert (await hear(node)).statement.issued_ms == 5


async def test_providers_are_found_across_the_network() -> None:
    async with line(4, DHT_ONLY) as nodes:
        worker, client = nodes[0], nodes[-1]
        await providing(worker)
        found = await find_any(client)
        assert set(found) == set(worker.transport.addrs)
        assert (await client.transport.connect(found)).peer == worker.transport.address
        assert await client.discovery.find(OTHER) == ()


async def find_any(client: Node) -> tuple[str, ...]:
    with trio.fail_after(20):
        while True:
            if found := await client.discovery.find(MODEL):
                return found
            await trio.sleep(0.2)


async def providing(worker: Node) -> None:
    with trio.fail_after(20):
        while True:
            try:
                return await worker.discovery.provide(MODEL)
            except Unavailable:
                await trio.sleep(0.2)


async def test_nobody_to_provide_to() -> None:
    async with line(1, DHT_ONLY) as [node]:
        with pytest.raises(Unavailable, match="took the record"):
            await node.discovery.provide(MODEL)
        assert await node.discovery.find(MODEL) == ()


async def test_values_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ours never stores values, so the library's own name for the protocol is still in there.
    monkeypatch.setattr(value_store, "PROTOCOL_ID", PROTOCOL)
    async with line(2, DHT_ONLY) as nodes:
        for node in nodes:
            await until(lambda node=node: node.discovery._dht._dht is not None)  # type: ignore[misc]
        writer = nodes[0].discovery._dht
        assert writer is not None
        assert writer._dht is not None
        peer = nodes[1].transport.host.get_id()
        with trio.fail_after(10):
            assert not await writer._dht.value_store._store_at_peer(peer, b"plain-key", b"value")
        reader = nodes[1].discovery._dht
        assert reader is not None
        assert reader._dht is not None
        assert reader._dht.value_store.size() == 0


async def test_all_off_is_silent_and_loads_nothing() -> None:
    async with line(2, OFF) as nodes:
        for node in nodes:
            await node.discovery.follow(MODEL)
            await node.discovery.publish(node.announcement())
            await node.discovery.provide(MODEL)
            assert await node.discovery.find(MODEL) == ()
            assert node.discovery._gossip is None
            assert node.discovery._dht is None


async def test_a_service_that_fails_is_started_again(autojump_clock: object) -> None:
    runs = []

    async def fail_twice() -> None:
        runs.append(trio.current_time())
        if len(runs) < 3:
            raise ExceptionGroup("as the library does", [KeyError("x")])

    await supervise("test", fail_twice)
    assert [round(b - a) for a, b in pairwise(runs)] == [1, 2]


async def test_gossip_survives_its_service() -> None:
    async with line(2, GOSSIP_ONLY) as nodes:
        for node in nodes:
            await node.discovery.follow(MODEL)
        for node in nodes:
            await meshed(node)

        async def boom() -> None:
            raise RuntimeError("bug")

        old = pubsub_of(nodes[1])
        old.manager.run_task(boom)
        gossip = nodes[1].discovery._gossip
        assert gossip is not None
        await until(lambda: gossip._pubsub not in (None, old), 10)
        await until(lambda: topic_of(MODEL) in pubsub_of(nodes[0]).peer_topics, 10)
        await meshed(nodes[1])
        await meshed(nodes[0])
        sent = nodes[0].announcement()
        await nodes[0].discovery.publish(sent)
        assert await hear(nodes[1]) == sent
        assert nodes[1].transport.sessions()
