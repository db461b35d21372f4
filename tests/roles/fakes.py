"""In-memory peers for tests of roles: `ports.Transport`, `Discovery` and `Clock` without a network.

Every frame passes through the real codec, order is kept, queues are bounded, each job's channel has
its credit, and a lost session still gives out what had arrived: what roles rely on in the real
transport.  Delays follow trio's clock, so they cost nothing under the autojump clock.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import trio

from node.errors import PeerError, SessionLost, Unavailable
from node.protocol import codec, limits
from node.protocol.fields import ZERO_ADDRESS, Address, Hash, Signed
from node.protocol.frames import NO_JOB, OPENERS, Credit, Frame, Hello, Ping, Pong, channel_of
from node.protocol.signing import Domain, address_of_key, checksum
from node.protocol.statements import Announcement
from node.roles.ports import Inbound

DOMAIN = Domain(31337, bytes.fromhex("5f" * 20))
UNIX_MS_START = 1_790_000_000_000
FRAMES_QUEUED_MAX = 256
TRANSPORT_OWN = (Hello, Ping, Pong, Credit)
"""Frames that a transport sends and answers itself: roles never see them."""


def key_of(number: int) -> bytes:
    """A private key for a test: distinct, valid, and the same on every run."""
    return number.to_bytes(32, "big")


class TrioClock:
    """`ports.Clock` on the running trio clock; `skew_ms` puts this node's wall clock off."""

    def __init__(self, *, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms
        self._start_s: float | None = None

    def unix_ms(self) -> int:
        return UNIX_MS_START + self.skew_ms + int(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        return trio.current_time()


class FakeChannel:
    """`ports.Channel`."""

    def __init__(self, session: "FakeSession", job: bytes) -> None:
        self._session = session
        self._job = job
        self._arrived: deque[tuple[float, Frame, int]] = deque()
        self._credit = limits.JOB_WINDOW_BYTES
        self._wake = trio.Event()
        self.closed = False

    @property
    def job(self) -> bytes:
        return self._job

    async def send(self, frame: Frame) -> None:
        assert channel_of(frame) == self._job, "a frame of another job"
        size = len(codec.encode_frame(frame))
        while self._session.lost is None and self._credit < size:
            await self._wait()
        self._credit -= size
        await self._session.send(frame)

    async def receive(self) -> Frame:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._session.lost is not None:
                raise SessionLost(self._session.lost)
            await self._wait()
        due_s, frame, size = self._arrived[0]
        await trio.sleep_until(due_s)
        self._arrived.popleft()
        self._session.consumed(self._job, size)
        return frame

    def close(self) -> None:
        self.closed = True
        self._session.forget(self._job)

    def arrive(self, due_s: float, frame: Frame) -> None:
        self._arrived.append((due_s, frame, len(codec.encode_frame(frame))))
        self.wake()

    def grant(self, size: int) -> None:
        self._credit += size
        self.wake()

    def wake(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    async def _wait(self) -> None:
        await self._wake.wait()


class FakeSession:
    """`ports.Session`: one end of a joined pair."""

    def __init__(self, *, peer: Address, hello: Hello, delay_s: float) -> None:
        self._peer = peer
        self._hello = hello
        self._delay_s = delay_s
        self._other: FakeSession
        self._inbox_in, self._inbox = trio.open_memory_channel[tuple[float, Inbound]](
            FRAMES_QUEUED_MAX
        )
        self._channels: dict[bytes, FakeChannel] = {}
        self._lost: str | None = None
        self._ended = trio.Event()
        self.frozen = False
        """A peer that was stopped: what it sends never arrives."""
        self.deaf = False
        """A peer that takes nothing: what is sent to it waits until the session ends."""
        self.dropped = 0
        """Frames for channels that nobody has open."""
        self.sent: list[Frame] = []

    @property
    def peer(self) -> Address:
        return self._peer

    @property
    def peer_id(self) -> str:
        return peer_id_of(self._peer)

    @property
    def hello(self) -> Hello:
        return self._hello

    @property
    def lost(self) -> str | None:
        return self._lost

    async def send(self, frame: Frame) -> None:
        assert not isinstance(frame, TRANSPORT_OWN), "the transport sends this itself"
        await trio.lowlevel.checkpoint()
        if self.deaf:
            await self._ended.wait()
        if self._lost is not None:
            raise SessionLost(self._lost)
        arriving = codec.decode_frame(codec.encode_frame(frame)[codec.LENGTH_SIZE :])
        self.sent.append(frame)
        if not self.frozen:
            await self._other.deliver(arriving)

    async def receive(self) -> Inbound:
        try:
            due_s, inbound = await self._inbox.receive()
        except trio.EndOfChannel:
            assert self._lost is not None
            raise SessionLost(self._lost) from None
        await trio.sleep_until(due_s)
        return inbound

    def open_channel(self, job: bytes) -> FakeChannel:
        assert job != NO_JOB
        assert job not in self._channels
        assert len(self._channels) < limits.JOBS_PER_SESSION_MAX
        channel = self._channels[job] = FakeChannel(self, job)
        return channel

    async def wait_lost(self) -> str:
        await self._ended.wait()
        assert self._lost is not None
        return self._lost

    def close(self, reason: str) -> None:
        self.lose(reason)
        self._other.lose(f"the peer closed the session: {reason}")

    # What follows is for the other end and for tests.

    @property
    def open_jobs(self) -> set[bytes]:
        """Channels that nobody has closed."""
        return set(self._channels)

    def join(self, other: "FakeSession") -> None:
        self._other = other

    def cut(self, reason: str = "connection lost") -> None:
        """Both ends lose the session, as after `kill -9` of either."""
        self.lose(reason)
        self._other.lose(reason)

    def lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._ended.set()
        self._inbox_in.close()
        for channel in self._channels.values():
            channel.wake()

    async def deliver(self, frame: Frame) -> None:
        if self._lost is not None:
            return
        now_s = trio.current_time()
        due_s, job = now_s + self._delay_s, channel_of(frame)
        if job in self._channels:
            self._channels[job].arrive(due_s, frame)
            return
        channel = self.open_channel(job) if isinstance(frame, OPENERS) else None
        if job != NO_JOB and channel is None:
            self.dropped += 1
            return
        try:
            await self._inbox_in.send(
                (due_s, Inbound(frame=frame, channel=channel, arrived_s=due_s))
            )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SessionLost(self._lost or "connection lost") from None

    def consumed(self, job: bytes, size: int) -> None:
        writer = self._other.channel(job)
        if writer is not None:
            writer.grant(size)

    def channel(self, job: bytes) -> FakeChannel | None:
        return self._channels.get(job)

    def forget(self, job: bytes) -> None:
        self._channels.pop(job, None)


class LiveSessions(Mapping[Address, FakeSession]):
    """Those that live at the moment of each look, as the real transport has them."""

    def __init__(self, sessions: dict[Address, FakeSession]) -> None:
        self._sessions = sessions

    def __getitem__(self, peer: Address) -> FakeSession:
        session = self._sessions[peer]
        if session.lost is not None:
            raise KeyError(peer)
        return session

    def __iter__(self) -> Iterator[Address]:
        for peer, session in self._sessions.items():  # a change meanwhile is an error, as it is
            if session.lost is None:
                yield peer

    def __len__(self) -> int:
        return sum(session.lost is None for session in self._sessions.values())


class FakeTransport:
    """`ports.Transport` of one node in a `Net`."""

    def __init__(self, net: "Net", hello: Hello, address: Address, addr: str) -> None:
        self._net = net
        self.hello = hello
        self._address = address
        self._addr = addr
        self._sessions: dict[Address, FakeSession] = {}
        self._new_in, self._new = trio.open_memory_channel[FakeSession](math.inf)
        self.dialled: list[str] = []

    @property
    def address(self) -> Address:
        return self._address

    @property
    def addrs(self) -> tuple[str, ...]:
        return (self._addr,)

    def sessions(self) -> Mapping[Address, FakeSession]:
        return LiveSessions(self._sessions)

    async def inbound(self) -> AsyncIterator[FakeSession]:
        async for session in self._new:
            yield session

    async def connect(self, addrs: Sequence[str]) -> FakeSession:
        self.dialled.append(addrs[0] if addrs else "")
        await trio.sleep(self._net.dial_s)
        return self._net.join(self, addrs)

    def add(self, session: FakeSession) -> None:
        self._sessions[session.peer] = session
        self._new_in.send_nowait(session)


class Net:
    """The peers of one test, each reachable under its multiaddr unless it is in `down`."""

    def __init__(
        self, *, delay_s: float = 0.0, dial_s: float = 0.02, domain: Domain = DOMAIN
    ) -> None:
        """
        Args:
            delay_s: From a frame's sending to its arrival, one way.
            dial_s: How long a dial takes, whether it succeeds or not.
            domain: Chain and escrow that every hello names.
        """
        self.delay_s = delay_s
        self.dial_s = dial_s
        self.domain = domain
        self.down: set[str] = set()
        self._by_addr: dict[str, FakeTransport] = {}

    def transport(
        self, key: bytes, *, sells: bool = False, host: str | None = None
    ) -> FakeTransport:
        """A node with this session key, which is its payer and, if it sells, its payee account.

        Args:
            key: 32-byte private key.
            sells: What its hello says.
            host: IPv4 address in its multiaddr; without one, each node gets its own /24.
        """
        address = address_of_key(key)
        number = len(self._by_addr) + 1
        host = host or f"10.{number >> 8}.{number & 255}.1"
        addr = f"/ip4/{host}/tcp/{4000 + number}/p2p/{peer_id_of(address)}"
        hello = Hello(
            version_min=1,
            version_max=1,
            chain_id=self.domain.chain_id,
            escrow=self.domain.escrow,
            payer=address,
            payee=address if sells else ZERO_ADDRESS,
            sells=sells,
            job_window=limits.JOB_WINDOW_BYTES,
            agent="fake",
        )
        made = self._by_addr[addr] = FakeTransport(self, hello, address, addr)
        return made

    def join(self, dialler: FakeTransport, addrs: Sequence[str]) -> FakeSession:
        for addr in addrs:
            target = self._by_addr.get(addr)
            if target is None or addr in self.down or target is dialler:
                continue
            live = dialler.sessions().get(target.address)
            if live is not None:
                return live
            ours, theirs = self.pair(dialler, target)
            dialler.add(ours)
            target.add(theirs)
            return ours
        raise Unavailable("no address answered")

    def pair(self, one: FakeTransport, two: FakeTransport) -> tuple[FakeSession, FakeSession]:
        """Two joined ends, first's and second's."""
        for side, other in ((one, two), (two, one)):
            if (side.hello.chain_id, side.hello.escrow) != (
                other.hello.chain_id,
                other.hello.escrow,
            ):
                raise PeerError("another chain or escrow")
        ours = FakeSession(peer=two.address, hello=two.hello, delay_s=self.delay_s)
        theirs = FakeSession(peer=one.address, hello=one.hello, delay_s=self.delay_s)
        ours.join(theirs)
        theirs.join(ours)
        return ours, theirs


class FakeDiscovery:
    """`ports.Discovery` over a `Gossip` that all nodes of a test share."""

    def __init__(self, gossip: "Gossip", addrs: tuple[str, ...] = ()) -> None:
        self._gossip = gossip
        self._addrs = addrs
        self._heard_in, self._heard = trio.open_memory_channel[Signed[Announcement]](64)
        self.models: set[Hash] = set()
        self.broken = False
        """Like a DHT without peers: everything it is asked for is unavailable."""
        self.published: list[tuple[float, Signed[Announcement]]] = []

    async def publish(self, announcement: Signed[Announcement]) -> int:
        await self._work()
        self.published.append((trio.current_time(), announcement))
        topics = {each.model for each in announcement.statement.models}
        hearers = [n for n in self._gossip.nodes if n is not self and n.models & topics]
        for node in hearers:
            node.hear(announcement)
        return len(hearers)

    async def follow(self, model: Hash) -> None:
        await self._work()
        self.models.add(model)

    async def provide(self, model: Hash) -> None:
        await self._work()
        self._gossip.providers.setdefault(model, {}).update(dict.fromkeys(self._addrs))

    async def find(self, model: Hash) -> tuple[str, ...]:
        await self._work()
        await trio.sleep(self._gossip.find_s)
        return tuple(self._gossip.providers.get(model, ()))

    async def heard(self) -> AsyncIterator[Signed[Announcement]]:
        async for announcement in self._heard:
            yield announcement

    async def _work(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise Unavailable("no peers")

    def hear(self, announcement: Signed[Announcement]) -> None:
        try:
            self._heard_in.send_nowait(announcement)
        except trio.WouldBlock:
            return  # as the port says: drops if unread


class Gossip:
    """What joins the discoveries of a test."""

    def __init__(self, *, find_s: float = 0.1) -> None:
        self.find_s = find_s
        self.nodes: list[FakeDiscovery] = []
        self.providers: dict[Hash, dict[str, None]] = {}

    def discovery(self, addrs: tuple[str, ...] = ()) -> FakeDiscovery:
        node = FakeDiscovery(self, addrs)
        self.nodes.append(node)
        return node


def peer_id_of(address: Address) -> str:
    """A stand-in for a PeerID: one per address."""
    return "16Uiu2HA" + checksum(address)[2:]
