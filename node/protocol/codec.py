"""Bytes to frames and back: strict, positional, bounded before anything is allocated.

A frame is a msgpack array `[kind, field, …]` in the order of its class; a nested structure is an
array of its fields, a signed statement the array `[statement, signature]`.  Whatever is not exactly
that raises `DecodeError`, and no other exception leaves this module.
"""

import struct
from typing import Any, TypeVar

import msgpack

from node.errors import DecodeError
from node.protocol import limits
from node.protocol.fields import (
    SIGNATURE_SIZE,
    Blob,
    Fixed,
    Flag,
    Int,
    Kind,
    ListOf,
    Maybe,
    Nested,
    Signed,
    SignedOf,
    Text,
    UInt,
    schema,
)
from node.protocol.frames import FRAMES, Frame, Request

T = TypeVar("T")
_LENGTH = struct.Struct(">I")
LENGTH_SIZE = _LENGTH.size


def pack_length(size: int) -> bytes:
    """The prefix of a frame of `size` payload bytes."""
    return _LENGTH.pack(size)


def unpack_length(prefix: bytes | bytearray | memoryview) -> int:
    """Payload size, in bytes, from the first four bytes.

    Raises:
        DecodeError: Nothing of that size may be sent; checked before the payload is read.
    """
    size: int = _LENGTH.unpack_from(prefix)[0]
    if not 0 < size <= limits.FRAME_BYTES_MAX:
        raise DecodeError(f"frame of {size} bytes")
    return size


def encode(message: Any) -> bytes:
    """Payload of a frame or request (without the length prefix)."""
    payload: bytes = msgpack.packb([message.kind, *_fields_out(message)], use_bin_type=True)
    return payload


def encode_frame(frame: Frame) -> bytes:
    """A frame as it goes on the wire, length prefix included."""
    payload = encode(frame)
    assert len(payload) <= limits.FRAME_BYTES_MAX, (type(frame).__name__, len(payload))
    return _LENGTH.pack(len(payload)) + payload


def decode_frame(payload: bytes) -> Frame:
    """One frame from its payload.

    Raises:
        DecodeError: Not exactly one frame of a known kind.
    """
    if len(payload) > limits.FRAME_BYTES_MAX:
        raise DecodeError(f"frame of {len(payload)} bytes")
    items = _unpack(payload)
    kind = items[0] if items else None
    cls = FRAMES.get(kind) if type(kind) is int else None
    if cls is None:
        raise DecodeError("unknown kind of frame")
    frame: Frame = _struct_in(cls, items[1:])
    return frame


def decode_request(body: bytes) -> Request:
    """A request from its whole body.

    Raises:
        DecodeError: Too long, or not exactly one request.
    """
    if len(body) > limits.REQUEST_BYTES_MAX:
        raise DecodeError(f"request of {len(body)} bytes")
    items = _unpack(body)
    if not items or items[0] != Request.kind or type(items[0]) is not int:
        raise DecodeError("not a request")
    return _struct_in(Request, items[1:])


def encode_struct(value: Any) -> bytes:
    """A bare structure or `Signed`, as stored and as kept in transcripts."""
    if isinstance(value, Signed):
        packed: bytes = msgpack.packb(_signed_out(value), use_bin_type=True)
    else:
        packed = msgpack.packb(list(_fields_out(value)), use_bin_type=True)
    return packed


def decode_struct(cls: type[T], payload: bytes) -> T:
    """The inverse of `encode_struct` for a class of fields.

    Raises:
        DecodeError: Not exactly one such structure.
    """
    return _struct_in(cls, _unpack(payload))


def decode_signed(cls: type[T], payload: bytes) -> Signed[T]:
    """The inverse of `encode_struct` for a signed statement of class `cls`.

    Raises:
        DecodeError: Not exactly one such statement with a signature.
    """
    return _signed_in(cls, _unpack(payload))


def pack_ids(ids: tuple[int, ...] | list[int]) -> bytes:
    """Token ids as big-endian u32."""
    return struct.pack(f">{len(ids)}I", *ids)


def unpack_ids(data: bytes) -> tuple[int, ...]:
    """Token ids from big-endian u32.

    Raises:
        DecodeError: The length is no multiple of four.
    """
    if len(data) % 4:
        raise DecodeError("token ids are not whole")
    return struct.unpack(f">{len(data) // 4}I", data)


def _unpack(payload: bytes) -> list[Any]:
    try:
        items = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_array_len=limits.ARRAY_MAX,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=limits.FRAME_BYTES_MAX,
            max_bin_len=len(payload),
        )
    # msgpack raises its own errors, ValueError and UnicodeDecodeError (a ValueError),
    # and RecursionError-like StackError for depth; all of them mean "not ours".
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise DecodeError(f"not msgpack: {type(error).__name__}") from None
    if type(items) is not list:
        raise DecodeError("not an array")
    return items


def _fields_out(value: Any) -> "list[Any]":
    return [_out(field.kind, getattr(value, field.name)) for field in schema(type(value))]


def _signed_out(value: Signed[Any]) -> list[Any]:
    return [_fields_out(value.statement), value.signature]


def _out(kind: Kind, value: Any) -> Any:
    match kind:
        case Nested():
            return _fields_out(value)
        case SignedOf():
            return _signed_out(value)
        case ListOf():
            return [_out(kind.item, item) for item in value]
        case Maybe():
            return None if value is None else _out(kind.item, value)
        case _:
            return value


def _struct_in(cls: type[T], items: Any) -> T:
    fields = schema(cls)
    if type(items) is not list or len(items) != len(fields):
        raise DecodeError(f"{cls.__name__}: wrong number of fields")
    values = {}
    for field, item in zip(fields, items, strict=True):
        try:
            values[field.name] = _in(field.kind, item)
        except DecodeError as error:
            raise DecodeError(f"{cls.__name__}.{field.name}: {error}") from None
    return cls(**values)


def _signed_in(cls: type[T], items: Any) -> Signed[T]:
    if type(items) is not list or len(items) != 2:
        raise DecodeError("not a signed statement")
    statement, signature = items
    if type(signature) is not bytes or len(signature) != SIGNATURE_SIZE:
        raise DecodeError("not a signature")
    return Signed(_struct_in(cls, statement), signature)


def _in(kind: Kind, item: Any) -> Any:
    match kind:
        case UInt(ceiling=ceiling):
            # bool is an int in Python, and msgpack's true must not pass for 1.
            if type(item) is int and 0 <= item <= ceiling:
                return item
        case Fixed(size=size):
            if type(item) is bytes and len(item) == size:
                return item
        case Blob(size_max=size_max):
            if type(item) is bytes and len(item) <= size_max:
                return item
        case Text(size_max=size_max):
            if type(item) is str and len(item.encode()) <= size_max:
                return item
        case Flag():
            if type(item) is bool:
                return item
        case Int(bits=bits):
            if type(item) is int and -(2 ** (bits - 1)) <= item < 2 ** (bits - 1):
                return item
        case ListOf():
            if type(item) is list and len(item) <= kind.count_max:
                return tuple(_in(kind.item, one) for one in item)
        case Nested():
            return _struct_in(kind.cls, item)
        case SignedOf():
            return _signed_in(kind.cls, item)
        case Maybe():
            return None if item is None else _in(kind.item, item)
    raise DecodeError(f"not a {type(kind).__name__}")
