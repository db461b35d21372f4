"""GossipSub as this market uses it: few, small, signed messages; nothing of a peer's is trusted."""

from collections import OrderedDict
from collections.abc import Callable

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.pubsub_notifee import PubsubNotifee
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.tools.anyio_service import background_trio_service

from node.adapters.p2p.budget import Bucket
from node.adapters.p2p.host import Host
from node.adapters.p2p.supervision import supervise
from node.adapters.p2p.throttle import ThrottledStream
from node.errors import Unavailable

log = structlog.get_logger()

PROTOCOLS = (TProtocol("/meshsub/1.2.0"), TProtocol("/meshsub/1.1.0"))
MESSAGE_BYTES_MAX = 16 * 1024
RPC_BYTES_MAX = 128 * 1024
READ_BYTES_PER_S = 128 * 1024
READ_BYTES_BURST = 512 * 1024
TOPICS_MAX = 256
MESSAGES_PER_ORIGIN_S = 0.2
"""A worker announces every five to ten seconds at most; each of its topics counts by itself."""
MESSAGES_PER_ORIGIN_BURST = 4.0
ORIGINS_MAX = 8192
HOUSEKEEPING_S = 60.0
READY_S = 5.0
MESH_S = 2.0

Accept = Callable[[str, bytes], bool]
"""Whether a message's data belongs on a topic."""
Deliver = Callable[[bytes], None]


class GuardedRouter(GossipSub):
    """The router with limits that suit slow announcements, and a heart that goes on beating."""

    def __init__(self) -> None:
        super().__init__(
            protocols=PROTOCOLS,
            degree=6,
            degree_low=4,
            degree_high=12,
            time_to_live=60,
            gossip_window=3,
            gossip_history=5,
            heartbeat_initial_delay=0.1,
            heartbeat_interval=1,
            do_px=False,
            # Adapting would stretch the heartbeat to half a minute and more.
            adaptive_gossip_enabled=False,
            max_messages_per_topic_per_second=20.0,
            max_pending_messages_per_peer=4,
            pending_messages_ttl=10.0,
            score_params=ScoreParams(
                p4_invalid_messages=TopicScoreParams(weight=-10.0, cap=1000.0, decay=0.95),
                p5_behavior_penalty_weight=1.0,
                p5_behavior_penalty_decay=0.95,
                p5_behavior_penalty_threshold=5.0,
                gossip_threshold=-20.0,
                publish_threshold=-50.0,
                graylist_threshold=-100.0,
            ),
        )

    async def heartbeat(self) -> None:
        """Runs until cancelled: one bad beat does not end it."""
        while True:
            try:
                await super().heartbeat()
            except Exception as error:
                log.warning("p2p.heartbeat_failed", error=repr(error))
                await trio.sleep(self.heartbeat_interval)

    def tidy(self) -> None:
        """Forget what only the adaptive mode would have looked at, and forgotten."""
        self.recent_message_deliveries.clear()


class GuardedPubsub(Pubsub):
    """Reads no faster than it should, and survives each message by itself."""

    def __init__(self, host: Host, router: GuardedRouter, deliver: Callable[..., None]) -> None:
        self._deliver = deliver
        self._buckets: OrderedDict[ID, Bucket] = OrderedDict()
        self._opening: dict[ID, trio.Event] = {}
        super().__init__(
            host,  # type: ignore[arg-type]
            router,
            strict_signing=True,
            max_subscriptions_per_rpc=TOPICS_MAX,
            max_subscriptions_per_peer=TOPICS_MAX,
            max_inbound_rpc_size=RPC_BYTES_MAX,
        )

    def meshed(self, topic: str) -> int:
        """How many peers a message on a topic would be sent to."""
        assert isinstance(self.router, GossipSub)
        return len(self.router.mesh.get(topic, ()))

    async def stream_handler(self, stream: NetStream) -> None:  # type: ignore[override]
        """Serve a peer's stream, and have one to it."""
        peer_id = stream.muxed_conn.peer_id
        ours = self.peers.get(peer_id)
        if ours is None:
            # The library tries once, on connecting; the peer may start its gossip later.
            self._schedule_peer_stream_retry(peer_id)
        elif isinstance(ours, NetStream) and ours.muxed_stream.closed:  # type: ignore[attr-defined]
            self._handle_dead_peer(peer_id)
        await super().stream_handler(ThrottledStream(stream, self._bucket(peer_id)))  # type: ignore[arg-type]

    async def _handle_new_peer(self, peer_id: ID) -> None:
        # One attempt at a time: of two at once the library would lose a stream.
        while peer_id in self._opening:
            await self._opening[peer_id].wait()
        done = self._opening[peer_id] = trio.Event()
        told = set(self.topic_ids)
        try:
            await super()._handle_new_peer(peer_id)
        finally:
            del self._opening[peer_id]
            done.set()
        self._tell(peer_id, set(self.topic_ids) - told)

    def _tell(self, peer_id: ID, topics: set[str]) -> None:
        """Announce what was joined after the hello to a peer, and before it was listed."""
        queue = self.peer_queues.get(peer_id)
        if queue is not None:
            for topic in topics:
                queue.push(self._build_announce_rpc(topic, subscribe=True)[0])

    def _bucket(self, peer_id: ID) -> Bucket:
        bucket = self._buckets.pop(peer_id, None) or Bucket(
            units_per_s=READ_BYTES_PER_S,
            units_max=READ_BYTES_BURST,
            at_s=trio.current_time(),
            units=READ_BYTES_BURST,
        )
        self._buckets[peer_id] = bucket
        while len(self._buckets) > ORIGINS_MAX:
            self._buckets.popitem(last=False)
        return bucket

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Check a message, hand it on and relay it."""
        try:
            await super().push_msg(msg_forwarder, msg)
        # The library lets errors of malformed keys and ids out, into the nursery of its service.
        except Exception as error:
            log.debug("p2p.gossip_dropped", peer=str(msg_forwarder), error=repr(error))

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Called once for each message that passed every check."""
        self._deliver(publish_message)


