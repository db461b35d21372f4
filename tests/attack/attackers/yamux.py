"""Floods below the session protocol: bytes beyond a stream's window, and streams without end.

Orders: megabytes and streams to try to send, times.
"""

import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.stream_muxer.yamux import yamux

from node.adapters.p2p.host import Host
from node.adapters.p2p.patches import GuardedYamux
from tests.attack.attackers import peer
from tests.attack.attackers.peer import Target

PIECE = 32 * 1024
CUT_S = 30.0
MIB = 1024 * 1024


class Raw:
    """A secured connection on which this process writes Yamux frames itself."""

    def __init__(self, muxed: GuardedYamux) -> None:
        self.muxed = muxed
        self.sent_bytes = 0

    def header(self, kind: int, flags: int, stream: int, length: int) -> bytes:
        """A frame's twelve bytes."""
        return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream, length)

    async def write(self, data: bytes) -> None:
        """Past the library's windows and limits."""
        await self.muxed.secured_conn.write(data)
        self.sent_bytes += len(data)

    @property
    def alive(self) -> bool:
        """Whether the victim still holds the connection."""
        return not self.muxed.event_closed.is_set()


@asynccontextmanager
async def raw(host: Host, target: Target) -> AsyncIterator[Raw]:
    """One to the victim."""
    async with peer.connection(host, target) as conn:
        muxed = conn.muxed_conn
        assert isinstance(muxed, GuardedYamux)
        yield Raw(muxed)


async def window(host: Host, target: Target, megabytes: int) -> dict[str, Any]:
    """Data on one stream, far beyond what the victim credited."""
    async with raw(host, target) as conn:
        await conn.write(conn.header(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, 101, 0))
        frame = conn.header(yamux.TYPE_DATA, 0, 101, PIECE) + bytes(PIECE)
        exceeded_s = None
        with trio.move_on_after(CUT_S):
            try:
                while conn.alive and conn.sent_bytes < megabytes * MIB:
                    await conn.write(frame)
                    if exceeded_s is None and conn.sent_bytes > yamux.DEFAULT_WINDOW_SIZE:
                        exceeded_s = time.monotonic()
                await conn.muxed.event_closed.wait()
            except Exception:  # noqa: S110  # the library raises anything once it is cut
                pass
        cut_s = time.monotonic() - (exceeded_s or time.monotonic())
        return {"cut": not conn.alive or cut_s < CUT_S, "cut_s": cut_s, "bytes": conn.sent_bytes}


async def streams(
    host: Host, target: Target, count: int, *, at_once: int = 500, pause_s: float = 0.0
) -> dict[str, Any]:
    """Streams opened one after another; the victim acknowledges those that it keeps."""
    async with raw(host, target) as conn:
        live: set[int] = set()
        live_max = 0

        def count_live(kind: int, flags: int, stream: int) -> None:
            nonlocal live_max
            if kind == yamux.TYPE_WINDOW_UPDATE and flags & yamux.FLAG_ACK:
                live.add(stream)
            if flags & (yamux.FLAG_RST | yamux.FLAG_FIN):
                live.discard(stream)
            live_max = max(live_max, len(live))

        _watch_headers(conn.muxed, count_live)
        began_s = time.monotonic()
        opened = 0
        with trio.move_on_after(CUT_S):
            try:
                while conn.alive and opened < count:
                    frames = [
                        conn.header(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, stream, 0)
                        for stream in range(1001 + 2 * opened, 1001 + 2 * (opened + at_once), 2)
                    ]
                    await conn.write(b"".join(frames))
                    opened += at_once
                    await trio.sleep(pause_s)
                await conn.muxed.event_closed.wait()
            except Exception:  # noqa: S110
                pass
        cut_s = time.monotonic() - began_s
        return {"cut": cut_s < CUT_S, "cut_s": cut_s, "live": live_max, "opened": opened}


async def slow_streams(host: Host, target: Target, count: int) -> dict[str, Any]:
    """Slowly enough for the limit on the rate: what stops them is the limit on live ones."""
    return await streams(host, target, count, at_once=1, pause_s=0.02)


def _watch_headers(muxed: GuardedYamux, tell: Any) -> None:
    """See what the victim answers, before the library takes it."""
    read = muxed.secured_conn.read

    async def spying(n: int | None = None) -> bytes:
        data = await read(n)
        if len(data) == yamux.HEADER_SIZE:
            _, kind, flags, stream, _ = struct.unpack(yamux.YAMUX_HEADER_FORMAT, data)
            tell(kind, flags, stream)
        return bytes(data)

    muxed.secured_conn.read = spying  # type: ignore[method-assign]


async def main(target: Target) -> None:
    """As ordered, one connection after another."""
    orders = target.orders
    results, fast = [], []
    async with peer.identity() as host:
        for _ in range(int(orders["times"])):
            fast.append(await window(host, target, int(orders["megabytes"])))
            fast.append(await streams(host, target, int(orders["streams"])))
            results.append(await slow_streams(host, target, int(orders["streams"])))
    results += fast
    peer.say(
        times=len(results),
        not_cut=sum(not each["cut"] for each in results),
        # Streams that come slowly have first to become too many.
        cut_s_max=max(each["cut_s"] for each in fast),
        live_max=max(each.get("live", 0) for each in results),
        bytes_max=max(each.get("bytes", 0) for each in results),
    )


if __name__ == "__main__":
    peer.run(main)
