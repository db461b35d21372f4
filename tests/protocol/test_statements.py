"""Every statement can be signed, and its declaration bounds everything in it."""

from enum import IntEnum
from typing import Any

import pytest

from node.protocol import frames, signing, statements
from node.protocol.fields import (
    Blob,
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
from node.protocol.limits import FORMAT_BYTES_MAX, SPLITS_MAX
from node.units import MICRO_MAX
from tests.protocol import strategies


def classes_of(kind: Kind) -> set[type[Any]]:
    match kind:
        case ListOf() | Maybe():
            return classes_of(kind.item)
        case Nested() | SignedOf():
            inner = {found for f in schema(kind.cls) for found in classes_of(f.kind)}
            return {kind.cls} | inner if isinstance(kind, SignedOf) else inner
        case _:
            return set()


def test_the_list_of_statements_is_complete() -> None:
    on_the_wire = {
        found
        for cls in frames.FRAMES.values()
        for field in schema(cls)
        for found in classes_of(field.kind)
    }
    assert on_the_wire | {statements.TranscriptSeal} == set(strategies.STATEMENTS)


@pytest.mark.parametrize("cls", strategies.STATEMENTS, ids=lambda cls: cls.__name__)
def test_statements_hold_only_what_eip712_can_type(cls: type[Any]) -> None:
    text = signing.type_string(cls)
    assert text.startswith(f"{cls.__name__}(")
    for field in schema(cls):
        assert not isinstance(field.kind, Maybe | SignedOf | Blob)
        assert f" {field.name}" in text


def test_every_kind_of_frame_is_one_byte_and_taken_once() -> None:
    kinds = [cls.kind for cls in strategies.FRAMES]
    assert len(kinds) == len(set(kinds))
    assert all(0 < kind < 128 for kind in kinds)


@pytest.mark.parametrize(
    "enum",
    [
        statements.Tier,
        statements.Finish,
        statements.CutoffReason,
        frames.Refused,
        frames.Fault,
    ],
)
def test_codes_start_at_one_so_that_zero_means_nothing(enum: type[IntEnum]) -> None:
    assert [int(code) for code in enum] == list(range(1, len(enum) + 1))


def test_money_fits_the_contract_and_the_store() -> None:
    amounts = [
        field.kind.ceiling
        for cls in strategies.STATEMENTS
        for field in schema(cls)
        if isinstance(field.kind, UInt) and field.kind.bits == 128
    ]
    assert set(amounts) == {MICRO_MAX}
    assert MICRO_MAX < 2**96


def test_lists_and_texts_are_bounded() -> None:
    for cls in (*strategies.STATEMENTS, *strategies.FRAMES):
        for field in schema(cls):
            if isinstance(field.kind, ListOf):
                assert 0 < field.kind.count_max <= 512
            if isinstance(field.kind, Text):
                most = FORMAT_BYTES_MAX if field.name == "format" else 256
                assert 0 < field.kind.size_max <= most


def test_a_signed_statement_says_nothing_of_its_signer() -> None:
    assert list(Signed.__slots__) == ["statement", "signature"]


def test_splits_are_as_many_as_the_escrow_takes() -> None:
    splits = next(f.kind for f in schema(statements.Terms) if f.name == "splits")
    assert isinstance(splits, ListOf)
    assert splits.count_max == SPLITS_MAX == 8
