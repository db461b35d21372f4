"""The append-only Merkle tree of accepted receipts (protocol.md, "Receipts root").

Structure of RFC 6962, section 2.1, with keccak-256: a leaf is keccak256(0x00 ‖ receipt digest), an
inner node keccak256(0x01 ‖ left ‖ right), and the left subtree of n leaves holds the largest power
of two below n.  The root of no leaves is the zero hash.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.protocol.fields import ZERO_HASH, Hash
from node.protocol.signing import keccak256

DEPTH_MAX = 64
"""Longest path of a proof that is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """All that is needed to append: the roots of the complete subtrees, from left to right.

    There is one per set bit of `size`, the largest first.
    """

    size: int
    peaks: tuple[Hash, ...]


EMPTY = Frontier(size=0, peaks=())


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """That a receipt is leaf `index` of the tree of `size` leaves; `path` from the leaf upwards."""

    index: int
    size: int
    path: tuple[Hash, ...]


def leaf_hash(receipt: Hash) -> Hash:
    """The leaf of a receipt's digest."""
    return keccak256(b"\x00" + receipt)


def append(frontier: Frontier, receipts: Sequence[Hash]) -> Frontier:
    """The frontier after these receipts' digests were appended, in order."""
    size, peaks = frontier.size, list(frontier.peaks)
    for receipt in receipts:
        node, merges = leaf_hash(receipt), size
        while merges & 1:
            node = _node(peaks.pop(), node)
            merges >>= 1
        peaks.append(node)
        size += 1
    return Frontier(size=size, peaks=tuple(peaks))


def root(frontier: Frontier) -> Hash:
    """The root that a voucher carries."""
    if not frontier.peaks:
        return ZERO_HASH
    node = frontier.peaks[-1]
    for peak in reversed(frontier.peaks[:-1]):
        node = _node(peak, node)
    return node


def prove(receipts: Sequence[Hash], index: int) -> InclusionProof:
    """Proof for one of all the receipts of a tree.  Costs as many hashes as there are receipts."""
    return prove_appended(EMPTY, receipts)[index]


def prove_appended(before: Frontier, receipts: Sequence[Hash]) -> tuple[InclusionProof, ...]:
    """Proofs for receipts just appended to `before`, against the root after them.

    What lies left of them is complete subtrees that the frontier holds, so no older leaf is needed.
    """
    tree = _Grown(before, receipts)
    return tuple(
        InclusionProof(
            index=before.size + offset,
            size=tree.size,
            path=tuple(tree.path(before.size + offset)),
        )
        for offset in range(len(receipts))
    )


def verify_inclusion(receipt: Hash, proof: InclusionProof, root_hash: Hash) -> bool:
    """Whether the proof leads from the receipt's digest to the root (RFC 9162, 2.1.3.2)."""
    if not 0 <= proof.index < proof.size or len(proof.path) > DEPTH_MAX:
        return False
    at, last, node = proof.index, proof.size - 1, leaf_hash(receipt)
    for sibling in proof.path:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = _node(sibling, node)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            node = _node(node, sibling)
        at >>= 1
        last >>= 1
    return last == 0 and node == root_hash


class _Grown:
    """A frontier and the leaves after it, hashed once per subtree."""

    def __init__(self, before: Frontier, receipts: Sequence[Hash]) -> None:
        self.size = before.size + len(receipts)
        self._known: dict[tuple[int, int], Hash] = {}
        low = 0
        for peak, width in zip(before.peaks, _widths(before.size), strict=True):
            self._known[low, low + width] = peak
            low += width
        for offset, receipt in enumerate(receipts):
            at = before.size + offset
            self._known[at, at + 1] = leaf_hash(receipt)

    def path(self, index: int) -> list[Hash]:
        """Siblings from the leaf upwards."""
        siblings: list[Hash] = []
        low, high = 0, self.size
        while high - low > 1:
            middle = low + _left_width(high - low)
            if index < middle:
                siblings.append(self._hash(middle, high))
                high = middle
            else:
                siblings.append(self._hash(low, middle))
                low = middle
        return siblings[::-1]

    def _hash(self, low: int, high: int) -> Hash:
        found = self._known.get((low, high))
        if found is None:
            middle = low + _left_width(high - low)
            found = _node(self._hash(low, middle), self._hash(middle, high))
            self._known[low, high] = found
        return found


def _node(left: Hash, right: Hash) -> Hash:
    return keccak256(b"\x01" + left + right)


def _left_width(count: int) -> int:
    """The largest power of two below `count` (of at least 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def _widths(size: int) -> list[int]:
    return [1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]
