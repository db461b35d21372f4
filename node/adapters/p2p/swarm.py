"""The library's swarm, with limits on who gets in and no will of its own."""

from typing import Any

import structlog
import trio
from libp2p.abc import INetConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from node.adapters.p2p import patches
from node.adapters.p2p.admission import HANDSHAKE_S, Admission, Handshake

log = structlog.get_logger()

DIAL_S = 5.0
CLOSE_S = 1.5
BLOCKED_AFTER_DIAL_S = 2.0
CONNECTIONS_BESIDE_SESSIONS = 64
CONNECTIONS_PER_PEER_MAX = 4


class NoAutoConnector:
    """Dials nobody: which peers to be connected to is the market's decision."""

    _is_connecting = False

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Nothing to run."""

    def record_disconnect(self, peer_id: ID) -> None:
        """Nothing to back off from."""

    async def maybe_connect(self) -> None:
        """No dial."""


class GuardedSwarm(Swarm):
    """The library's swarm with an inbound path that forgets connections when they end.

    Its own keeps a slot and a task per inbound connection until the process exits, and accepts
    nobody after the 250th.
    """

    def __init__(self, *args: Any, sessions_max: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.admission = Admission(connections_max=sessions_max + CONNECTIONS_BESIDE_SESSIONS)
        self.auto_connector = NoAutoConnector()  # type: ignore[assignment]
        self._negative_peer_cache._ttl = BLOCKED_AFTER_DIAL_S

    async def _handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr
    ) -> None:
        remote = read_write_closer.get_remote_address()
        ip = remote[0] if remote else ""
        handshake = self.admission.begin(ip)
        if handshake is None:
            await read_write_closer.close()
            return
        try:
            with handshake.scope:
                await self._serve_inbound(read_write_closer, maddr, handshake)
        finally:
            self.admission.end(handshake)
            with trio.CancelScope(shield=True):
                await read_write_closer.close()

    async def close(self) -> None:
        """Stop listening, close every connection at the same time, and the rest."""
        for listener in list(self.listeners.values()):
            await listener.close()
        with trio.move_on_after(CLOSE_S):
            async with trio.open_nursery() as nursery:
                for conn in self.get_connections():
                    nursery.start_soon(conn.close)
        for conn in self.get_connections():
            self.cut(conn)
        await super().close()

    def _schedule_auto_connect(self) -> None:
        """Nothing to schedule."""

    def live_connections(self, peer_id: ID) -> list[INetConn]:
        """Connections with a peer that can take a stream; others are listed for a while longer."""
        return [
            conn
            for conn in self.get_connections(peer_id)
            if not conn.is_closed and conn.muxed_conn.is_established
        ]

    def cut(self, conn: INetConn) -> None:
        """End a connection without a word to the peer, which would not hear it."""
        assert isinstance(conn.muxed_conn, patches.GuardedYamux)
        conn.muxed_conn.abort()

    async def _serve_inbound(
        self, stream: ReadWriteCloser, maddr: Multiaddr, handshake: Handshake
    ) -> None:
        try:
            muxed = await self.upgrade_inbound_raw_conn(RawConnection(stream, False), maddr)
        # Garbage makes the handshake raise whatever its parts raise (cryptography, protobuf …).
        except Exception as error:
            log.debug("p2p.handshake_failed", ip=handshake.ip, error=repr(error))
            return
        self.admission.end(handshake)
        assert isinstance(muxed, patches.GuardedYamux)
        if len(self.live_connections(muxed.peer_id)) > CONNECTIONS_PER_PEER_MAX:
            muxed.abort()
        self.admission.connected(handshake.ip)
        try:
            await muxed.event_closed.wait()
        finally:
            self.admission.gone(handshake.ip)


def new_swarm(keys: KeyPair, sessions_max: int) -> GuardedSwarm:
    """A swarm that speaks TCP, Noise and Yamux; not running yet."""
    peer_id = ID.from_pubkey(keys.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, keys)
    # The library's defaults accept plaintext, with which anybody can be anybody.
    noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
    upgrader = TransportUpgrader({NOISE: noise}, {patches.YAMUX: patches.GuardedYamux})
    upgrader.muxer_multistream = patches.GuardedMuxer({patches.YAMUX: patches.GuardedYamux})
    connections_max = sessions_max + CONNECTIONS_BESIDE_SESSIONS
    return GuardedSwarm(
        peer_id,
        peerstore,
        upgrader,
        [TCP()],
        RetryConfig(max_retries=0),
        ConnectionConfig(
            max_connections=connections_max,
            high_watermark=connections_max,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
            dial_timeout=DIAL_S,
            inbound_upgrade_timeout=HANDSHAKE_S,
            outbound_upgrade_timeout=HANDSHAKE_S,
        ),
        sessions_max=sessions_max,
    )