class Gossip:
    """Topics of bytes.  `run` keeps the service alive; what was joined stays joined."""

    def __init__(self, host: Host, accept: Accept, deliver: Deliver) -> None:
        """
        Args:
            accept: Decides, without I/O, what is relayed.  What it refuses counts against the
                peer that passed it on.
            deliver: Gets the data of each accepted message of others.
        """
        self._host, self._accept, self._deliver = host, accept, deliver
        self._topics: set[str] = set()
        self._pubsub: GuardedPubsub | None = None
        self._up = trio.Event()
        self._origins: OrderedDict[tuple[bytes, str], Bucket] = OrderedDict()

    async def run(self) -> None:
        """Until cancelled."""
        await supervise("gossip", self._serve)

    async def publish(self, topic: str, data: bytes) -> int:
        """Send data to a topic, joining it so that its mesh knows this node; to how many peers.

        Raises:
            Unavailable: Gossip is down, or too many topics were joined.
        """
        await self.join(topic)
        pubsub = await self._ready()
        # The library sends to the mesh alone, which a heartbeat makes: what is published right
        # after joining would reach nobody.
        with trio.move_on_after(MESH_S):
            while not pubsub.meshed(topic) and topic in pubsub.peer_topics:  # noqa: ASYNC110
                await trio.sleep(MESH_S / 20)
        reached = pubsub.meshed(topic)
        await pubsub.publish(topic, data)
        return reached

    async def join(self, topic: str) -> None:
        """Relay a topic, and deliver what comes on it.

        Raises:
            Unavailable: Gossip is down, or too many topics were joined.
        """
        if topic in self._topics:
            return
        if len(self._topics) >= TOPICS_MAX:
            raise Unavailable("too many topics")
        pubsub = await self._ready()
        self._topics.add(topic)
        await self._join(pubsub, topic)

    async def _ready(self) -> GuardedPubsub:
        with trio.move_on_after(READY_S):
            while self._pubsub is None:
                await self._up.wait()
            return self._pubsub
        raise Unavailable("gossip is down")

    async def _serve(self) -> None:
        router = GuardedRouter()
        pubsub = GuardedPubsub(self._host, router, self._on_message)
        try:
            async with background_trio_service(router), background_trio_service(pubsub):
                await pubsub.wait_until_ready()
                for topic in self._topics:
                    await self._join(pubsub, topic)
                self._pubsub = pubsub
                self._up.set()
                for peer_id in self._host.get_connected_peers():
                    # Who connected before was never told to the service.
                    pubsub.manager.run_task(pubsub._handle_new_peer_with_retry, peer_id)
                while True:
                    await trio.sleep(HOUSEKEEPING_S)
                    router.tidy()
        finally:
            self._pubsub = None
            self._up = trio.Event()
            await self._leave_network()

    async def _leave_network(self) -> None:
        network = self._host.get_network()
        for notifee in [n for n in network.notifees if isinstance(n, PubsubNotifee)]:
            network.remove_notifee(notifee)
        for protocol in PROTOCOLS:
            self._host.remove_stream_handler(protocol)
        streams = [stream for conn in network.get_connections() for stream in conn.get_streams()]
        with trio.move_on_after(2, shield=True):
            for stream in streams:
                if stream.get_protocol() in PROTOCOLS:
                    await stream.reset()

    async def _join(self, pubsub: GuardedPubsub, topic: str) -> None:
        def validate(_forwarder: ID, message: rpc_pb2.Message) -> bool:
            return self._is_good(topic, message)

        pubsub.set_topic_validator(topic, validate, is_async_validator=False)
        await pubsub.subscribe(topic)

    def _is_good(self, topic: str, message: rpc_pb2.Message) -> bool:
        """Never raises: an error here would end the service."""
        try:
            return (
                list(message.topicIDs) == [topic]
                and len(message.data) <= MESSAGE_BYTES_MAX
                and self._accept(topic, message.data)
                and self._in_time(message.from_id, topic)
            )
        except Exception as error:
            log.warning("p2p.validator_failed", error=repr(error))
            return False

    def _in_time(self, origin: bytes, topic: str) -> bool:
        now = trio.current_time()
        bucket = self._origins.pop((origin, topic), None) or Bucket(
            units_per_s=MESSAGES_PER_ORIGIN_S,
            units_max=MESSAGES_PER_ORIGIN_BURST,
            at_s=now,
            units=MESSAGES_PER_ORIGIN_BURST,
        )
        self._origins[origin, topic] = bucket
        while len(self._origins) > ORIGINS_MAX:
            self._origins.popitem(last=False)
        late = bucket.take(1, now) > 0
        if late:
            bucket.units += (
                1  # what is refused costs nothing: a steady flood is let through thinned
            )
        return not late

    def _on_message(self, message: rpc_pb2.Message) -> None:
        if message.from_id != self._host.get_id().to_bytes():
            self._deliver(message.data)
