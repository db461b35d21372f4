"""Kademlia for one purpose: which peers say that they serve a model.  Hints, never more."""

import random
from types import ModuleType

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht import common as kad_common
from libp2p.kad_dht import kad_dht, peer_routing, provider_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from node.adapters.p2p.budget import Bucket
from node.adapters.p2p.host import Host
from node.adapters.p2p.supervision import supervise
from node.adapters.p2p.throttle import ThrottledStream
from node.errors import Unavailable

log = structlog.get_logger()

PROTOCOL = TProtocol("/gpu-market/kad/1.0.0")
"""Our own: with the library's, nodes would join the public network of IPFS."""
MESSAGE_BYTES_MAX = 64 * 1024
STREAM_S = 15.0
READ_BYTES_PER_S = 64 * 1024
READ_BYTES_BURST = 256 * 1024
KEYS_MAX = 4096
PROVIDE_S = 30.0
FIND_S = 8.0
PEERS_ASKED_MAX = 10
PROVIDERS_MAX = 64
REFRESH_S = 120.0
REFRESH_RETRY_S = (1.0, 60.0)
READY_S = 5.0

_PROTOCOL_USERS: tuple[ModuleType, ...] = (kad_common, kad_dht, peer_routing, provider_store)
_SIZE_USERS: tuple[ModuleType, ...] = (kad_dht, peer_routing, provider_store)


def install() -> None:
    """Set the protocol's name and the size of its messages where the library reads them."""
    for module in _PROTOCOL_USERS:
        assert hasattr(module, "PROTOCOL_ID"), module.__name__
        module.PROTOCOL_ID = PROTOCOL  # type: ignore[attr-defined]
    for module in _SIZE_USERS:
        assert hasattr(module, "MAX_DHT_MESSAGE_SIZE"), module.__name__
        module.MAX_DHT_MESSAGE_SIZE = MESSAGE_BYTES_MAX  # type: ignore[attr-defined]


class GuardedDht(KadDHT):
    """Serves providers only, to each peer at its pace, and remembers a bounded number of keys."""

    def __init__(self, host: Host) -> None:
        super().__init__(
            host,  # type: ignore[arg-type]
            DHTMode.SERVER,
            # No namespace is valid: records of values are refused.
            validator=NamespacedValidator({}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
            enable_values=False,
        )
        self._bucket = Bucket(
            units_per_s=READ_BYTES_PER_S * 4,
            units_max=READ_BYTES_BURST * 4,
            at_s=trio.current_time(),
            units=READ_BYTES_BURST * 4,
        )
        keep = self.provider_store.add_provider

        def add_provider(key: bytes, provider: PeerInfo) -> None:
            known = self.provider_store.providers
            if key in known or len(known) < KEYS_MAX:
                keep(key, provider)

        self.provider_store.add_provider = add_provider  # type: ignore[method-assign]

    async def handle_stream(self, stream: NetStream) -> None:  # type: ignore[override]
        """Serve a stream; one that dawdles would keep one of the library's twelve places."""
        with trio.move_on_after(STREAM_S) as scope:
            await super().handle_stream(ThrottledStream(stream, self._bucket))  # type: ignore[arg-type]
        if scope.cancelled_caught:
            await stream.reset()


class Dht:
    """Provider records by 32-byte model hash."""

    def __init__(self, host: Host) -> None:
        install()
        self._host = host
        self._dht: GuardedDht | None = None
        self._up = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        await supervise("dht", self._serve)

    async def provide(self, model: bytes) -> None:
        """Store with the closest peers that this node serves a model.

        Raises:
            Unavailable: No other peer took it.
        """
        dht = await self._ready()
        with trio.move_on_after(PROVIDE_S):
            if await dht.provider_store.provide(key_of(model)):
                return
        raise Unavailable("no peer of the DHT took the record")

    async def find(self, model: bytes) -> tuple[str, ...]:
        """Multiaddrs with PeerID of peers that are said to serve a model.

        Raises:
            Unavailable: The DHT is down.
        """
        dht = await self._ready()
        key = key_of(model)
        found: dict[bytes, PeerInfo] = {}
        for provider in dht.provider_store.get_providers(key):
            found[provider.peer_id.to_bytes()] = provider
        with trio.move_on_after(FIND_S):
            await self._ask_closest(dht, key, found)
        found.pop(self._host.get_id().to_bytes(), None)
        return tuple(addr for provider in found.values() for addr in _addrs(provider))

    async def _ask_closest(self, dht: GuardedDht, key: bytes, found: dict[bytes, PeerInfo]) -> None:
        # Not the library's look-up: it asks nobody once it has an answer, for two days.
        closest = await dht.peer_routing.find_closest_peers_network(key)

        async def ask(peer_id: ID) -> None:
            store = dht.provider_store
            providers, _ = await store._get_providers_from_peer_with_closers(peer_id, key)
            for provider in providers[:PROVIDERS_MAX]:
                if len(found) < PROVIDERS_MAX:
                    found.setdefault(provider.peer_id.to_bytes(), provider)

        async with trio.open_nursery() as nursery:
            for peer_id in closest[:PEERS_ASKED_MAX]:
                if peer_id != self._host.get_id():
                    nursery.start_soon(ask, peer_id)

    async def _ready(self) -> GuardedDht:
        with trio.move_on_after(READY_S):
            while self._dht is None:
                await self._up.wait()
            return self._dht
        raise Unavailable("the DHT is down")

    async def _serve(self) -> None:
        dht = GuardedDht(self._host)
        try:
            async with background_trio_service(dht):
                self._dht = dht
                self._up.set()
                await self._keep_fresh(dht)
        finally:
            self._dht = None
            self._up = trio.Event()
            self._host.remove_stream_handler(PROTOCOL)

    async def _keep_fresh(self, dht: GuardedDht) -> None:
        """Connecting does not fill the routing table; asking does, at a moment of one's own."""
        retry_s = REFRESH_RETRY_S[0]
        while True:
            await dht.refresh_routing_table()
            if dht.get_routing_table_size() or not self._host.get_connected_peers():
                retry_s = REFRESH_RETRY_S[0]
            else:
                retry_s = min(retry_s * 2, REFRESH_RETRY_S[1])
            pause_s = REFRESH_S if dht.get_routing_table_size() else retry_s
            await trio.sleep(pause_s * random.uniform(0.75, 1.25))


def key_of(model: bytes) -> bytes:
    """A model's key: the sha2-256 multihash that a CID of the manifest would have."""
    return b"\x12\x20" + model


def _addrs(provider: PeerInfo) -> list[str]:
    suffix = Multiaddr(f"/p2p/{provider.peer_id}")
    addrs = []
    for addr in provider.addrs[:8]:
        bare = addr.decapsulate(suffix) if str(addr).endswith(str(suffix)) else addr
        addrs.append(str(bare.encapsulate(suffix)))
    return addrs
