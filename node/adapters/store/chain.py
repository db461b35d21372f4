"""`roles.transactions.TransactionJournal` on SQLite.

Wei amounts are decimal text: they don't fit 64 bits.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

from node.adapters.store.writer import Writer
from node.errors import CorruptState
from node.protocol.fields import Address
from node.roles.transactions import Attempt, Transaction, TxState

_COLUMNS = (
    "sender, nonce, kind, note, target, value_wei, data, gas, created_ms, state, block, gas_used,"
    " fee_wei, closed_ms"
)


class SqliteTransactionJournal:
    """Transactions, saved before they are sent."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def begin_transaction(self, transaction: Transaction) -> None:
        """Save a signed transaction that was not sent yet.

        Raises:
            CorruptState: Its nonce was used before, or its sender has another one in flight.
        """

        def work(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(
                    f"INSERT INTO transactions ({_COLUMNS})"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    _out(transaction),
                )
            except sqlite3.IntegrityError:
                raise CorruptState(
                    "this nonce was used before, or another transaction is in flight"
                ) from None
            for attempt in transaction.attempts:
                _add_attempt(connection, transaction.sender, transaction.nonce, attempt)

        await self._writer.write(work)

    async def add_attempt(self, *, sender: Address, nonce: int, attempt: Attempt) -> None:
        """Save a fee bump that was not sent yet.

        Raises:
            CorruptState: There is no such transaction in flight.
        """

        def work(connection: sqlite3.Connection) -> None:
            found = connection.execute(
                "SELECT 1 FROM transactions WHERE sender = ? AND nonce = ? AND state = ?",
                (sender, nonce, TxState.SENT.value),
            ).fetchone()
            if found is None:
                raise CorruptState("a fee bump for a transaction that is not in flight")
            _add_attempt(connection, sender, nonce, attempt)

        await self._writer.write(work)

    async def close_transaction(
        self,
        *,
        sender: Address,
        nonce: int,
        state: TxState,
        block: int,
        gas_used: int,
        fee_wei: int,
        closed_ms: int,
    ) -> None:
        """Save how it ended; final.

        Raises:
            CorruptState: There is no such transaction in flight.
        """
        assert state is not TxState.SENT, "that is not an end"

        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE transactions SET state = ?, block = ?, gas_used = ?, fee_wei = ?,"
                " closed_ms = ? WHERE sender = ? AND nonce = ? AND state = ?",
                (
                    state.value,
                    block,
                    gas_used,
                    str(fee_wei),
                    closed_ms,
                    sender,
                    nonce,
                    TxState.SENT.value,
                ),
            ).rowcount
            if changed != 1:
                raise CorruptState("the end of a transaction that is not in flight")

        await self._writer.write(work)

    async def open_transaction(self, sender: Address) -> Transaction | None:
        """The one in flight."""
        found = await self._select("WHERE sender = ? AND state = ?", (sender, TxState.SENT.value))
        return found[0] if found else None

    async def nonce_last(self, sender: Address) -> int | None:
        """Highest nonce that was ever begun."""
        query = "SELECT max(nonce) FROM transactions WHERE sender = ?"
        row = await self._writer.read(lambda c: c.execute(query, (sender,)).fetchone())
        last: int | None = row[0]
        return last

    async def transactions(self, *, count_max: int) -> tuple[Transaction, ...]:
        """Newest first."""
        return await self._select("ORDER BY created_ms DESC, nonce DESC LIMIT ?", (count_max,))

    async def _select(self, where: str, values: Sequence[Any]) -> tuple[Transaction, ...]:
        def work(connection: sqlite3.Connection) -> tuple[Transaction, ...]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM transactions {where}", values
            ).fetchall()
            return tuple(_in(row, _attempts(connection, row[0], row[1])) for row in rows)

        return await self._writer.read(work)


def _add_attempt(
    connection: sqlite3.Connection, sender: Address, nonce: int, attempt: Attempt
) -> None:
    connection.execute(
        "INSERT INTO attempts SELECT ?, ?, count(*), ?, ?, ?, ?, ? FROM attempts"
        " WHERE sender = ? AND nonce = ?",
        (
            sender,
            nonce,
            attempt.hash,
            attempt.raw,
            str(attempt.fee_max_wei),
            str(attempt.tip_wei),
            attempt.sent_ms,
            sender,
            nonce,
        ),
    )


def _attempts(connection: sqlite3.Connection, sender: Address, nonce: int) -> tuple[Attempt, ...]:
    rows = connection.execute(
        "SELECT hash, raw, fee_max_wei, tip_wei, sent_ms FROM attempts"
        " WHERE sender = ? AND nonce = ? ORDER BY number",
        (sender, nonce),
    ).fetchall()
    return tuple(
        Attempt(
            hash=row[0],
            raw=row[1],
            fee_max_wei=int(row[2]),
            tip_wei=int(row[3]),
            sent_ms=row[4],
        )
        for row in rows
    )


def _out(transaction: Transaction) -> tuple[bytes | int | str, ...]:
    return (
        transaction.sender,
        transaction.nonce,
        transaction.kind,
        transaction.note,
        transaction.to,
        str(transaction.value_wei),
        transaction.data,
        transaction.gas,
        transaction.created_ms,
        transaction.state.value,
        transaction.block,
        transaction.gas_used,
        str(transaction.fee_wei),
        transaction.closed_ms,
    )


def _in(row: Sequence[Any], attempts: tuple[Attempt, ...]) -> Transaction:
    return Transaction(
        sender=row[0],
        nonce=row[1],
        kind=row[2],
        note=row[3],
        to=row[4],
        value_wei=int(row[5]),
        data=row[6],
        gas=row[7],
        created_ms=row[8],
        attempts=attempts,
        state=TxState(row[9]),
        block=row[10],
        gas_used=row[11],
        fee_wei=int(row[12]),
        closed_ms=row[13],
    )
