"""A libp2p host that speaks TCP, Noise and Yamux, and survives its peers.

It is built from the library's swarm and negotiation instead of its `BasicHost`, which brings mDNS,
UPnP, ACME and an HTTP client with it, and runs tasks that nobody owns.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
import trio
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.keys import KeyPair, PrivateKey, PublicKey
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from node.adapters.p2p import patches
from node.adapters.p2p.swarm import GuardedSwarm, new_swarm
from node.errors import ConfigError

log = structlog.get_logger()

NEGOTIATION_S = 5
FIN_WAIT_S = 5.0
IDLE_S = 60.0
ADDRS_LIFE_S = 60.0
SWEEP_S = 10.0

_NAMES = ("ip4", "ip6", "dns", "dns4", "dns6")

StreamHandler = Callable[[NetStream], Awaitable[None]]


class Host:
    """What sessions and discovery need of a host; pubsub and the DHT take it for an `IHost`."""

    def __init__(self, swarm: GuardedSwarm, keys: KeyPair, advertise: Sequence[Multiaddr]) -> None:
        self._swarm, self._keys = swarm, keys
        self._advertise = tuple(advertise)
        self._incoming = Multiselect()
        self._outgoing = MultiselectClient()
        self._idle_since: dict[INetConn, float] = {}
        self._addrs: list[Multiaddr] = []
        self._addrs_until = 0.0
        swarm.set_stream_handler(self._on_stream)

    def get_id(self) -> ID:
        """This host's PeerID."""
        return self._swarm.get_peer_id()

    def get_public_key(self) -> PublicKey:
        """The key of the PeerID."""
        return self._keys.public_key

    def get_private_key(self) -> PrivateKey:
        """What gossip signs with."""
        return self._keys.private_key

    def get_network(self) -> GuardedSwarm:
        """The swarm."""
        return self._swarm

    def get_peerstore(self) -> Any:
        """Addresses of peers, as gossip and the DHT learn them."""
        return self._swarm.peerstore

    def get_mux(self) -> Multiselect:
        """Protocols that inbound streams may ask for."""
        return self._incoming

    def get_transport_addrs(self) -> list[Multiaddr]:
        """Where this host listens, without the PeerID."""
        return [addr for each in self._swarm.listeners.values() for addr in each.get_addrs()]

    def get_addrs(self) -> list[Multiaddr]:
        """What to tell others: the configured addresses, or where it listens; with the PeerID.

        A wildcard stands for the addresses that this machine has now; loopback comes last.
        """
        now = trio.current_time()
        if now >= self._addrs_until:
            self._addrs = self._current_addrs()
            self._addrs_until = now + ADDRS_LIFE_S if self._addrs else now
        return list(self._addrs)

    def _current_addrs(self) -> list[Multiaddr]:
        suffix = Multiaddr(f"/p2p/{self.get_id()}")
        addrs = list(self._advertise) or [
            each for addr in self.get_transport_addrs() for each in _expanded(addr)
        ]
        return [addr.encapsulate(suffix) for addr in addrs]

    def get_connected_peers(self) -> list[ID]:
        """Peers with at least one connection."""
        return list(self._swarm.connections)

    def set_stream_handler(self, protocol_id: str, stream_handler: StreamHandler) -> None:
        """Serve a protocol.  A handler that returns has its stream closed, one that fails reset."""
        self._incoming.add_handler(TProtocol(protocol_id), stream_handler)  # type: ignore[arg-type]

    def remove_stream_handler(self, protocol_id: str) -> None:
        """Serve a protocol no longer."""
        self._incoming.remove_handler(TProtocol(protocol_id))

    async def connect(self, peer_info: PeerInfo) -> None:
        """Dial a peer that is not connected; for gossip and the DHT."""
        self._swarm.peerstore.add_addrs(peer_info.peer_id, peer_info.addrs, 120)
        await self._swarm.dial_peer(peer_info.peer_id)

    async def disconnect(self, peer_id: ID) -> None:
        """Close every connection with a peer."""
        await self._swarm.close_peer(peer_id)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[str]) -> INetStream:
        """A stream to a peer, dialling if need be; for gossip and the DHT.

        Raises:
            StreamFailure: The peer speaks none of the protocols, or did not answer.
            SwarmException: The peer can't be reached.
        """
        stream = await self._swarm.new_stream(peer_id)
        return await self._negotiated(stream, protocol_ids)

    async def new_stream_on(self, conn: INetConn, protocol_id: str) -> NetStream:
        """A stream on one connection.

        Raises:
            StreamFailure: The peer does not speak the protocol, or did not answer.
        """
        stream = await self._negotiated(await conn.new_stream(), [protocol_id])
        assert isinstance(stream, NetStream)
        return stream

    async def dial(self, addr: Multiaddr, peer_id: ID) -> INetConn:
        """A new connection through one address.  The caller sets the deadline.

        Raises:
            SwarmException: Nobody there, or not that peer.
        """
        return await self._swarm.dial_addr(addr, peer_id)

    async def _negotiated(self, stream: INetStream, protocol_ids: Sequence[str]) -> INetStream:
        wanted = [TProtocol(each) for each in protocol_ids]
        done = False
        try:
            protocol = await self._outgoing.select_one_of(
                wanted, MultiselectCommunicator(stream), NEGOTIATION_S
            )
            done = True
        # MultiselectClientError, and what it forgets to turn into one (UnicodeDecodeError …).
        except Exception as error:
            raise StreamFailure(f"no protocol agreed with {stream.muxed_conn.peer_id}") from error
        finally:
            if not done:
                with trio.move_on_after(1, shield=True):
                    await stream.reset()
        stream.set_protocol(protocol)
        return stream

    async def _on_stream(self, stream: INetStream) -> None:
        """Whatever happens on an inbound stream stays on it: an escaped error ends the process."""
        assert isinstance(stream, NetStream)
        try:
            protocol, handler = await self._incoming.negotiate(
                MultiselectCommunicator(stream), NEGOTIATION_S
            )
            stream.set_protocol(protocol or TProtocol(""))
            if handler is not None:
                await handler(stream)
                await _close(stream)
        # The library's own handlers raise anything on a bad message (UnicodeDecodeError,
        # protobuf's DecodeError, KeyError …); none of it may reach the swarm's nursery.
        except Exception as error:
            log.debug("p2p.stream_failed", peer=str(stream.muxed_conn.peer_id), error=repr(error))
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.reset()

    async def sweep(self) -> None:
        """Close connections on which nothing has been open for `IDLE_S`.  Runs until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            idle = [conn for conn in self._swarm.get_connections() if not conn.get_streams()]
            self._idle_since = {conn: self._idle_since.get(conn, now) for conn in idle}
            for conn, since in self._idle_since.items():
                if now - since >= IDLE_S:
                    await conn.close()


_LOOPBACK = {"/ip4/0.0.0.0/": "/ip4/127.0.0.1/", "/ip6/::/": "/ip6/::1/"}


def _expanded(addr: Multiaddr) -> list[Multiaddr]:
    for wildcard, loopback in _LOOPBACK.items():
        if str(addr).startswith(wildcard):
            last = Multiaddr(str(addr).replace(wildcard, loopback))
            return [each for each in expand_wildcard_address(addr) if each != last] + [last]
    return [addr]


async def _close(stream: NetStream) -> None:
    # Closed, not reset: a reset makes the peer drop what it has not read.  Its own end is waited
    # for, else the library keeps the stream until the connection ends.
    await stream.close()
    with trio.move_on_after(FIN_WAIT_S), suppress(MuxedStreamError):
        while await stream.muxed_stream.read(65536):
            pass


@asynccontextmanager
async def open_host(
    *, key: bytes, listen: Sequence[str], advertise: Sequence[str], sessions_max: int
) -> AsyncIterator[Host]:
    """A running host, listening; closed with all its connections on exit.

    Args:
        key: secp256k1 private key, 32 bytes.
        listen: Multiaddrs ``/ip4|ip6/…/tcp/PORT``; port 0 lets the system choose.
        advertise: Multiaddrs to tell others instead.

    Raises:
        ConfigError: An address can't be read or is in use.
    """
    patches.install()
    listen_addrs, advertised = _parse(listen), _parse(advertise)
    for addr in listen_addrs:
        _probe(addr)
    keys = create_new_key_pair(key)
    swarm = new_swarm(keys, sessions_max)
    host = Host(swarm, keys, advertised)
    failure: Exception | None = None
    async with background_trio_service(swarm), trio.open_nursery() as nursery:
        nursery.start_soon(host.sweep)
        try:
            await _listen(swarm, listen_addrs)
            yield host
        # Carried around the nurseries, which would wrap it in a group.
        except Exception as error:
            failure = error
        finally:
            # Leaving the service alone would keep the listener accepting.
            with trio.move_on_after(3, shield=True):
                await swarm.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _listen(swarm: GuardedSwarm, addrs: Sequence[Multiaddr]) -> None:
    if addrs:
        await swarm.listen(*addrs)
    for addr in addrs:
        if str(addr) not in swarm.listeners:
            raise ConfigError(f"can't listen on {addr}")


def _parse(addrs: Sequence[str]) -> list[Multiaddr]:
    parsed = []
    for text in addrs:
        try:
            addr = Multiaddr(text)
            names = [protocol.name for protocol in addr.protocols()]
        except ValueError as error:
            raise ConfigError(f"{text!r} is not a multiaddr", hint=str(error)) from error
        if len(names) != 2 or names[0] not in _NAMES or names[1] != "tcp":
            raise ConfigError(
                f"{text} is not a TCP address", hint="write it as /ip4/ADDRESS/tcp/PORT"
            )
        parsed.append(addr)
    return parsed


def _probe(addr: Multiaddr) -> None:
    """The library binds with SO_REUSEPORT: a second process would share the port silently."""
    name = addr.protocols()[0].name
    host, port = str(addr.value_for_protocol(name)), int(str(addr.value_for_protocol("tcp")))
    if port == 0:
        return
    family = socket.AF_INET6 if name == "ip6" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Else connections of an earlier run, in TIME_WAIT, keep a node from starting again.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"can't listen on {addr}: {error.strerror}",
                hint="another node may be running; choose a port with network.listen",
            ) from error
