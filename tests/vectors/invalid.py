"""Payloads that must be refused, each with the place that is wrong."""

from collections.abc import Iterator
from typing import Any

import msgpack

from node.protocol import codec, limits
from node.protocol.fields import Signed, schema
from node.protocol.frames import (
    AnnouncementsWanted,
    AwardFrame,
    Chunk,
    Hello,
    OffersWanted,
    Refusal,
    Request,
    VoucherFrame,
)
from tests.vectors.examples import empty, filled

Case = tuple[str, str, bytes]
"""Why it is refused, the place (class and field, or empty), the payload."""


def frames() -> Iterator[Case]:
    """Payloads that are no frame."""
    hello = _items(filled(Hello))
    payload = codec.encode(filled(Hello))
    yield "no bytes", "", b""
    yield "nil instead of an array", "", b"\xc0"
    yield "a map instead of an array", "", b"\x81\x01\x02"
    yield "an array without a kind", "", b"\x90"
    yield "a kind that does not exist", "", msgpack.packb([99])
    yield "a kind that is true", "", msgpack.packb([True, *hello[1:]])
    yield "a kind that is a text", "", msgpack.packb(["1", *hello[1:]])
    yield "a kind that is a float", "", msgpack.packb([1.0, *hello[1:]])
    yield "the kind of a request", "", codec.encode(filled(Request))
    yield "a field too many", "Hello", msgpack.packb([*hello, 0])
    yield "a field too few", "Hello", msgpack.packb(hello[:-1])
    yield "a byte after the end", "", payload + b"\x00"
    yield "a second message after the end", "", payload + payload
    yield "cut short in a field", "Hello.agent", payload[:-1]
    yield "cut short before a field", "Hello.agent", payload[: -len(TEXT_FIELD)]
    yield "an array that claims four thousand million items", "", b"\xdd\xff\xff\xff\xff"
    yield "arrays in arrays", "", b"\xdc\x04\x00" * 1_000
    yield "payload over the limit", "", payload + bytes(limits.FRAME_BYTES_MAX)
    yield from _wrong_fields()
    yield from _wrong_nested()


TEXT_FIELD = msgpack.packb("añb")


def _wrong_fields() -> Iterator[Case]:
    ints: list[tuple[str, Any]] = [
        ("negative", -1),
        ("true for a number", True),
        ("float", 1.0),
        ("text", "1"),
        ("nil", None),
        ("too large", 2**16),
    ]
    for why, value in ints:
        yield f"{why} for u16", "Hello.version_min", _with(Hello, "version_min", value)
    for why, value in (("19 bytes", bytes(19)), ("21 bytes", bytes(21)), ("text", "x" * 20)):
        yield f"{why} for an address", "Hello.escrow", _with(Hello, "escrow", value)
    yield "1 for a boolean", "Hello.sells", _with(Hello, "sells", 1)
    yield "bytes for a text", "Hello.agent", _with(Hello, "agent", b"agent")
    yield "a text over its limit", "Hello.agent", _with(Hello, "agent", "x" * 65)
    yield "33 two-byte letters in 64 bytes", "Hello.agent", _with(Hello, "agent", "é" * 33)
    bad = codec.encode(empty(Hello))[:-1]
    yield "a text that is not UTF-8", "Hello.agent", bad + b"\xa1\xff"
    yield "a text with a surrogate", "Hello.agent", bad + b"\xa3\xed\xa0\x80"
    yield "an extension type", "Hello.agent", bad + b"\xd4\x01\x00"
    yield "a timestamp", "Hello.agent", bad + b"\xd6\xff\x00\x00\x00\x00"
    yield "an empty map", "Hello.agent", bad + b"\x80"
    yield "an empty array", "Hello.agent", bad + b"\x90"
    yield "over u8", "AnnouncementsWanted.count_max", _with(AnnouncementsWanted, "count_max", 256)
    yield "text for bytes", "Chunk.data", _with(Chunk, "data", "abcd")
    long = bytes(limits.DATA_BYTES_MAX + 1)
    yield "data over its limit", "Chunk.data", _with(Chunk, "data", long)


