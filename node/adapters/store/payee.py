"""`roles.stores.PayeeStore` on SQLite."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from node.adapters.store.packing import (
    frontier_in,
    hashes_out,
    maybe_in,
    signed_in,
    signed_out,
)
from node.adapters.store.writer import Writer
from node.protocol.fields import Address, Hash, Signed
from node.protocol.payee_state import PayeeTab, Segment, SegmentKey
from node.protocol.payer_state import SegmentRef
from node.protocol.statements import Lock, Voucher
from node.protocol.tabs import Tab, pack_splits, splits_hash, unpack_splits
from node.roles.stores import PayeeRows, TabRow

UNSETTLED_MAX = 8_192
"""Segments that are looked at again after a restart; the newest of them."""
ADVANCES_MAX = 4_096

_SEGMENT = (
    "digest, client, job, attempt, payer, tab, cap, paid, earned, receipt_digest, receipt_taken"
)
_UNSETTLED = "earned > paid OR (receipt_digest IS NOT NULL AND receipt_taken = 0 AND earned > 0)"


class SqlitePayeeStore:
    """Vouchers that this node was given."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def load(self) -> PayeeRows:
        """Everything; called once at the start."""
        return await self._writer.read(_load)

    async def find_segments(
        self, *, client: Address, refs: Sequence[SegmentRef], receipts: Sequence[Hash]
    ) -> tuple[Segment, ...]:
        """Segments of a client by reference or by their receipt's digest, settled ones too."""
        query = f"SELECT {_SEGMENT} FROM segments WHERE client = ? AND"

        def work(connection: sqlite3.Connection) -> list[Any]:
            rows: list[Any] = []
            for job, attempt in refs:
                key = (client, job, attempt)
                rows += connection.execute(f"{query} job = ? AND attempt = ?", key)
            for receipt in receipts:
                rows += connection.execute(f"{query} receipt_digest = ?", (client, receipt))
            return rows

        rows = await self._writer.read(work)
        return tuple({row[0]: _segment_in(row) for row in rows}.values())

    async def save_tab(self, row: TabRow) -> None:
        """Insert or replace a tab with its vouchers."""
        await self._writer.write(lambda connection: _save_tab(connection, row))

    async def save_voucher(
        self, row: TabRow, *, segments: Sequence[Segment], advances: Mapping[SegmentKey, int]
    ) -> None:
        """Save an accepted voucher with its tab and what it paid; all or nothing."""

        def work(connection: sqlite3.Connection) -> None:
            _save_tab(connection, row)
            ahead = dict(advances)
            for segment in segments:
                begun = connection.execute(
                    "UPDATE segments SET paid = max(paid, ?),"
                    " receipt_taken = max(receipt_taken, ?) WHERE digest = ?",
                    (segment.paid_micro, segment.receipt_taken, segment.award),
                ).rowcount
                if not begun:
                    # Admitted, and its row is still on its way: `begin_segment` takes this over.
                    ahead[segment.key] = segment.paid_micro
            for key, paid in ahead.items():
                connection.execute(
                    "INSERT INTO advances VALUES (?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET paid = max(paid, excluded.paid)",
                    (*key, paid),
                )

        await self._writer.write(work)

    async def save_redeemed(self, redeemed: Mapping[Hash, int]) -> None:
        """Save what the escrow paid on tabs, at a finalised block."""

        def work(connection: sqlite3.Connection) -> None:
            for tab, paid in redeemed.items():
                connection.execute(
                    "UPDATE payee_tabs SET redeemed = max(redeemed, ?),"
                    " owed_since_ms = CASE WHEN best > ? THEN owed_since_ms ELSE 0 END"
                    " WHERE id = ?",
                    (paid, paid, tab),
                )

        await self._writer.write(work)

    async def save_lock(self, lock: Signed[Lock]) -> None:
        """Save a payer's lock, to be submitted; replaces one with a lower nonce."""
        statement = lock.statement

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO locks_got VALUES (?, ?, ?) ON CONFLICT (payer) DO UPDATE"
                " SET nonce = excluded.nonce, lock = excluded.lock WHERE excluded.nonce > nonce",
                (statement.payer, statement.nonce, signed_out(lock)),
            )

        await self._writer.write(work)

    async def drop_lock(self, *, payer: Address, nonce: int) -> None:
        """The lock landed or died."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM locks_got WHERE payer = ? AND nonce <= ?", (payer, nonce)
            )

        await self._writer.write(work)


def _load(connection: sqlite3.Connection) -> PayeeRows:
    tabs = connection.execute(
        "SELECT id, payer, payee, model, splits, client, cumulative, redeemed, best, size, peaks,"
        " held, best_voucher, owed_since_ms FROM payee_tabs"
    ).fetchall()
    segments = connection.execute(
        f"SELECT {_SEGMENT} FROM segments WHERE {_UNSETTLED} ORDER BY begun_ms DESC LIMIT ?",
        (UNSETTLED_MAX,),
    ).fetchall()
    advances = connection.execute(
        "SELECT client, job, attempt, paid FROM advances LIMIT ?", (ADVANCES_MAX,)
    ).fetchall()
    locks = connection.execute("SELECT lock FROM locks_got").fetchall()
    return PayeeRows(
        tabs=tuple(_row_in(row) for row in tabs),
        segments=tuple(_segment_in(row) for row in reversed(segments)),
        advances={(row[0], row[1], row[2]): row[3] for row in advances},
        locks=tuple(signed_in(Lock, row[0]) for row in locks),
    )


def _row_in(row: Sequence[Any]) -> TabRow:
    splits = unpack_splits(row[4])
    tab = PayeeTab(
        id=row[0],
        tab=Tab(payer=row[1], payee=row[2], model=row[3], splits=splits_hash(splits)),
        client=row[5],
        cumulative_micro=row[6],
        redeemed_micro=row[7],
        best_micro=row[8],
        tree=frontier_in(row[9], row[10]),
    )
    return TabRow(
        tab=tab,
        splits=splits,
        held=maybe_in(Voucher, row[11]),
        best=maybe_in(Voucher, row[12]),
        owed_since_ms=row[13],
    )


def _segment_in(row: Sequence[Any]) -> Segment:
    return Segment(
        award=row[0],
        client=row[1],
        job=row[2],
        attempt=row[3],
        payer=row[4],
        tab=row[5],
        cap_micro=row[6],
        need_micro=row[6],
        paid_micro=row[7],
        earned_micro=row[8],
        receipt=row[9],
        receipt_taken=bool(row[10]),
    )


def _save_tab(connection: sqlite3.Connection, row: TabRow) -> None:
    tab = row.tab
    connection.execute(
        "INSERT INTO payee_tabs (id, payer, payee, model, splits, client, cumulative, redeemed,"
        " best, size, peaks, held, best_voucher, owed_since_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " client = excluded.client, cumulative = excluded.cumulative, best = excluded.best,"
        " size = excluded.size, peaks = excluded.peaks, held = excluded.held,"
        " best_voucher = excluded.best_voucher, owed_since_ms = excluded.owed_since_ms"
        # A voucher never goes back, whichever of two writers comes last.
        " WHERE excluded.cumulative >= cumulative AND excluded.best >= best",
        (
            tab.id,
            tab.tab.payer,
            tab.tab.payee,
            tab.tab.model,
            pack_splits(row.splits),
            tab.client,
            tab.cumulative_micro,
            tab.redeemed_micro,
            tab.best_micro,
            tab.tree.size,
            hashes_out(tab.tree.peaks),
            signed_out(row.held) if row.held else None,
            signed_out(row.best) if row.best else None,
            row.owed_since_ms,
        ),
    )
