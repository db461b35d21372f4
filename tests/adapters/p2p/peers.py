"""Hosts on loopback for the tests of this folder."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import trio
import trio.lowlevel
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from node.adapters.p2p.framing import FrameReader, WireStream
from node.adapters.p2p.greeting import greet
from node.adapters.p2p.host import Host, open_host
from node.adapters.p2p.session import StreamSession
from node.adapters.p2p.transport import SESSION_PROTOCOL, Libp2pTransport, open_transport
from node.config import NetworkConfig
from node.errors import SessionLost
from node.protocol import limits
from node.protocol.frames import Chunk, ErrorFrame, FileWanted, Frame, Hello
from node.roles.ports import Channel

LOOPBACK = NetworkConfig(listen=("/ip4/127.0.0.1/tcp/0",))
HELLO = Hello(
    version_min=1,
    version_max=1,
    chain_id=31337,
    escrow=b"\xee" * 20,
    payer=bytes(20),
    payee=bytes(20),
    sells=False,
    job_window=limits.JOB_WINDOW_BYTES,
    agent="test",
)


def transport(
    *,
    hello: Callable[[], Hello] = lambda: HELLO,
    config: NetworkConfig = LOOPBACK,
    key: bytes | None = None,
) -> AbstractAsyncContextManager[Libp2pTransport]:
    """A transport on a free port."""
    return open_transport(config, key or os.urandom(32), hello)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two transports with a session: `left` dialled."""

    left: Libp2pTransport
    right: Libp2pTransport
    near: StreamSession
    """left's end of the session."""
    far: StreamSession


@asynccontextmanager
async def pair(**hello: object) -> AsyncIterator[Pair]:
    """A session over loopback; keyword arguments replace fields of the right side's hello."""
    theirs = replace(HELLO, **hello)  # type: ignore[arg-type]
    async with transport() as left, transport(hello=lambda: theirs) as right:
        near = await left.connect(right.addrs)
        far = await first_session(right)
        yield Pair(left=left, right=right, near=near, far=far)


async def first_session(transport: Libp2pTransport) -> StreamSession:
    """The next session that the transport reports."""
    with trio.fail_after(5):
        async for session in transport.inbound():
            assert isinstance(session, StreamSession)
            return session
    raise AssertionError


def wanted(job: bytes) -> FileWanted:
    """An opener."""
    return FileWanted(job=job, sha256=bytes(32))


def chunk(job: bytes, position: int, size: int = 16) -> Chunk:
    """A frame of a job, of about 45 bytes and `size`."""
    return Chunk(job=job, position=position, data=bytes(size), logprobs=b"")


async def read_to_end(channel: Channel) -> list[Frame]:
    """All frames until the session is lost."""
    frames = []
    while True:
        try:
            frames.append(await channel.receive())
        except SessionLost:
            return frames


async def until(condition: Callable[[], object], within_s: float = 2) -> None:
    """Wait for something that the library tells nobody about."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


def host(*, listen: bool = True, addr: str | None = None) -> AbstractAsyncContextManager[Host]:
    """A bare host; by default on a free port."""
    addrs = [addr] if addr is not None else ["/ip4/127.0.0.1/tcp/0"] if listen else []
    return open_host(key=os.urandom(32), listen=addrs, advertise=(), sessions_max=100)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts with one connection; the first dialled."""
    async with host(listen=False) as a, host() as b:
        info = info_from_p2p_addr(b.get_addrs()[0])
        await a.dial(info.addrs[0], info.peer_id)
        await until(lambda: b.get_network().get_connections(a.get_id()))
        yield a, b


@dataclass
class Proxy:
    """A TCP proxy in front of a local port."""

    port: int
    segment: int
    addr: Multiaddr
    _cut: bool = False

    def cut(self) -> None:
        """From now on both ends stay connected, and hear nothing."""
        self._cut = True

    async def pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                for start in range(0, len(data), self.segment):
                    if self._cut:
                        await trio.sleep_forever()
                    await sink.send_all(data[start : start + self.segment])
                    await trio.lowlevel.checkpoint()
        await sink.aclose()

    async def serve(self, inner: trio.SocketStream) -> None:
        outer = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with trio.open_nursery() as both:
            both.start_soon(self.pump, inner, outer)
            both.start_soon(self.pump, outer, inner)


@asynccontextmanager
async def slow_proxy(port: int, segment: int) -> AsyncIterator[Proxy]:
    """A running proxy that passes on `segment` bytes at a time, each piece by itself."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        own_port = listener.socket.getsockname()[1]
        addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{own_port}")
        proxy = Proxy(port=port, segment=segment, addr=addr)
        nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def rogue(victim: Libp2pTransport) -> AsyncIterator[tuple[WireStream, FrameReader]]:
    """A session with `victim` whose other end is in the test's hands, after both hellos."""
    async with host(listen=False) as attacker:
        info = info_from_p2p_addr(Multiaddr(victim.addrs[0]))
        conn = await attacker.dial(info.addrs[0], info.peer_id)
        stream = WireStream(await attacker.new_stream_on(conn, SESSION_PROTOCOL))
        _, reader = await greet(stream, HELLO)
        yield stream, reader


async def last_words(reader: FrameReader) -> ErrorFrame | None:
    """Read on to the end of the session; the error frame that it ended with, if any."""
    last: Frame | None = None
    with trio.fail_after(5):
        try:
            while True:
                last, _ = await reader.frame()
        except SessionLost:
            return last if isinstance(last, ErrorFrame) else None
