"""Sessions by address: dials, accepts, and keeps one per peer."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import structlog
import trio
from libp2p.abc import INetConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.adapters.p2p.framing import WireStream, printable
from node.adapters.p2p.greeting import HELLO_S, greet, say_goodbye
from node.adapters.p2p.host import Host, open_host
from node.adapters.p2p.identity import (
    address_of_peer_id,
    peer_id_bytes,
    peer_id_text,
)
from node.adapters.p2p.session import CLOSE_S, StreamSession
from node.adapters.p2p.swarm import DIAL_S
from node.config import NetworkConfig
from node.errors import NodeError, PeerError, Unavailable
from node.protocol.fields import Address
from node.protocol.frames import Fault, Hello
from node.protocol.signing import address_of_key
from node.roles.ports import Session

log = structlog.get_logger()

SESSION_PROTOCOL = "/gpu-market/session/1"
ADDRS_MAX = 8
STAGGER_S = 0.25
"""Between the first dials of several addresses of one peer."""
CONNECT_S = DIAL_S
THEIRS_S = 2.0
REUSE_S = 1.5
"""How long a connection made earlier may take to give a stream; then it is taken for dead."""
INBOUND_MAX = 1024
GREETINGS_PER_PEER_MAX = 2


@dataclass(eq=False, slots=True)
class _Dial:
    """An attempt that several callers of `connect` wait for."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    opened: bool = False
    """We are asking for our stream: from here on the lower PeerID's wins, if the peer asks too."""
    error: NodeError | None = None