def _wrong_nested() -> Iterator[Case]:
    models = [bytes(32)] * 33
    yield "33 models", "OffersWanted.models", _with(OffersWanted, "models", models)
    yield "nil for a list", "OffersWanted.models", _with(OffersWanted, "models", None)
    yield (
        "a list that claims more than it may hold",
        "OffersWanted.models",
        b"\x92\x0c\xdd\x00\x0f\x42\x40",
    )
    award = _items(filled(AwardFrame))
    statement, signature = award[2]
    unsigned = [*award[:2], [statement], award[3]]
    yield "a statement without signature", "AwardFrame.award", msgpack.packb(unsigned)
    short = [*award[:2], [statement, signature[:-1]], award[3]]
    yield "a signature of 63 bytes", "AwardFrame.award", msgpack.packb(short)
    fewer = [*award[:2], [statement[:-1], signature], award[3]]
    yield "a statement with a field less", "AwardFrame.award: Award", msgpack.packb(fewer)
    bad = [*award[:2], [[*statement[:4], 70_000, *statement[5:]], signature], award[3]]
    yield "an attempt over u16", "AwardFrame.award: Award.attempt", msgpack.packb(bad)
    yield "false for an optional field", "Refusal.offer", _with(Refusal, "offer", False)
    voucher = _items(filled(VoucherFrame))
    voucher[1][0][4] = 2**63
    place = "VoucherFrame.voucher: Voucher.cumulative"
    yield "an amount of 2^63", place, msgpack.packb(voucher)
    yield (
        "nil for a field that must be there",
        "VoucherFrame.voucher",
        _with(VoucherFrame, "voucher", None),
    )


def requests() -> Iterator[Case]:
    """Bodies that are no request."""
    items = _items(filled(Request))
    yield "no bytes", "", b""
    yield "the kind of a frame", "", codec.encode(filled(Hello))
    yield "a field too many", "Request", msgpack.packb([*items, 0])
    yield "a salt of 31 bytes", "Request.salt", _with(Request, "salt", bytes(31))
    yield "17 stops", "Request.stop", _with(Request, "stop", ["x"] * 17)
    yield "a stop over its limit", "Request.stop", _with(Request, "stop", ["x" * 257])
    over = "x" * (limits.FORMAT_BYTES_MAX + 1)
    yield "a format over its limit", "Request.format", _with(Request, "format", over)
    yield "a scope of 33 bytes", "Request.scope", _with(Request, "scope", bytes(33))
    sampling = items[4]
    for at, value in ((0, -1), (3, 2**31)):
        wrong = [*sampling[:at], value, *sampling[at + 1 :]]
        name = schema(type(filled(Request).sampling))[at].name
        yield (
            f"{value} for {name}",
            f"Request.sampling: SamplingFields.{name}",
            _with(Request, "sampling", wrong),
        )
    yield (
        "a body over the limit",
        "",
        codec.encode(filled(Request)) + bytes(limits.REQUEST_BYTES_MAX),
    )


def _with(cls: type[Any], name: str, value: Any) -> bytes:
    items = _items(filled(cls))
    at = 1 + [f.name for f in schema(cls)].index(name)
    payload: bytes = msgpack.packb([*items[:at], value, *items[at + 1 :]])
    return payload


def _items(message: Any) -> list[Any]:
    return [message.kind, *(_plain(getattr(message, f.name)) for f in schema(type(message)))]


def _plain(value: Any) -> Any:
    if isinstance(value, Signed):
        return [_plain(value.statement), value.signature]
    if hasattr(value, "__dataclass_fields__"):
        return [_plain(getattr(value, f.name)) for f in schema(type(value))]
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
