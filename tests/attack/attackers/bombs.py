"""msgpack bombs: small on the wire, large or slow in a careless decoder.

Orders: times, stride, home (of a funded client).  Says how long our own decoder takes to refuse
each (CPU of this process, quickest of several), and then sends some to the victim: as frames, and
as the body of a request whose award it accepted.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import trio

from node.adapters.p2p.framing import FrameReader, WireStream
from node.errors import DecodeError, SessionLost
from node.protocol import codec, limits, signing
from node.protocol.frames import FRAMES, RequestData
from tests.attack.attackers import peer
from tests.attack.attackers.frames import awarded
from tests.attack.attackers.peer import Target
from tests.protocol.test_codec import BOMBS

TRIES = 5
CUT_S = 15.0
REQUEST_KIND = 100
FILLERS = {
    "empty maps": b"\x80",
    "empty arrays": b"\x90",
    "nils": b"\xc0",
    "empty texts": b"\xa0",
    "maps of one": b"\x81\x01\x01",
    "pairs": b"\x92\x01\x02",
    "doubles": b"\xcb" + bytes(8),
    "timestamps": b"\xd6\xff" + bytes(4),
}


def bombs(size_max: int, kinds: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    """Payloads of at most `size_max` bytes, with names."""
    for name, payload in BOMBS.items():
        yield name, (payload * 40)[:size_max]
    for kind in kinds:
        for name, filler in FILLERS.items():
            count = (size_max - 16) // len(filler)
            for head in (b"\xdd", b"\xdf"):
                header = bytes([0x92, kind]) + head + count.to_bytes(4, "big")
                yield f"{kind} {name} {head.hex()}", header + filler * count
        depth = size_max - 8
        yield f"{kind} depth", bytes([0x92, kind]) + b"\x91" * depth + b"\xc0"


def refused_in_s(decode: Callable[[bytes], Any], payload: bytes) -> float:
    """CPU seconds until it is refused; infinite if it is not."""
    quickest = float("inf")
    for _ in range(TRIES):
        began_s = time.thread_time()
        try:
            decode(payload)
        except DecodeError:
            quickest = min(quickest, time.thread_time() - began_s)
        else:
            return float("inf")
    return quickest


def peak_bytes(decode: Callable[[bytes], Any], payload: bytes) -> int:
    """Most that was allocated on the way."""
    gc.collect()
    tracemalloc.start()
    with suppress(DecodeError):
        decode(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


async def send_frames(target: Target, payloads: list[bytes]) -> int:
    """Each on a session of its own; how many of those were not cut."""
    kept = 0
    key = b"\x05" * 32
    async with peer.identity(key) as host:
        for payload in payloads:
            with trio.move_on_after(CUT_S) as patience, suppress(SessionLost):
                async with peer.session(host, target, key) as (stream, _):
                    await stream.write(codec.pack_length(len(payload)) + payload)
                    while True:
                        await stream.read()
            kept += patience.cancelled_caught
    return kept


async def send_requests(target: Target, bodies: list[bytes]) -> int:
    """Each as the request of an accepted award; how many were accepted."""
    accepted = 0
    key = target.key_of_home()
    async with peer.identity(key) as host:
        for body in bodies:
            with trio.move_on_after(CUT_S), suppress(SessionLost):
                async with peer.session(host, target, key) as (stream, reader):
                    digest = signing.keccak256(body)
                    job = await awarded(target, key, stream, reader, digest, len(body))
                    if job is not None:
                        accepted += 1
                        await _send_body(stream, reader, job, body)
    return accepted


async def _send_body(stream: WireStream, reader: FrameReader, job: bytes, body: bytes) -> None:
    """All of it, as fast as it is credited; then wait for what the victim says."""
    size = limits.DATA_BYTES_MAX
    async with trio.open_nursery() as nursery:

        async def drain() -> None:
            with suppress(SessionLost):
                while type((await reader.frame())[0]).__name__ not in ("ErrorFrame", "Refusal"):
                    pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(drain)
        for offset in range(0, len(body), size):
            frame = RequestData(job=job, offset=offset, data=body[offset : offset + size])
            await stream.write(codec.encode_frame(frame))
            await trio.sleep(0.01)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()


async def main(target: Target) -> None:
    """Measure, then send."""
    stride = int(target.orders["stride"])
    framed = list(bombs(limits.FRAME_BYTES_MAX, tuple(FRAMES)))[::stride]
    bodies = list(bombs(limits.REQUEST_BYTES_MAX, (REQUEST_KIND,)))[::stride]
    times_s = {name: refused_in_s(codec.decode_frame, payload) for name, payload in framed}
    times_s |= {
        f"body {name}": refused_in_s(codec.decode_request, payload) for name, payload in bodies
    }
    peaks = [peak_bytes(codec.decode_frame, payload) for _, payload in framed]
    peaks += [peak_bytes(codec.decode_request, payload) for _, payload in bodies]
    # The first sessions and jobs of a node let it grow, whatever comes on them.
    await send_frames(target, [payload for _, payload in framed[:1]])
    await send_requests(target, [payload for _, payload in bodies[:1]])
    peer.say(
        bombs=len(times_s),
        slowest_s=max(times_s.values()),
        slowest=max(times_s, key=lambda name: times_s[name]),
        peak_bytes=max(peaks),
    )
    await trio.to_thread.run_sync(input)  # until the victim is being watched
    few = int(target.orders["times"])
    sent = [payload for _, payload in framed][:: max(1, len(framed) // few)]
    bodies_sent = [payload for _, payload in bodies][:: max(1, len(bodies) // (1 + few // 10))]
    kept = await send_frames(target, sent)
    accepted = await send_requests(target, bodies_sent)
    peer.say(sent=len(sent), kept=kept, bodies=len(bodies_sent), accepted=accepted)


if __name__ == "__main__":
    peer.run(main)
