"""Bytes to frames and back: strict, positional, bounded before anything is allocated.

A frame is a msgpack array `[kind, field, …]` in the order of its class; a nested structure is an
array of its fields, a signed statement the array `[statement, signature]`.  Whatever is not exactly
that raises `DecodeError`, and no other exception leaves this module.
"""

import io
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar, assert_never

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
    if len(prefix) < LENGTH_SIZE:
        raise DecodeError("a length prefix is cut short")
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
    frame: Frame = _decode(payload, _frame_in)
    return frame


def decode_request(body: bytes) -> Request:
    """A request from its whole body.

    Raises:
        DecodeError: Too long, or not exactly one request.
    """
    if len(body) > limits.REQUEST_BYTES_MAX:
        raise DecodeError(f"request of {len(body)} bytes")
    request: Request = _decode(body, _request_in)
    return request


def encode_struct(value: Any) -> bytes:
    """A bare structure or `Signed`, as stored and as kept in transcripts."""
    if isinstance(value, Signed):
        packed: bytes = msgpack.packb(_signed_out(value), use_bin_type=True)
    else:
        packed = msgpack.packb(_fields_out(value), use_bin_type=True)
    return packed


def decode_struct(cls: type[T], payload: bytes) -> T:
    """The inverse of `encode_struct` for a class of fields.

    Raises:
        DecodeError: Not exactly one such structure.
    """
    value: T = _decode(payload, _struct_reader(cls))
    return value


def decode_signed(cls: type[T], payload: bytes) -> Signed[T]:
    """The inverse of `encode_struct` for a signed statement of class `cls`.

    Raises:
        DecodeError: Not exactly one such statement with a signature.
    """
    value: Signed[T] = _decode(payload, _signed_reader(cls))
    return value


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


_Writer = Callable[[Any], Any]
_OUT: dict[type[Any], tuple[Callable[[Any], Any], tuple[tuple[int, _Writer], ...]]] = {}


def _fields_out(value: Any) -> list[Any]:
    """The fields as msgpack takes them; only those that are no scalars need a writer."""
    cls = type(value)
    found = _OUT.get(cls)
    if found is None:
        found = _OUT[cls] = _plan_out(cls)
    read, writers = found
    items = list(read(value))
    for at, write in writers:
        items[at] = write(items[at])
    return items


def _plan_out(cls: type[Any]) -> tuple[Callable[[Any], Any], tuple[tuple[int, _Writer], ...]]:
    names = [field.name for field in schema(cls)]
    writers = tuple(
        (at, write)
        for at, field in enumerate(schema(cls))
        if (write := _writer(field.kind)) is not None
    )
    if len(names) == 1:  # attrgetter of one name gives no tuple
        return (lambda value: (getattr(value, names[0]),)), writers
    return attrgetter(*names), writers


def _signed_out(value: Signed[Any]) -> list[Any]:
    return [_fields_out(value.statement), value.signature]


def _writer(kind: Kind) -> _Writer | None:
    match kind:
        case Nested():
            return _fields_out
        case SignedOf():
            return _signed_out
        case ListOf():
            write = _writer(kind.item)
            return list if write is None else lambda items: [write(item) for item in items]
        case Maybe():
            inner = _writer(kind.item)
            return None if inner is None else lambda item: None if item is None else inner(item)
        case _:
            return None


