"""The packed batches of `Escrow.redeem` (format: contracts/src/interfaces/IEscrow.sol)."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from node.protocol.fields import Signed
from node.protocol.statements import Voucher
from node.protocol.tabs import pack_splits
from node.roles.redemption import Due

GAS_BASE: Final = 120_000
"""The transaction, and what an account's own signature check may need to be left over."""
GAS_PER_GROUP: Final = 45_000
"""Reading it, and crediting its payee for the first time."""
GAS_PER_SPLIT: Final = 35_000
GAS_PER_RECORD: Final = 75_000
"""The dearest: a new tab, a lock drawn, a delegated signer.  What is not used is returned."""


def in_order(dues: Sequence[Due]) -> tuple[tuple[Due, ...], ...]:
    """Groups of dues that share payee, model and splits; the batch has them in this order."""
    groups: OrderedDict[tuple[bytes, bytes, bytes], list[Due]] = OrderedDict()
    for due in dues:
        voucher = due.voucher.statement
        groups.setdefault((voucher.payee, voucher.model, voucher.splits), []).append(due)
    return tuple(tuple(group) for group in groups.values())


def pack(groups: Sequence[Sequence[Due]]) -> bytes:
    """The batch's bytes."""
    return b"".join(_pack_group(group) for group in groups)


def gas_limit(groups: Sequence[Sequence[Due]]) -> int:
    """Enough gas for the batch, whatever state it meets: an estimate would be of one state only."""
    total = GAS_BASE
    for group in groups:
        total += GAS_PER_GROUP + GAS_PER_SPLIT * len(group[0].splits)
        total += GAS_PER_RECORD * len(group)
    return total


def _pack_group(group: Sequence[Due]) -> bytes:
    first = group[0]
    assert 0 < len(group) < 2**16
    assert len(first.splits) < 2**8
    voucher = first.voucher.statement
    header = voucher.payee + voucher.model
    header += len(first.splits).to_bytes(1, "big") + len(group).to_bytes(2, "big")
    return header + pack_splits(first.splits) + b"".join(_pack_record(due.voucher) for due in group)


def _pack_record(signed: Signed[Voucher]) -> bytes:
    voucher = signed.statement
    return (
        voucher.payer + voucher.cumulative.to_bytes(16, "big") + voucher.receipts + signed.signature
    )
