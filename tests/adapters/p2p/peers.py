"""Hosts on loopback for the tests of this folder."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import trio

from node.adapters.p2p.session import StreamSession
from node.adapters.p2p.transport import Libp2pTransport, open_transport
from node.config import NetworkConfig
from node.errors import SessionLost
from node.protocol import limits
from node.protocol.frames import Chunk, FileWanted, Frame, Hello
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
