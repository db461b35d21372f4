"""One look at a transaction that was sent: is it in a block, how deep, can it still get there?"""

from dataclasses import dataclass
from typing import Any

from node.adapters.chain.abi import quantity, quantity_bytes
from node.adapters.chain.rpc import Call, Rpc
from node.errors import Unavailable
from node.protocol.signing import checksum
from node.roles.transactions import Log, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """A receipt."""

    block: int
    ok: bool
    gas_used: int
    fee_wei: int
    tx_hash: bytes
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one batch said, all by the same RPC."""

    head: int
    nonce: int
    """Transactions of the sender in blocks so far."""
    mined: Mined | None
    """The receipt of whichever attempt was mined."""


async def look(rpc: Rpc, transaction: Transaction) -> Look:
    """Ask for the receipt of every attempt at once.

    Raises:
        Unavailable: No RPC answered.
    """
    attempts = ["0x" + attempt.hash.hex() for attempt in transaction.attempts]
    head, nonce, *receipts = await rpc.batch(
        (
            Call("eth_blockNumber"),
            Call("eth_getTransactionCount", (checksum(transaction.sender), "latest")),
            *(Call("eth_getTransactionReceipt", (tx_hash,)) for tx_hash in attempts),
        )
    )
    mined = [_mined(receipt) for receipt in receipts if receipt is not None]
    return Look(head=quantity(head), nonce=quantity(nonce), mined=mined[0] if mined else None)


async def nonce_at(rpc: Rpc, transaction: Transaction, block: int) -> int:
    """Transactions of the sender in blocks up to this one.

    Raises:
        Unavailable: No RPC answered.
    """
    params = (checksum(transaction.sender), hex(block))
    (count,) = await rpc.batch((Call("eth_getTransactionCount", params),))
    return quantity(count)


def _mined(receipt: Any) -> Mined:
    try:
        gas_used = quantity(receipt["gasUsed"])
        return Mined(
            block=quantity(receipt["blockNumber"]),
            ok=quantity(receipt["status"]) == 1,
            gas_used=gas_used,
            fee_wei=gas_used * quantity(receipt["effectiveGasPrice"]),
            tx_hash=quantity_bytes(receipt["transactionHash"]),
            logs=tuple(_log(entry) for entry in receipt["logs"]),
        )
    except (TypeError, KeyError) as error:
        raise Unavailable("the chain's RPC answered with something that is no receipt") from error


def _log(entry: Any) -> Log:
    return Log(
        contract=quantity_bytes(entry["address"]),
        topics=tuple(quantity_bytes(topic) for topic in entry["topics"]),
        data=quantity_bytes(entry["data"]),
    )
