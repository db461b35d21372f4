"""Frames that are not: mutations of valid ones, by bytes and by structure."""

import random
import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from node.errors import DecodeError
from node.protocol import codec, limits
from node.protocol.frames import FRAMES, Frame
from tests.protocol.test_codec import sample

STRANGERS: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    2**64 - 1,
    -(2**63),
    1.5,
    float("nan"),
    "",
    "x" * 300,
    "\x00\ud7ff",
    b"",
    b"\xff" * 33,
    [],
    [[[[[]]]]],
    [0] * 1025,
    {},
    {"a": 1},
    msgpack.ExtType(5, b"1234"),
    msgpack.Timestamp(1, 2),
)


def valid_frames() -> dict[int, Frame]:
    """One small valid frame of every kind."""
    return {kind: sample(cls) for kind, cls in FRAMES.items()}


def malformed(rng: random.Random, job: bytes) -> Iterator[tuple[int, bytes]]:
    """Endless bytes for the wire that are no frames, of every kind in turn; with the kind.

    Args:
        rng: Decides everything.
        job: Channel that frames with one are for.
    """
    frames = valid_frames()
    while True:
        for kind, frame in frames.items():
            fields = msgpack.unpackb(codec.encode(frame), strict_map_key=False)
            if len(fields) > 1 and isinstance(fields[1], bytes) and len(fields[1]) == len(job):
                fields[1] = job
            while True:
                wire = rng.choice(MUTATORS)(rng, fields)
                if not _is_frame(wire):
                    yield kind, wire
                    break


def _is_frame(wire: bytes) -> bool:
    """Whether a receiver would take the first frame of it (or wait for more bytes of it)."""
    try:
        size = codec.unpack_length(wire[:4])
        if len(wire) < 4 + size:
            return True
        codec.decode_frame(wire[4 : 4 + size])
    except DecodeError:
        return False
    return True


def _framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def _flipped(rng: random.Random, fields: list[Any]) -> bytes:
    payload = bytearray(msgpack.packb(fields))
    for _ in range(rng.randint(1, 4)):
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    return _framed(bytes(payload))


def _cut(rng: random.Random, fields: list[Any]) -> bytes:
    payload = msgpack.packb(fields)
    return _framed(payload[: rng.randrange(1, len(payload))])


def _grown(rng: random.Random, fields: list[Any]) -> bytes:
    payload = msgpack.packb(fields)
    at = rng.randrange(len(payload) + 1)
    return _framed(payload[:at] + rng.randbytes(rng.randint(1, 40)) + payload[at:])


def _false_length(rng: random.Random, fields: list[Any]) -> bytes:
    payload: bytes = msgpack.packb(fields)
    sizes = (0, limits.FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1, len(payload) - 1)
    return struct.pack(">I", max(0, rng.choice(sizes))) + payload


def _strange_field(rng: random.Random, fields: list[Any]) -> bytes:
    changed = _copy(fields)
    lists = [changed, *(each for each in _lists(changed))]
    chosen = rng.choice(lists)
    if chosen:
        chosen[rng.randrange(len(chosen))] = rng.choice(STRANGERS)
    else:
        chosen.append(rng.choice(STRANGERS))
    return _framed(bytes(msgpack.packb(changed)))


def _more_or_fewer(rng: random.Random, fields: list[Any]) -> bytes:
    changed = _copy(fields)
    chosen = rng.choice([changed, *_lists(changed)])
    if chosen and rng.random() < 0.5:
        del chosen[rng.randrange(len(chosen))]
    else:
        chosen.insert(rng.randrange(len(chosen) + 1), rng.choice(STRANGERS))
    return _framed(bytes(msgpack.packb(changed)))


def _deep(rng: random.Random, fields: list[Any]) -> bytes:
    depth = rng.choice((17, 500, 1024, 60_000))
    return _framed(bytes([0x90 | (1 + len(fields))]) + b"\x91" * depth + b"\xc0")


def _false_count(rng: random.Random, fields: list[Any]) -> bytes:
    """An array, map or blob that says it has four billion entries."""
    head = rng.choice((b"\xdd", b"\xdf", b"\xc6", b"\xdb"))
    payload = bytes([0x90 | 2, fields[0]]) + head + b"\xff\xff\xff\xff" + rng.randbytes(20)
    return _framed(payload)


def _noise(rng: random.Random, fields: list[Any]) -> bytes:
    return _framed(rng.randbytes(rng.choice((1, 7, 100, 3000, limits.FRAME_BYTES_MAX))))


MUTATORS = (
    _flipped,
    _cut,
    _grown,
    _false_length,
    _strange_field,
    _more_or_fewer,
    _deep,
    _false_count,
    _noise,
)


def _copy(value: Any) -> Any:
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _lists(fields: list[Any]) -> Iterator[list[Any]]:
    for each in fields:
        if isinstance(each, list):
            yield each
            yield from _lists(each)
