"""The network between simulated nodes: the production session on byte streams that suffer.

Each stream keeps its order, as TCP does.  Bytes take time, a different one each write; a partition
holds them back, a cut loses what is on its way; a peer that vanished is noticed by its silence.
"""

import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from node.adapters.p2p.framing import FrameReader, WireStream
from node.adapters.p2p.session import StreamSession
from node.errors import SessionLost, Unavailable
from node.protocol import codec
from node.protocol.fields import Address
from node.protocol.frames import Hello
from tests.roles.fakes import peer_id_of
from tests.sim.trace import Trace

DIAL_S: Final = 1.0
"""After this a peer that does not answer is given up."""
LOST = "the connection was lost"
Watch = Callable[[str, bytes], None]
"""Told of each whole frame (its payload) that a node is about to write."""
Boundary = Callable[[str, str], None]
"""Told of points at which a node may be ended."""


@dataclass(slots=True, eq=False)
class Pipe:
    """One direction of a connection."""

    data: deque[tuple[float, bytes]] = field(default_factory=deque)
    due_s: float = -math.inf
    """When the last of it arrives."""
    ended: bool = False
    """Nothing more will be written."""
    wake: trio.Event = field(default_factory=trio.Event)

    def ring(self) -> None:
        self.wake.set()
        self.wake = trio.Event()


@dataclass(slots=True, eq=False)
class Connection:
    """Both directions between two nodes, by the writer's name."""

    names: tuple[str, str]
    pipes: dict[str, Pipe]
    broken: bool = False
    dead: set[str] = field(default_factory=set)
    """Nodes whose process is gone: nothing of them has any effect."""

    def cut(self) -> None:
        """Both ends find it gone; what was on its way is lost."""
        self.broken = True
        for pipe in self.pipes.values():
            pipe.ring()


class SimStream(WireStream):
    """`adapters.p2p.framing.WireStream` at one end of a connection."""

    def __init__(self, net: "Net", connection: Connection, own: str, other: str) -> None:
        self._network = net
        self._connection = connection
        self._own, self._other = own, other
        self._out, self._in = connection.pipes[own], connection.pipes[other]
        self._unsent = bytearray()
        """Of a frame that has not left whole."""

    def shares_connection(self, other: WireStream) -> bool:
        return isinstance(other, SimStream) and other._connection is self._connection

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._gone:
                raise SessionLost(LOST)
            now_s = trio.current_time()
            if self._network.held(self._own, self._other):
                await self._network.changed.wait()
            elif self._in.data and self._in.data[0][0] <= now_s:
                return self._arrived(now_s)
            elif self._in.data:
                with trio.CancelScope(deadline=self._in.data[0][0]):
                    await self._in.wake.wait()
            elif self._in.ended:
                raise SessionLost("the connection was closed by the peer")
            else:
                await self._in.wake.wait()

    def _arrived(self, now_s: float) -> bytes:
        parts = []
        while self._in.data and self._in.data[0][0] <= now_s:
            parts.append(self._in.data.popleft()[1])
        data = b"".join(parts)
        self._network.trace.note(self._own, "got", f"{len(data)} B from {self._other}")
        return data

    async def write(self, data: bytes) -> None:
        self._check()
        self._network.trace.note(self._own, "sent", f"{len(data)} B to {self._other}", data)
        self._unsent += data
        for payload in self._whole_frames():
            self._network.watch(self._own, payload)
        self._network.boundary(self._own, "before send")
        self._check()  # the node may have ended just now: then nothing leaves
        self._out.due_s = max(self._out.due_s, trio.current_time() + self._network.latency_s())
        if not self._out.data:
            self._out.data.append((self._out.due_s, data))
            self._out.ring()
        else:
            self._out.data.append((self._out.due_s, data))
        self._network.boundary(self._own, "after send")
        await trio.lowlevel.checkpoint()

    def _whole_frames(self) -> list[bytes]:
        found = []
        while len(self._unsent) >= codec.LENGTH_SIZE:
            end = codec.LENGTH_SIZE + codec.unpack_length(self._unsent[: codec.LENGTH_SIZE])
            if len(self._unsent) < end:
                break
            found.append(bytes(self._unsent[codec.LENGTH_SIZE : end]))
            del self._unsent[:end]
        return found

    async def close(self) -> None:
        self._check()
        self._out.ended = True
        self._out.ring()
        await trio.lowlevel.checkpoint()

    async def discard(self) -> None:
        if not self._gone:
            self._out.ended = True
            self._out.ring()

    def abort(self) -> None:
        if not self._gone:
            self._network.cut(self._connection)

    @property
    def _gone(self) -> bool:
        return self._connection.broken or self._own in self._connection.dead

    def _check(self) -> None:
        if self._gone or self._out.ended:
            raise SessionLost(LOST)


