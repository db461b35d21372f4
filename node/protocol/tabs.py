"""Tabs: what a payer owes one payee for one model under one list of splits."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.errors import PeerError
from node.protocol import limits
from node.protocol.fields import ZERO_ADDRESS, Address, Hash
from node.protocol.signing import keccak256
from node.protocol.statements import Split, Terms, Voucher

SPLIT_SIZE = 22
"""Bytes of a packed split: payee (20) ‖ basis points (2, big endian)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """What identifies a tab in the escrow."""

    payer: Address
    payee: Address
    model: Hash
    splits: Hash


def tab_id(tab: Tab) -> Hash:
    """The escrow's key of a tab: keccak256(abi.encode(payer, payee, model, splits))."""
    return keccak256(
        tab.payer.rjust(32, b"\0") + tab.payee.rjust(32, b"\0") + tab.model + tab.splits
    )


def tab_of_terms(terms: Terms, *, payer: Address) -> Tab:
    """The tab that a payer's awards on these terms are paid on."""
    return Tab(payer=payer, payee=terms.payee, model=terms.model, splits=splits_hash(terms.splits))


def tab_of_voucher(voucher: Voucher) -> Tab:
    """The tab that a voucher raises."""
    return Tab(payer=voucher.payer, payee=voucher.payee, model=voucher.model, splits=voucher.splits)


def pack_splits(splits: Sequence[Split]) -> bytes:
    """Splits as the escrow takes them: 22 bytes each."""
    return b"".join(split.payee + split.bps.to_bytes(2, "big") for split in splits)


def unpack_splits(packed: bytes) -> tuple[Split, ...]:
    """The inverse of `pack_splits`."""
    assert len(packed) % SPLIT_SIZE == 0, len(packed)
    parts = (packed[at : at + SPLIT_SIZE] for at in range(0, len(packed), SPLIT_SIZE))
    return tuple(Split(payee=part[:20], bps=int.from_bytes(part[20:], "big")) for part in parts)


def splits_hash(splits: Sequence[Split]) -> Hash:
    """What stands for a list of splits in vouchers and tab ids; keccak256("") for none."""
    return keccak256(pack_splits(splits))


def check_splits(splits: Sequence[Split], *, payee: Address, escrow: Address) -> None:
    """Refuse what the escrow would refuse: such a tab could never be redeemed.

    Raises:
        PeerError: Too many, too much, a zero share, a payee that is zero, the tab's own, the escrow
            or out of order.
    """
    if len(splits) > limits.SPLITS_MAX:
        raise PeerError(f"{len(splits)} splits, more than {limits.SPLITS_MAX}")
    before = ZERO_ADDRESS
    for split in splits:
        if split.payee <= before:
            raise PeerError("splits are not strictly increasing by payee")
        if split.payee in (payee, escrow):
            raise PeerError("a split names the payee or the escrow")
        if split.bps == 0:
            raise PeerError("a split of nothing")
        before = split.payee
    if sum(split.bps for split in splits) > limits.SPLITS_BPS_MAX:
        raise PeerError(f"splits of more than {limits.SPLITS_BPS_MAX} basis points")