class _Source:
    """A payload that is read item by item, as the schema expects it.

    Each array's header is read by itself and checked before its items are: whatever a peer sends,
    no list is allocated that the schema has no place for, and nesting is as deep as the schema.
    """

    __slots__ = ("_payload", "_unpacker", "array", "item")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        # A long body is read as a stream that shares its bytes: what is refused at its head is not
        # copied.  A frame is fed: that is quicker.
        stream = io.BytesIO(payload) if len(payload) > limits.FRAME_BYTES_MAX else None
        self._unpacker = msgpack.Unpacker(
            stream,
            read_size=min(len(payload), limits.FRAME_BYTES_MAX),
            max_buffer_size=len(payload),
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
        if stream is None:
            self._unpacker.feed(payload)
        self.array = self._unpacker.read_array_header
        """Count of the array that comes next."""
        self.item = self._unpacker.unpack
        """The scalar that comes next."""

    def skip_nil(self) -> bool:
        """Whether nil came next; then it is consumed."""
        at = self._unpacker.tell()
        if self._payload[at : at + 1] != _NIL:
            return False
        self._unpacker.skip()
        return True

    def check_end(self) -> None:
        """Nothing may follow."""
        if self._unpacker.tell() != len(self._payload):
            raise DecodeError("bytes after the end")


_NIL = b"\xc0"
_NOT_MSGPACK = (ValueError, msgpack.UnpackException)
"""What msgpack raises on bytes that are cut short or mean something else (bad UTF-8 included)."""
_Reader = Callable[[_Source], Any]
_STRUCTS: dict[type[Any], tuple[tuple[str, _Reader], ...]] = {}


def _decode(payload: bytes, read: _Reader) -> Any:
    if not payload:
        raise DecodeError("no bytes")
    source = _Source(payload)
    try:
        value = read(source)
        source.check_end()
    except _NOT_MSGPACK as error:
        raise DecodeError(f"not the msgpack of this schema: {type(error).__name__}") from None
    return value


def _frame_in(source: _Source) -> Any:
    count = source.array()
    kind = source.item() if count else None
    cls = FRAMES.get(kind) if type(kind) is int else None
    if cls is None:
        raise DecodeError("unknown kind of frame")
    return _fields_in(source, cls, count - 1)


def _request_in(source: _Source) -> Any:
    count = source.array()
    kind = source.item() if count else None
    if type(kind) is not int or kind != Request.kind:
        raise DecodeError("not a request")
    return _fields_in(source, Request, count - 1)


def _fields_in(source: _Source, cls: type[T], count: int) -> T:
    readers = _STRUCTS.get(cls)
    if readers is None:
        readers = _STRUCTS[cls] = tuple((f.name, _reader(f.kind)) for f in schema(cls))
    if count != len(readers):
        raise DecodeError(f"{cls.__name__}: wrong number of fields")
    values = {}
    for name, read in readers:
        try:
            values[name] = read(source)
        except DecodeError as error:
            raise DecodeError(f"{cls.__name__}.{name}: {error}") from None
        except _NOT_MSGPACK as error:
            kind = type(error).__name__
            raise DecodeError(f"{cls.__name__}.{name}: not msgpack, {kind}") from None
    return cls(**values)


def _struct_reader(cls: type[Any]) -> _Reader:
    return lambda source: _fields_in(source, cls, source.array())


def _signed_reader(cls: type[Any]) -> _Reader:
    def read(source: _Source) -> Signed[Any]:
        if source.array() != 2:
            raise DecodeError("not a signed statement")
        statement = _fields_in(source, cls, source.array())
        signature = source.item()
        if type(signature) is not bytes or len(signature) != SIGNATURE_SIZE:
            raise DecodeError("not a signature")
        return Signed(statement, signature)

    return read


def _list_reader(kind: ListOf) -> _Reader:
    read_item, count_max = _reader(kind.item), kind.count_max

    def read(source: _Source) -> tuple[Any, ...]:
        count = source.array()
        if count > count_max:
            raise DecodeError(f"{count} items")
        return tuple([read_item(source) for _ in range(count)])

    return read


def _maybe_reader(kind: Maybe) -> _Reader:
    read_item = _reader(kind.item)
    return lambda source: None if source.skip_nil() else read_item(source)


def _reader(kind: Kind) -> _Reader:
    match kind:
        case ListOf():
            return _list_reader(kind)
        case Nested():
            return _struct_reader(kind.cls)
        case SignedOf():
            return _signed_reader(kind.cls)
        case Maybe():
            return _maybe_reader(kind)
        case UInt():
            return _int_reader(kind, 0, kind.ceiling)
        case Int():
            return _int_reader(kind, -(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1)
        case Fixed():
            return _bytes_reader(kind, kind.size, kind.size)
        case Blob():
            return _bytes_reader(kind, 0, kind.size_max)
        case Text():
            return _text_reader(kind)
        case Flag():
            return _flag
        case _:
            assert_never(kind)


def _int_reader(kind: Kind, floor: int, ceiling: int) -> _Reader:
    def read(source: _Source) -> int:
        item = source.item()
        # bool is an int in Python, and msgpack's true must not pass for 1.
        if type(item) is int and floor <= item <= ceiling:
            return item
        raise DecodeError(f"not a {type(kind).__name__}")

    return read


def _bytes_reader(kind: Kind, size_min: int, size_max: int) -> _Reader:
    def read(source: _Source) -> bytes:
        item = source.item()
        if type(item) is bytes and size_min <= len(item) <= size_max:
            return item
        raise DecodeError(f"not a {type(kind).__name__}")

    return read


def _text_reader(kind: Text) -> _Reader:
    def read(source: _Source) -> str:
        item = source.item()
        if type(item) is str and len(item.encode()) <= kind.size_max:
            return item
        raise DecodeError("not a Text")

    return read


def _flag(source: _Source) -> bool:
    item = source.item()
    if type(item) is bool:
        return item
    raise DecodeError("not a Flag")
