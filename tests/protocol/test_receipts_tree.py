"""The receipts tree against a straight transcription of RFC 6962."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.fields import ZERO_HASH
from node.protocol.receipts_tree import (
    EMPTY,
    InclusionProof,
    append,
    prove,
    prove_appended,
    root,
    verify_inclusion,
)
from node.protocol.signing import keccak256


def receipt(number: int) -> bytes:
    return number.to_bytes(32, "big")


def rfc_root(receipts: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, read aloud."""
    if not receipts:
        return ZERO_HASH
    if len(receipts) == 1:
        return keccak256(b"\x00" + receipts[0])
    k = 1
    while k * 2 < len(receipts):
        k *= 2
    return keccak256(b"\x01" + rfc_root(receipts[:k]) + rfc_root(receipts[k:]))


def rfc_path(index: int, receipts: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1."""
    if len(receipts) == 1:
        return []
    k = 1
    while k * 2 < len(receipts):
        k *= 2
    if index < k:
        return [*rfc_path(index, receipts[:k]), rfc_root(receipts[k:])]
    return [*rfc_path(index - k, receipts[k:]), rfc_root(receipts[:k])]


@pytest.mark.parametrize("size", range(34))
def test_root_is_that_of_the_rfc(size: int) -> None:
    receipts = [receipt(n) for n in range(size)]
    assert root(append(EMPTY, receipts)) == rfc_root(receipts)


def test_known_root() -> None:
    """Fixed bytes, so that another implementation can compare."""
    got = root(append(EMPTY, [receipt(1), receipt(2), receipt(3)]))
    left = keccak256(b"\x01" + keccak256(b"\x00" + receipt(1)) + keccak256(b"\x00" + receipt(2)))
    assert got == keccak256(b"\x01" + left + keccak256(b"\x00" + receipt(3)))


@given(st.integers(0, 70), st.integers(0, 70))
def test_appending_in_parts_is_appending_at_once(first: int, second: int) -> None:
    receipts = [receipt(n) for n in range(first + second)]
    parts = append(append(EMPTY, receipts[:first]), receipts[first:])
    assert parts == append(EMPTY, receipts)
    assert len(parts.peaks) == (first + second).bit_count()


@given(st.integers(0, 40), st.integers(1, 40))
def test_proofs_of_appended_receipts_need_only_the_frontier(before: int, added: int) -> None:
    receipts = [receipt(n) for n in range(before + added)]
    frontier = append(EMPTY, receipts[:before])
    whole = rfc_root(receipts)
    for offset, proof in enumerate(prove_appended(frontier, receipts[before:])):
        index = before + offset
        assert proof == InclusionProof(
            index=index, size=len(receipts), path=tuple(rfc_path(index, receipts))
        )
        assert verify_inclusion(receipts[index], proof, whole)
        assert prove(receipts, index) == proof


@given(st.integers(1, 40), st.data())
def test_a_wrong_proof_proves_nothing(size: int, data: st.DataObject) -> None:
    receipts = [receipt(n) for n in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof, whole = prove(receipts, index), rfc_root(receipts)
    assert not verify_inclusion(receipt(size), proof, whole)
    assert not verify_inclusion(receipts[index], proof, receipt(0))
    for other in range(-1, size + 1):
        if other != index:
            moved = InclusionProof(index=other, size=proof.size, path=proof.path)
            assert not verify_inclusion(receipts[index], moved, whole)
    longer = InclusionProof(index=index, size=size, path=(*proof.path, ZERO_HASH))
    assert not verify_inclusion(receipts[index], longer, whole)
    if proof.path:
        shorter = InclusionProof(index=index, size=size, path=proof.path[:-1])
        assert not verify_inclusion(receipts[index], shorter, whole)


def test_an_inner_node_is_no_leaf() -> None:
    """Second preimages: an inner node's content must not pass for a receipt."""
    receipts = [receipt(n) for n in range(4)]
    left = rfc_root(receipts[:2])
    forged = InclusionProof(index=0, size=2, path=(rfc_root(receipts[2:]),))
    assert not verify_inclusion(left, forged, rfc_root(receipts))