class Libp2pTransport:
    """Implements `ports.Transport`.  Made by `open_transport`."""

    def __init__(
        self,
        host: Host,
        nursery: trio.Nursery,
        *,
        address: Address,
        hello: Callable[[], Hello],
        sessions_max: int,
        now: Callable[[], float],
    ) -> None:
        self.host = host
        self.address = address
        self._nursery, self._hello, self._now = nursery, hello, now
        self._sessions_max = sessions_max
        self._sessions: dict[Address, StreamSession] = {}
        self._dials: dict[Address, _Dial] = {}
        self._greetings: dict[Address, list[trio.Event]] = {}
        self._running: set[StreamSession] = set()
        self._arrived: deque[StreamSession] = deque(maxlen=INBOUND_MAX)
        self._arrival, self._added = trio.Event(), trio.Event()
        self._closing = False
        host.set_stream_handler(SESSION_PROTOCOL, self._accept)

    @property
    def addrs(self) -> tuple[str, ...]:
        """Multiaddrs with PeerID under which this node listens."""
        return tuple(str(addr) for addr in self.host.get_addrs())

    def sessions(self) -> Mapping[Address, Session]:
        """Live sessions by peer."""
        return MappingProxyType(self._sessions)

    async def inbound(self) -> AsyncIterator[Session]:
        """Each session, dialled or accepted, once, when it is ready; one reader."""
        while True:
            while self._arrived:
                session = self._arrived.popleft()
                if session.lost is None:
                    yield session
            self._arrival = trio.Event()
            await self._arrival.wait()

    async def connect(self, addrs: Sequence[str]) -> StreamSession:
        """The live session with the peer that the multiaddrs name, dialling if there is none.

        Raises:
            Unavailable: No address answered within `CONNECT_S`.
            PeerError: Not our protocol, version, chain or escrow; or no address of one peer.
        """
        peer_id, dialled = parse_peer_addrs(addrs)
        peer = address_of_peer_id(peer_id)
        if peer == self.address:
            raise PeerError("that is this node itself")
        await trio.lowlevel.checkpoint()
        for event in list(self._greetings.get(peer, ())):
            with trio.move_on_after(HELLO_S):
                await event.wait()
        session = self._sessions.get(peer)
        if session is not None:
            return session
        return await self._dialled(peer, ID(peer_id), dialled)

    async def _dialled(
        self, peer: Address, peer_id: ID, addrs: Sequence[Multiaddr]
    ) -> StreamSession:
        dial = self._dials.get(peer)
        if dial is None:
            if self._closing:
                raise Unavailable("this node is shutting down")
            if len(self._sessions) >= self._sessions_max:
                raise Unavailable("too many sessions", hint="raise network.sessions_max")
            dial = self._dials[peer] = _Dial()
            self._nursery.start_soon(self._dial, dial, peer, peer_id, addrs)
        await dial.done.wait()
        session = self._sessions.get(peer)
        if session is not None:
            return session
        # Each caller gets an exception of its own: tracebacks grow while they travel.
        kind = PeerError if isinstance(dial.error, PeerError) else Unavailable
        raise kind(str(dial.error or "the session was lost at once"))

    async def _dial(
        self, dial: _Dial, peer: Address, peer_id: ID, addrs: Sequence[Multiaddr]
    ) -> None:
        try:
            with dial.scope, trio.fail_after(CONNECT_S):
                stream = await self._stream(dial, peer_id, addrs)
                await self._greet(WireStream(stream), peer)
            if dial.scope.cancelled_caught:
                dial.error = await self._theirs(peer)
        except trio.TooSlowError:
            dial.error = Unavailable(f"{peer_id} did not answer in time")
        except BaseLibp2pError as error:
            dial.error = Unavailable(f"{peer_id} can't be reached: {error}")
        except PeerError as error:
            dial.error = error
        except NodeError as error:
            # Perhaps both sides dialled at once, and the peer kept its own stream.
            keeps = peer_id.to_bytes() < self.host.get_id().to_bytes()
            dial.error = await self._theirs(peer) if keeps else error
        # A bug, here or in the library: it costs this dial, not every session of the node.
        except Exception as error:
            log.exception("p2p.dial_failed", peer=str(peer_id))
            dial.error = Unavailable(f"{peer_id} can't be reached: {error!r}")
        finally:
            del self._dials[peer]
            dial.done.set()

    async def _stream(self, dial: _Dial, peer_id: ID, addrs: Sequence[Multiaddr]) -> NetStream:
        """A session stream, on a connection that there is already if one works."""
        network = self.host.get_network()
        for conn in network.live_connections(peer_id):
            dial.opened = True
            with trio.move_on_after(REUSE_S):
                return await self.host.new_stream_on(conn, SESSION_PROTOCOL)
            network.cut(conn)
        dial.opened = False
        conn = await self._connection(peer_id, addrs)
        dial.opened = True
        return await self.host.new_stream_on(conn, SESSION_PROTOCOL)

    async def _connection(self, peer_id: ID, addrs: Sequence[Multiaddr]) -> INetConn:
        """A connection through the first of the addresses that answers."""
        if len(addrs) == 1:
            return await self.host.dial(addrs[0], peer_id)
        won: list[INetConn] = []
        errors: list[BaseLibp2pError] = []

        async def attempt(addr: Multiaddr, delay_s: float) -> None:
            await trio.sleep(delay_s)
            try:
                won.append(await self.host.dial(addr, peer_id))
            except BaseLibp2pError as error:
                errors.append(error)
            else:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index, addr in enumerate(addrs):
                nursery.start_soon(attempt, addr, index * STAGGER_S)
        if not won:
            raise errors[0]
        return won[0]

    async def _theirs(self, peer: Address) -> NodeError | None:
        """Wait for the session on the stream that the peer has opened, or is opening."""
        with trio.move_on_after(THEIRS_S):
            while peer not in self._sessions:
                await self._added.wait()
            return None
        return Unavailable("the peer closed the stream before it said hello")

    async def _accept(self, net_stream: NetStream) -> None:
        """Serve an inbound session stream; returns when the session has ended."""
        stream = WireStream(net_stream)
        try:
            peer = address_of_peer_id(stream.peer_id)
        except PeerError as error:
            await say_goodbye(stream, Fault.PROTOCOL, str(error))
            return
        if self._closing:
            await say_goodbye(stream, Fault.SHUTDOWN, "shutting down")
            return
        greetings = self._greetings.get(peer, [])
        known = peer in self._sessions
        if len(greetings) >= GREETINGS_PER_PEER_MAX or (
            not known and len(self._sessions) >= self._sessions_max
        ):
            await say_goodbye(stream, Fault.LIMIT, "too many sessions")
            return
        dial = self._dials.get(peer)
        if dial is not None:
            if dial.opened and self.host.get_id().to_bytes() < stream.peer_id:
                return  # ours stays, by the rule that the other side applies too
            dial.scope.cancel()
        event = trio.Event()
        self._greetings.setdefault(peer, []).append(event)
        try:
            session = await self._greet(stream, peer)
        except NodeError as error:
            log.info("p2p.session_refused", peer=peer.hex(), reason=str(error))
            return
        finally:
            event.set()
            self._greetings[peer].remove(event)
            if not self._greetings[peer]:
                del self._greetings[peer]
        await session.wait_gone()

    async def _greet(self, stream: WireStream, peer: Address) -> StreamSession:
        ours = self._hello()
        try:
            theirs, reader = await greet(stream, ours)
            session = StreamSession(
                stream,
                reader,
                peer=peer,
                peer_id=peer_id_text(stream.peer_id),
                ours=ours,
                hello=theirs,
                leads=self.host.get_id().to_bytes() < stream.peer_id,
                now=self._now,
            )
        except BaseException:
            await stream.discard()
            raise
        self._add(session)
        return session

    def _add(self, session: StreamSession) -> None:
        old = self._sessions.get(session.peer)
        if old is not None:
            # The peer would not have asked for one if it still had the old one.
            session.replace(old)
        self._sessions[session.peer] = session
        self._running.add(session)
        self._nursery.start_soon(self._run, session)
        self._arrived.append(session)
        self._arrival.set()
        self._added.set()
        self._added = trio.Event()

    async def _run(self, session: StreamSession) -> None:
        log.info("p2p.session", peer=session.peer_id, agent=printable(session.hello.agent))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                # It takes a while to part; but from now on nobody may be given it as a live one.
                await session.wait_lost()
                self._forget(session)
        finally:
            self._forget(session)
            self._running.discard(session)
            log.info("p2p.session_lost", peer=session.peer_id, reason=session.lost)

    def _forget(self, session: StreamSession) -> None:
        if self._sessions.get(session.peer) is session:
            del self._sessions[session.peer]

    async def aclose(self, reason: str) -> None:
        """End every session, with what is queued on each sent within `CLOSE_S`."""
        self._closing = True
        for dial in self._dials.values():
            dial.scope.cancel()
        sessions = list(self._running)
        for session in sessions:
            session.close(reason)
        with trio.move_on_after(CLOSE_S + 0.5):
            for session in sessions:
                await session.wait_gone()


