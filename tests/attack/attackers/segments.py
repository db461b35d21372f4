"""No attacker but a bad road: a TCP proxy that passes on small pieces, each by itself.

Orders: segment (bytes), delay_s (after each piece).  Says its port, and runs until its parent ends.
"""

import socket
from contextlib import suppress

import trio

from tests.attack.attackers import peer
from tests.attack.attackers.peer import Target


async def main(target: Target) -> None:
    """Listen, and forward both ways."""
    segment, delay_s = int(target.orders["segment"]), float(target.orders["delay_s"])

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                for start in range(0, len(data), segment):
                    await sink.send_all(data[start : start + segment])
                    await trio.sleep(delay_s)
        await sink.aclose()

    async def serve(inner: trio.SocketStream) -> None:
        outer = await trio.open_tcp_stream(*target.host_port)
        async with inner, outer, trio.open_nursery() as both:
            both.start_soon(pump, inner, outer)
            both.start_soon(pump, outer, inner)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    peer.say(port=listener.socket.getsockname()[1])
    await trio.serve_listeners(serve, [listener])


if __name__ == "__main__":
    peer.run(main)