class SimTransport:
    """`ports.Transport` for one life of a node."""

    def __init__(self, net: "Net", name: str, address: Address, hello: Callable[[], Hello]) -> None:
        self.name = name
        self.address = address
        self.hello = hello
        self.peer_id = peer_id_of(address)
        self._net = net
        self._sessions: dict[Address, StreamSession] = {}
        self._dials: dict[str, trio.Event] = {}
        self._new_in, self._new = trio.open_memory_channel[StreamSession](math.inf)
        self._nursery: trio.Nursery | None = None

    @property
    def addrs(self) -> tuple[str, ...]:
        return (self._net.addr_of(self.name, self.address),)

    def sessions(self) -> Mapping[Address, StreamSession]:
        return dict(self._sessions)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reachable until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._net.listening[self.peer_id] = self
            task_status.started()
            await trio.sleep_forever()

    async def inbound(self) -> AsyncIterator[StreamSession]:
        async for session in self._new:
            if session.lost is None:
                yield session

    async def connect(self, addrs: Sequence[str]) -> StreamSession:
        peer_id = addrs[0].rpartition("/p2p/")[2]
        await trio.lowlevel.checkpoint()
        while (known := self._session_with(peer_id)) is None and peer_id in self._dials:
            await self._dials[peer_id].wait()
        if known is not None:
            return known
        done = self._dials[peer_id] = trio.Event()
        try:
            return await self._dial(peer_id)
        finally:
            del self._dials[peer_id]
            done.set()

    async def _dial(self, peer_id: str) -> StreamSession:
        await trio.sleep(self._net.latency_s() * 3)
        target = self._net.listening.get(peer_id)
        if target is None:
            raise Unavailable(f"{peer_id} refused the connection")
        if self._net.held(self.name, target.name) or target is self:
            await trio.sleep(DIAL_S)
            raise Unavailable(f"{peer_id} did not answer in time")
        known = self._session_with(peer_id)
        return known if known is not None else self._net.join(self, target)

    def add(self, session: StreamSession) -> None:
        """Both hellos were said."""
        assert self._nursery is not None
        old = self._sessions.get(session.peer)
        if old is not None:
            session.replace(old)
        self._sessions[session.peer] = session
        self._nursery.start_soon(self._serve, session)
        self._new_in.send_nowait(session)

    async def _serve(self, session: StreamSession) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await session.wait_lost()
            if self._sessions.get(session.peer) is session:
                del self._sessions[session.peer]

    def _session_with(self, peer_id: str) -> StreamSession | None:
        found = (s for s in self._sessions.values() if s.peer_id == peer_id and s.lost is None)
        return next(found, None)


class Net:
    """Everybody, and what is wrong between them."""

    def __init__(self, trace: Trace, rng: random.Random, *, latency_s: tuple[float, float]) -> None:
        """
        Args:
            trace: Told of what is sent and what arrives.
            rng: How long each write takes.
            latency_s: Least and most of that.
        """
        self.trace = trace
        self.rng = rng
        self.listening: dict[str, SimTransport] = {}
        self.changed = trio.Event()
        self.watch: Watch = lambda _name, _payload: None
        self.boundary: Boundary = lambda _name, _kind: None
        self._latency_s = latency_s
        self._split: set[frozenset[str]] = set()
        self._frozen: set[str] = set()
        self._connections: list[Connection] = []

    def addr_of(self, name: str, address: Address) -> str:
        number = sum(name.encode()) & 255
        return f"/ip4/10.{number}.{address[0]}.1/tcp/4321/p2p/{peer_id_of(address)}"

    def latency_s(self) -> float:
        return self.rng.uniform(*self._latency_s)

    def held(self, one: str, two: str) -> bool:
        """Whether nothing passes between two nodes now."""
        stopped = one in self._frozen or two in self._frozen
        return stopped or frozenset((one, two)) in self._split

    def join(self, dialler: SimTransport, target: SimTransport) -> StreamSession:
        """Connect two nodes; the dialler's end."""
        names = (dialler.name, target.name)
        connection = Connection(names=names, pipes={name: Pipe() for name in names})
        self._connections = [each for each in self._connections if not each.broken]
        self._connections.append(connection)
        self.trace.note(dialler.name, "connected", target.name)
        hellos = dialler.hello(), target.hello()
        ends = []
        for own, other, ours, theirs in (
            (dialler, target, hellos[0], hellos[1]),
            (target, dialler, hellos[1], hellos[0]),
        ):
            stream = SimStream(self, connection, own.name, other.name)
            session = StreamSession(
                stream,
                FrameReader(stream),
                peer=other.address,
                peer_id=other.peer_id,
                ours=ours,
                hello=theirs,
                leads=own.peer_id < other.peer_id,
            )
            ends.append((own, session))
        for transport, session in reversed(ends):
            transport.add(session)
        return ends[0][1]

    # ------------------------------------------------------------------------------- faults

    def split(self, one: str, two: str) -> None:
        """A partition between two nodes."""
        self._split.add(frozenset((one, two)))

    def freeze(self, name: str) -> None:
        """Nothing of a node leaves or arrives."""
        self._frozen.add(name)

    def heal(self) -> None:
        """No partition, nobody frozen."""
        self._split.clear()
        self._frozen.clear()
        self.changed.set()
        self.changed = trio.Event()

    def cut(self, connection: Connection) -> None:
        """A connection is gone."""
        if not connection.broken:
            self.trace.note(connection.names[0], "cut", connection.names[1])
            connection.cut()

    def connections(self, name: str = "") -> list[Connection]:
        """Live ones, of a node or all."""
        return [c for c in self._connections if not c.broken and (not name or name in c.names)]

    def detach(self, transport: SimTransport, *, how: str) -> None:
        """A node is gone from one moment to the next.

        Args:
            transport: Its.
            how: "silent": no peer hears of it, as when its machine loses power.  "reset": what was
                on its way is lost.  "end": what it sent still arrives, then the end.
        """
        if self.listening.get(transport.peer_id) is transport:
            del self.listening[transport.peer_id]
        for connection in self.connections(transport.name):
            connection.dead.add(transport.name)
            pipe = connection.pipes[transport.name]
            if how == "reset":
                self.cut(connection)
            elif how == "end":
                pipe.ended = True
                pipe.ring()
            for each in connection.pipes.values():
                each.ring()
