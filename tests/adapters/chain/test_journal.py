"""What every journal of transactions must do: the tests' own, and the one on disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters.store import open_stores
from node.errors import CorruptState
from node.protocol.signing import Domain
from node.roles.transactions import Attempt, Transaction, TransactionJournal, TxState
from tests.adapters.chain.world import MemoryJournal

SENDER, OTHER = b"\x01" * 20, b"\x02" * 20
HUGE_WEI = 2**100


def attempt(number: int) -> Attempt:
    return Attempt(
        hash=bytes([number]) * 32,
        raw=bytes([number]) * 300,
        fee_max_wei=HUGE_WEI + number,
        tip_wei=number,
        sent_ms=number,
    )


def transaction(nonce: int, *, sender: bytes = SENDER) -> Transaction:
    return Transaction(
        sender=sender,
        nonce=nonce,
        kind="redeem",
        note='{"vouchers": 3}',
        to=b"\x09" * 20,
        value_wei=HUGE_WEI,
        data=b"data" * 1000,
        gas=16_000_000,
        created_ms=1000 + 10 * nonce + sender[0],
        attempts=(attempt(10 * nonce),),
        state=TxState.SENT,
    )


@asynccontextmanager
async def opened(kind: str, path: Path) -> AsyncIterator[TransactionJournal]:
    if kind == "memory":
        yield MemoryJournal()
        return
    async with open_stores(path / "node.sqlite", domain=Domain(1, b"\x05" * 20)) as stores:
        yield stores.chain


async def close(journal: TransactionJournal, nonce: int, state: TxState) -> None:
    await journal.close_transaction(
        sender=SENDER,
        nonce=nonce,
        state=state,
        block=7,
        gas_used=21_000,
        fee_wei=HUGE_WEI,
        closed_ms=5,
    )


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
class TestJournal:
    async def test_what_is_begun_is_open_until_it_is_closed(
        self, kind: str, tmp_path: Path
    ) -> None:
        async with opened(kind, tmp_path) as journal:
            assert await journal.open_transaction(SENDER) is None
            assert await journal.nonce_last(SENDER) is None
            first = transaction(3)
            await journal.begin_transaction(first)
            assert await journal.open_transaction(SENDER) == first
            assert await journal.open_transaction(OTHER) is None
            bumped = replace(first, attempts=(*first.attempts, attempt(31)))
            await journal.add_attempt(sender=SENDER, nonce=3, attempt=attempt(31))
            assert await journal.open_transaction(SENDER) == bumped
            await close(journal, 3, TxState.FINAL)
            assert await journal.open_transaction(SENDER) is None
            assert await journal.nonce_last(SENDER) == 3
            done = replace(
                bumped,
                state=TxState.FINAL,
                block=7,
                gas_used=21_000,
                fee_wei=HUGE_WEI,
                closed_ms=5,
            )
            assert await journal.transactions(count_max=5) == (done,)

    async def test_a_nonce_is_begun_once_and_a_sender_has_one_open(
        self, kind: str, tmp_path: Path
    ) -> None:
        async with opened(kind, tmp_path) as journal:
            await journal.begin_transaction(transaction(3))
            with pytest.raises(CorruptState):
                await journal.begin_transaction(transaction(4))
            await journal.begin_transaction(transaction(3, sender=OTHER))
            await close(journal, 3, TxState.REVERTED)
            with pytest.raises(CorruptState):
                await journal.begin_transaction(transaction(3))
            await journal.begin_transaction(transaction(4))
            newest = await journal.transactions(count_max=2)
            assert [(row.sender, row.nonce) for row in newest] == [(SENDER, 4), (OTHER, 3)]


async def test_the_one_on_disk_outlives_the_process(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as journal:
        await journal.begin_transaction(transaction(8))
    async with opened("sqlite", tmp_path) as journal:
        assert await journal.open_transaction(SENDER) == transaction(8)
