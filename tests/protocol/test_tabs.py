"""Tab ids, the hash of splits, and which splits are refused."""

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from node.errors import PeerError
from node.protocol.signing import keccak256
from node.protocol.statements import Split
from node.protocol.tabs import (
    Tab,
    check_splits,
    pack_splits,
    splits_hash,
    tab_id,
    unpack_splits,
)

PAYEE = b"\x05" * 20
ESCROW = b"\x06" * 20


def split(number: int, bps: int = 100) -> Split:
    return Split(payee=number.to_bytes(20, "big"), bps=bps)


def check(*splits: Split) -> None:
    check_splits(splits, payee=PAYEE, escrow=ESCROW)


@given(st.binary(min_size=20, max_size=20), st.binary(min_size=32, max_size=32))
def test_tab_id_is_the_hash_of_the_abi_encoding(address: bytes, word: bytes) -> None:
    tab = Tab(payer=address, payee=PAYEE, model=word, splits=splits_hash(()))
    kinds = ["address", "address", "bytes32", "bytes32"]
    assert tab_id(tab) == keccak256(encode(kinds, [address, PAYEE, word, tab.splits]))


def test_no_splits_hash_to_that_of_nothing() -> None:
    assert splits_hash(()).hex() == (
        "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    )


@given(
    st.lists(
        st.builds(Split, payee=st.binary(min_size=20, max_size=20), bps=st.integers(0, 65535)),
        max_size=8,
    )
)
def test_splits_survive_packing(splits: list[Split]) -> None:
    packed = pack_splits(splits)
    assert len(packed) == 22 * len(splits)
    assert unpack_splits(packed) == tuple(splits)


def test_good_splits_pass() -> None:
    check()
    check(*(split(n, 625) for n in range(1, 9)))


@pytest.mark.parametrize(
    "splits",
    [
        [split(n, 1) for n in range(1, 10)],
        [split(1, 5_001)],
        [split(1, 2_500), split(2, 2_501)],
        [split(1, 0)],
        [split(0)],
        [split(1), split(1)],
        [split(2), split(1)],
        [Split(payee=PAYEE, bps=1)],
        [Split(payee=ESCROW, bps=1)],
    ],
    ids=["many", "much", "sum", "nothing", "zero", "twice", "order", "payee", "escrow"],
)
def test_splits_that_the_escrow_refuses(splits: list[Split]) -> None:
    with pytest.raises(PeerError):
        check(*splits)