def parse_peer_addrs(addrs: Sequence[str]) -> tuple[bytes, tuple[Multiaddr, ...]]:
    """The PeerID that multiaddrs of one peer name, and the addresses without repeats.

    Raises:
        PeerError: None, too long, not TCP, without PeerID, or of several peers.
    """
    peer_ids: set[str] = set()
    parsed: dict[str, Multiaddr] = {}
    for text in addrs[:ADDRS_MAX]:
        try:
            addr = Multiaddr(text)
            names = [protocol.name for protocol in addr.protocols()]
            peer_id = str(addr.value_for_protocol("p2p"))
        except (ValueError, KeyError, LookupError):
            raise PeerError(f"not an address of a peer: {text[:100]!r}") from None
        if len(names) != 3 or names[1:] != ["tcp", "p2p"]:
            raise PeerError(f"not a TCP address of a peer: {text[:100]!r}")
        peer_ids.add(peer_id)
        parsed[text] = addr
    if len(peer_ids) != 1:
        raise PeerError("no address of exactly one peer")
    return peer_id_bytes(peer_ids.pop()), tuple(parsed.values())


@asynccontextmanager
async def open_transport(
    config: NetworkConfig,
    key: bytes,
    hello: Callable[[], Hello],
    *,
    now: Callable[[], float] = trio.current_time,
) -> AsyncIterator[Libp2pTransport]:
    """A listening transport; its sessions are closed, politely, on exit.

    Args:
        key: The node's session key, 32 bytes.
        hello: What to say on a new session; called for each.
        now: Monotonic seconds, for `Inbound.arrived_s`.

    Raises:
        ConfigError: A listening address can't be read or is in use.
    """
    failure: Exception | None = None
    async with (
        open_host(
            key=key,
            listen=config.listen,
            advertise=config.advertise,
            sessions_max=config.sessions_max,
        ) as host,
        trio.open_nursery() as nursery,
    ):
        transport = Libp2pTransport(
            host,
            nursery,
            address=address_of_key(key),
            hello=hello,
            sessions_max=config.sessions_max,
            now=now,
        )
        try:
            yield transport
        # Carried around the nurseries, which would wrap the caller's own error in a group.
        except Exception as error:
            failure = error
        finally:
            with trio.CancelScope(shield=True):
                await transport.aclose("shutting down")
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
