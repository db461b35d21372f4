"""What attackers share: their orders, identities of their own, and raw ends of connections."""

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio
from libp2p.abc import INetConn
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from multiaddr import Multiaddr

from node.adapters.p2p.framing import FrameReader, WireStream
from node.adapters.p2p.host import Host, open_host
from node.adapters.p2p.patches import GuardedYamux
from node.adapters.p2p.transport import SESSION_PROTOCOL
from node.protocol import codec, limits
from node.protocol.fields import ZERO_ADDRESS
from node.protocol.frames import Hello
from node.protocol.signing import Domain, address_of_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to attack, and the orders as they came."""

    orders: dict[str, Any]

    @property
    def addr(self) -> str:
        """Multiaddr with PeerID."""
        return str(self.orders["victim"])

    @property
    def info(self) -> PeerInfo:
        """The same, for libp2p."""
        return info_from_p2p_addr(Multiaddr(self.addr))

    @property
    def host_port(self) -> tuple[str, int]:
        """The same, for TCP."""
        parts = self.addr.split("/")
        return parts[2], int(parts[4])

    @property
    def domain(self) -> Domain:
        """Chain and escrow of the victim."""
        return Domain(int(self.orders["chain_id"]), bytes.fromhex(self.orders["escrow"][2:]))

    @property
    def model(self) -> bytes:
        """What the victim sells."""
        return bytes.fromhex(self.orders["model"][2:])

    @property
    def worker(self) -> bytes:
        """The victim's address."""
        return bytes.fromhex(self.orders["worker"][2:])

    def hello(self, *, key: bytes, sells: bool = False) -> Hello:
        """A hello that the victim takes."""
        own = address_of_key(key)
        return Hello(
            version_min=1,
            version_max=1,
            chain_id=self.domain.chain_id,
            escrow=self.domain.escrow,
            payer=own,
            payee=own if sells else ZERO_ADDRESS,
            sells=sells,
            job_window=limits.JOB_WINDOW_BYTES,
            agent="attack",
        )

    def key_of_home(self) -> bytes:
        """The key of the funded home that the orders name."""
        from node.app.unlock import session_key
        from node.config import load

        return session_key(load(Path(self.orders["home"])))


def say(**values: Any) -> None:
    """One line for whoever started this process."""
    print(json.dumps(values), flush=True)


def run(main: Callable[[Target], Awaitable[None]]) -> None:
    """Read the orders and carry them out."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    target = Target(orders=json.loads(sys.stdin.readline()))
    trio.run(main, target)


@asynccontextmanager
async def identity(key: bytes | None = None, *, listen: str = "") -> AsyncIterator[Host]:
    """A libp2p host with a key of its own."""
    addrs = [listen] if listen else []
    async with open_host(
        key=key or os.urandom(32), listen=addrs, advertise=(), sessions_max=1000
    ) as host:
        yield host


@asynccontextmanager
async def connection(host: Host, target: Target) -> AsyncIterator[INetConn]:
    """A connection to the victim, cut at the end."""
    info = target.info
    conn = await host.dial(info.addrs[0], info.peer_id)
    try:
        yield conn
    finally:
        muxed = conn.muxed_conn
        assert isinstance(muxed, GuardedYamux)
        muxed.abort()


async def session_stream(host: Host, conn: INetConn) -> WireStream:
    """A session's stream on which nothing has been said."""
    return WireStream(await host.new_stream_on(conn, SESSION_PROTOCOL))


@asynccontextmanager
async def session(
    host: Host, target: Target, key: bytes
) -> AsyncIterator[tuple[WireStream, FrameReader]]:
    """A session on which both hellos have been said."""
    async with connection(host, target) as conn:
        stream = await session_stream(host, conn)
        await stream.write(codec.encode_frame(target.hello(key=key)))
        reader = FrameReader(stream)
        frame, _ = await reader.frame()
        assert isinstance(frame, Hello), frame
        yield stream, reader
