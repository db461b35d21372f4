"""Deterministic instances of every message, and their form in JSON."""

import hashlib
from typing import Any, assert_never

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

JSON_INTEGER_MAX = 2**53 - 1
"""Above this, JavaScript's numbers are not exact: such integers are decimal strings."""
LIST_ITEMS = 2
TEXT = "añb"


def filled(cls: type[Any], path: str = "") -> Any:
    """An instance whose fields all differ, by their names."""
    path = path or cls.__name__
    return cls(**{f.name: _filled(f.kind, f"{path}.{f.name}") for f in schema(cls)})


def empty(cls: type[Any]) -> Any:
    """The smallest instance."""
    return cls(**{f.name: _empty(f.kind) for f in schema(cls)})


def full(cls: type[Any]) -> Any:
    """The instance of the largest integers and of lists, texts and blobs of a moderate length."""
    return cls(**{f.name: _full(f.kind) for f in schema(cls)})


def to_json(value: Any) -> Any:
    """Bytes as hexadecimal with 0x; structures as objects; large integers as decimal strings."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Signed):
        return {
            "statement": to_json(value.statement),
            "signature": to_json(value.signature),
        }
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= JSON_INTEGER_MAX else str(int(value))
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return {f.name: to_json(getattr(value, f.name)) for f in schema(type(value))}


def from_json(kind: Kind, value: Any) -> Any:
    """The inverse of `to_json`, for a field."""
    match kind:
        case UInt() | Int():
            return int(value)
        case Flag() | Text():
            return value
        case Fixed() | Blob():
            return bytes.fromhex(value.removeprefix("0x"))
        case Nested():
            return struct_from_json(kind.cls, value)
        case SignedOf():
            statement = struct_from_json(kind.cls, value["statement"])
            return Signed(statement, bytes.fromhex(value["signature"].removeprefix("0x")))
        case ListOf():
            return tuple(from_json(kind.item, item) for item in value)
        case Maybe():
            return None if value is None else from_json(kind.item, value)
        case _:
            assert_never(kind)


def struct_from_json(cls: type[Any], value: dict[str, Any]) -> Any:
    """The inverse of `to_json`, for an instance."""
    return cls(**{f.name: from_json(f.kind, value[f.name]) for f in schema(cls)})


def pseudo(name: str, size: int) -> bytes:
    """Bytes that follow from a name."""
    return hashlib.shake_256(name.encode()).digest(size)


def _filled(kind: Kind, path: str) -> Any:
    number = int.from_bytes(pseudo(path, 8), "big")
    match kind:
        case UInt():
            return number % (kind.ceiling + 1)
        case Int():
            return number % 2**kind.bits - 2 ** (kind.bits - 1)
        case Flag():
            return number % 2 == 1
        case Fixed():
            return pseudo(path, kind.size)
        case Blob():
            return pseudo(path, 12)
        case Text():
            return TEXT
        case Nested():
            return filled(kind.cls, path)
        case SignedOf():
            return Signed(filled(kind.cls, path), pseudo(path, SIGNATURE_SIZE))
        case ListOf():
            return tuple(_filled(kind.item, f"{path}.{at}") for at in range(LIST_ITEMS))
        case Maybe():
            return _filled(kind.item, path)
        case _:
            assert_never(kind)


def _empty(kind: Kind) -> Any:
    match kind:
        case UInt() | Int():
            return 0
        case Flag():
            return False
        case Fixed():
            return bytes(kind.size)
        case Blob():
            return b""
        case Text():
            return ""
        case Nested():
            return empty(kind.cls)
        case SignedOf():
            return Signed(empty(kind.cls), bytes(SIGNATURE_SIZE))
        case ListOf():
            return ()
        case Maybe():
            return None
        case _:
            assert_never(kind)


def _full(kind: Kind) -> Any:
    match kind:
        case UInt():
            return kind.ceiling
        case Int():
            return -(2 ** (kind.bits - 1))
        case Flag():
            return True
        case Fixed():
            return b"\xff" * kind.size
        case Blob():
            return b"\xff" * min(kind.size_max, 300)
        case Text():
            return "x" * kind.size_max
        case Nested():
            return full(kind.cls)
        case SignedOf():
            return Signed(full(kind.cls), b"\xff" * SIGNATURE_SIZE)
        case ListOf():
            return tuple(_full(kind.item) for _ in range(LIST_ITEMS))
        case Maybe():
            return _full(kind.item)
        case _:
            assert_never(kind)
