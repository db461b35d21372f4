"""Hypothesis strategies for every message, derived from the same declarations as the codec."""

from typing import Any, assert_never

from hypothesis import strategies as st

from node.protocol import frames, statements
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

STATEMENTS: tuple[type[Any], ...] = (
    statements.Terms,
    statements.Announcement,
    statements.Ask,
    statements.Award,
    statements.Acceptance,
    statements.Progress,
    statements.Receipt,
    statements.Cutoff,
    statements.Voucher,
    statements.Lock,
    statements.LockRelease,
    statements.TranscriptSeal,
)
"""Every class that is signed."""

FRAMES: tuple[type[Any], ...] = (*frames.FRAMES.values(), frames.Request)
"""Every class with a kind of its own on the wire."""

SHORT = 40
"""Longest blob or text that is drawn: limits themselves are tested one by one."""


def of(kind: Kind) -> st.SearchStrategy[Any]:
    """Values of one field."""
    match kind:
        case UInt():
            return st.integers(0, kind.ceiling) | st.just(kind.ceiling)
        case Int():
            return st.integers(-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1)
        case Flag():
            return st.booleans()
        case Fixed():
            return st.binary(min_size=kind.size, max_size=kind.size)
        case Blob():
            return st.binary(max_size=min(kind.size_max, SHORT))
        case Text():
            plain = st.text(max_size=min(kind.size_max, SHORT) // 4)
            return plain.filter(lambda text: len(text.encode()) <= kind.size_max)
        case Nested():
            return messages(kind.cls)
        case ListOf():
            return st.lists(of(kind.item), max_size=min(kind.count_max, 3)).map(tuple)
        case Maybe():
            return st.none() | of(kind.item)
        case SignedOf():
            return signed(kind.cls)
        case _:
            assert_never(kind)


def messages(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Valid instances of a class of fields."""
    return st.builds(cls, **{field.name: of(field.kind) for field in schema(cls)})


def signed(cls: type[Any]) -> st.SearchStrategy[Signed[Any]]:
    """Statements of a class with 64 bytes that are no signature of anybody."""
    signature = st.binary(min_size=SIGNATURE_SIZE, max_size=SIGNATURE_SIZE)
    return st.builds(Signed, messages(cls), signature)
