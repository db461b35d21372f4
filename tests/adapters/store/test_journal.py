"""The journal of transactions: one in flight per sender, no nonce twice."""

from dataclasses import replace

import pytest

from node.errors import CorruptState
from node.roles.stores import Stores
from node.roles.transactions import Attempt, Transaction, TxState

SENDER = b"s" * 20


def attempt(number: int) -> Attempt:
    return Attempt(
        hash=number.to_bytes(32, "big"),
        raw=b"raw",
        fee_max_wei=10**30 + number,
        tip_wei=7,
        sent_ms=number,
    )


def transaction(nonce: int, *, sender: bytes = SENDER) -> Transaction:
    return Transaction(
        sender=sender,
        nonce=nonce,
        kind="redeem",
        note='{"vouchers":3}',
        to=b"e" * 20,
        value_wei=10**25,
        data=b"\x01\x02",
        gas=100_000,
        created_ms=nonce,
        attempts=(attempt(1),),
        state=TxState.SENT,
    )


async def close(stores: Stores, nonce: int, state: TxState = TxState.FINAL) -> None:
    await stores.chain.close_transaction(
        sender=SENDER,
        nonce=nonce,
        state=state,
        block=5,
        gas_used=90_000,
        fee_wei=10**24,
        closed_ms=8,
    )


async def test_a_transaction_from_beginning_to_end(stores: Stores) -> None:
    assert await stores.chain.open_transaction(SENDER) is None
    assert await stores.chain.nonce_last(SENDER) is None
    await stores.chain.begin_transaction(transaction(4))
    await stores.chain.add_attempt(sender=SENDER, nonce=4, attempt=attempt(2))
    expected = replace(transaction(4), attempts=(attempt(1), attempt(2)))
    assert await stores.chain.open_transaction(SENDER) == expected
    await close(stores, 4)
    assert await stores.chain.open_transaction(SENDER) is None
    assert await stores.chain.nonce_last(SENDER) == 4
    (row,) = await stores.chain.transactions(count_max=9)
    assert (row.state, row.block, row.gas_used) == (TxState.FINAL, 5, 90_000)
    assert (row.fee_wei, row.closed_ms) == (10**24, 8)


async def test_one_in_flight_per_sender(stores: Stores) -> None:
    await stores.chain.begin_transaction(transaction(1))
    with pytest.raises(CorruptState):
        await stores.chain.begin_transaction(transaction(2))
    await stores.chain.begin_transaction(transaction(2, sender=b"t" * 20))
    await close(stores, 1, TxState.REVERTED)
    with pytest.raises(CorruptState):
        await stores.chain.begin_transaction(transaction(1))
    await stores.chain.begin_transaction(transaction(2))


async def test_what_is_closed_stays_closed(stores: Stores) -> None:
    await stores.chain.begin_transaction(transaction(1))
    await close(stores, 1)
    with pytest.raises(CorruptState):
        await close(stores, 1, TxState.REPLACED)
    with pytest.raises(CorruptState):
        await stores.chain.add_attempt(sender=SENDER, nonce=1, attempt=attempt(2))


async def test_newest_first(stores: Stores) -> None:
    for nonce in range(3):
        await stores.chain.begin_transaction(transaction(nonce))
        await close(stores, nonce)
    rows = await stores.chain.transactions(count_max=2)
    assert [row.nonce for row in rows] == [2, 1]
