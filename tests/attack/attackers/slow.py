"""Connections that never finish a handshake, and streams that drip one byte a second.

Orders: count, hold_s.  Each connection stays until the victim ends it; how long that took is said.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from libp2p.abc import INetStream
from libp2p.network.stream.net_stream import NetStream

from node.adapters.p2p.transport import SESSION_PROTOCOL
from node.errors import SessionLost
from node.protocol import codec, limits
from tests.attack.attackers import peer
from tests.attack.attackers.peer import Target

MULTISTREAM = b"\x13/multistream/1.0.0\n"
NOISE = b"\x07/noise\n"
DRIP_S = 1.0
CONNECT_S = 30.0


class Drips:
    """How long each kind of connection was held on to."""

    def __init__(self, target: Target, hold_s: float) -> None:
        self.target, self.hold_s = target, hold_s
        self.held_s: list[float] = []
        self.kinds: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.refused = 0

    @asynccontextmanager
    async def timed(self, kind: str) -> AsyncIterator[None]:
        """From here until the victim ends it."""
        began_s = time.monotonic()
        with trio.move_on_after(self.hold_s) as scope, suppress(OSError, SessionLost):
            yield
        self.kinds[kind] += 1
        self.held_s.append(time.monotonic() - began_s)
        self.kept[kind] += scope.cancelled_caught

    async def half_open(self, kind: str, begin: bytes, drip: bytes) -> None:
        """A TCP connection that says `begin` and then `drip`, a byte a second, or nothing."""
        with trio.move_on_after(CONNECT_S) as patience:
            try:
                stream = await trio.open_tcp_stream(*self.target.host_port)
            except OSError:
                self.refused += 1
                return
        if patience.cancelled_caught:
            self.refused += 1
            return
        async with stream, self.timed(kind), trio.open_nursery() as nursery:
            nursery.start_soon(self._drip, stream, begin, drip)
            try:
                while await stream.receive_some(4096):
                    pass
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

    async def _drip(self, stream: trio.SocketStream, begin: bytes, drip: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if begin:
                await stream.send_all(begin)
            for byte in drip:
                await trio.sleep(DRIP_S)
                await stream.send_all(bytes([byte]))

    async def slow_stream(self, kind: str, *, negotiated: bool) -> None:
        """A stream on a whole connection, on which every byte takes a second."""
        try:
            async with peer.identity() as host, peer.connection(host, self.target) as conn:
                net: INetStream
                if negotiated:
                    net = await host.new_stream_on(conn, SESSION_PROTOCOL)
                    await self._drip_stream(kind, net, self._hello())
                else:
                    net = await conn.new_stream()
                    await self._drip_stream(kind, net, MULTISTREAM * 4)
        except Exception:  # the library raises anything once it is cut
            self.refused += 1

    async def _drip_stream(self, kind: str, net: INetStream, data: bytes) -> None:
        assert isinstance(net, NetStream)
        muxed = net.muxed_stream
        async with self.timed(kind), trio.open_nursery() as nursery:

            async def drip() -> None:
                with suppress(Exception):
                    for byte in data:
                        await muxed.write(bytes([byte]))
                        await trio.sleep(DRIP_S)

            nursery.start_soon(drip)
            with suppress(Exception):
                while await muxed.read(4096):
                    pass
            nursery.cancel_scope.cancel()

    def _hello(self) -> bytes:
        frame = codec.encode_frame(self.target.hello(key=b"\x07" * 32))
        return frame + codec.pack_length(limits.FRAME_BYTES_MAX) * 100


async def main(target: Target) -> None:
    """All at once, from one address."""
    count = int(target.orders["count"])
    drips = Drips(target, float(target.orders["hold_s"]))
    noise = MULTISTREAM + NOISE
    kinds = (
        ("silent", b"", b""),
        ("half of multistream", MULTISTREAM[:9], b""),
        ("multistream alone", MULTISTREAM, b""),
        ("half of Noise", noise + b"\x00\x20" + bytes(10), b""),
        ("long Noise message", noise + b"\xff\xff" + bytes(100), bytes(60)),
        ("1 byte/s from the start", b"", noise + bytes(40)),
        ("1 byte/s in Noise", noise, b"\x00\x20" + bytes(40)),
    )
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(drips.half_open, *kinds[number % len(kinds)])
            await trio.sleep(0.002)
        for number in range(int(target.orders["streams"])):
            slow = "slow hello" if number % 2 else "slow negotiation"
            nursery.start_soon(_slow, drips, slow, bool(number % 2))
    peer.say(
        kinds=drips.kinds,
        kept=drips.kept,
        refused=drips.refused,
        held_s_max=max(drips.held_s),
        connections=len(drips.held_s),
    )


async def _slow(drips: Drips, kind: str, negotiated: bool) -> None:
    await drips.slow_stream(kind, negotiated=negotiated)


if __name__ == "__main__":
    peer.run(main)
