"""`roles.stores.WorkerStore` on SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from node.adapters.store.packing import maybe_in, signed_in, signed_out
from node.adapters.store.writer import Writer
from node.errors import CorruptState
from node.protocol.fields import Hash, Signed
from node.protocol.statements import Acceptance, Award, Cutoff, Progress, Receipt, Terms
from node.protocol.tabs import tab_id, tab_of_terms
from node.roles.stores import Duplicate, Earnings, SegmentRow

SERIAL_KEY = "terms_serial"

_COLUMNS = "digest, award, terms, begun_ms, acceptance, progress, receipt, cutoff, earned, paid"


class SqliteWorkerStore:
    """The worker's statements."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def begin_segment(
        self, *, digest: Hash, award: Signed[Award], terms: Signed[Terms], at_ms: int
    ) -> None:
        """Save that an award was taken on.  `digest` is the award's.

        Raises:
            Duplicate: This (client, job, attempt) was begun before.
        """
        order = award.statement
        tab = tab_id(tab_of_terms(terms.statement, payer=order.payer))
        key = (order.client, order.job, order.attempt)

        def work(connection: sqlite3.Connection) -> None:
            ahead = connection.execute(
                "SELECT paid FROM advances WHERE client = ? AND job = ? AND attempt = ?", key
            ).fetchone()
            try:
                connection.execute(
                    "INSERT INTO segments (digest, client, job, attempt, payer, tab, cap,"
                    " begun_ms, award, terms, paid) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        digest,
                        *key,
                        order.payer,
                        tab,
                        order.cap,
                        at_ms,
                        signed_out(award),
                        signed_out(terms),
                        min(ahead[0], order.cap) if ahead else 0,
                    ),
                )
            except sqlite3.IntegrityError:
                raise Duplicate("this attempt of the job was begun before") from None
            if ahead:
                connection.execute(
                    "DELETE FROM advances WHERE client = ? AND job = ? AND attempt = ?", key
                )

        await self._writer.write(work)

    async def save_acceptance(self, acceptance: Signed[Acceptance]) -> None:
        """Save before it is sent; its `award` names the segment."""
        await self._set("acceptance = ?", signed_out(acceptance), acceptance.statement.award)

    async def save_progress(self, progress: Signed[Progress]) -> None:
        """Save before it is sent; replaces the one before."""
        statement = progress.statement
        await self._set(
            "progress = ?, earned = max(earned, ?), tokens_out = max(tokens_out, ?)",
            signed_out(progress),
            statement.amount,
            statement.tokens_out,
            statement.award,
        )

    async def save_receipt(self, receipt: Signed[Receipt], *, digest: Hash) -> None:
        """Save before it is sent.  `digest` is the receipt's.

        Raises:
            Duplicate: The segment has another receipt already.
        """
        statement = receipt.statement

        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE segments SET receipt = ?, receipt_digest = ?, earned = ?, tokens_out = ?"
                " WHERE digest = ? AND coalesce(receipt_digest, ?) = ?",
                (
                    signed_out(receipt),
                    digest,
                    statement.amount,
                    statement.tokens_out,
                    statement.award,
                    digest,
                    digest,
                ),
            ).rowcount
            if changed != 1:
                raise Duplicate("the segment has another receipt, or was never begun")

        await self._writer.write(work)

    async def save_cutoff(self, cutoff: Signed[Cutoff]) -> None:
        """Save what the client accepted at most; the first counts."""
        await self._set("cutoff = coalesce(cutoff, ?)", signed_out(cutoff), cutoff.statement.award)

    async def segment(self, digest: Hash) -> SegmentRow | None:
        """One segment by its award's digest."""
        query = f"SELECT {_COLUMNS} FROM segments WHERE digest = ?"
        row = await self._writer.read(lambda c: c.execute(query, (digest,)).fetchone())
        return None if row is None else _segment_in(row)

    async def segments(self, *, count_max: int, before_ms: int = 2**62) -> tuple[SegmentRow, ...]:
        """The newest segments begun before a time, newest first."""
        query = (
            f"SELECT {_COLUMNS} FROM segments WHERE begun_ms < ?"
            " ORDER BY begun_ms DESC, digest LIMIT ?"
        )
        rows = await self._writer.read(
            lambda c: c.execute(query, (before_ms, count_max)).fetchall()
        )
        return tuple(_segment_in(row) for row in rows)

    async def totals(self) -> Earnings:
        """Sums over all segments and tabs."""

        def work(connection: sqlite3.Connection) -> Earnings:
            count, tokens, earned = connection.execute(
                "SELECT coalesce(sum(tokens_out > 0 OR earned > 0), 0),"
                " coalesce(sum(tokens_out), 0), coalesce(sum(earned), 0) FROM segments"
            ).fetchone()
            vouchered, redeemed = connection.execute(
                "SELECT coalesce(sum(best), 0), coalesce(sum(redeemed), 0) FROM payee_tabs"
            ).fetchone()
            return Earnings(
                segments=count,
                tokens_out=tokens,
                earned_micro=earned,
                vouchered_micro=vouchered,
                redeemed_micro=redeemed,
            )

        return await self._writer.read(work)

    async def next_serials(self, count: int, *, at_least: int = 0) -> int:
        """The first of `count` serials, `at_least` or above, that this home has never used."""

        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT value FROM meta WHERE key = ?", (SERIAL_KEY,)
            ).fetchone()
            first = max(int(row[0]) if row else 1, at_least)
            connection.execute(
                "INSERT INTO meta VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (SERIAL_KEY, str(first + count).encode()),
            )
            return first

        return await self._writer.write(work)

    async def _set(self, assignment: str, *values: bytes | int) -> None:
        """Update one segment; the last value is its award's digest."""

        def work(connection: sqlite3.Connection) -> None:
            query = f"UPDATE segments SET {assignment} WHERE digest = ?"
            if connection.execute(query, values).rowcount != 1:
                raise CorruptState("a statement of a segment that was never begun")

        await self._writer.write(work)


def _segment_in(row: Sequence[Any]) -> SegmentRow:
    return SegmentRow(
        digest=row[0],
        award=signed_in(Award, row[1]),
        terms=signed_in(Terms, row[2]),
        begun_ms=row[3],
        acceptance=maybe_in(Acceptance, row[4]),
        progress=maybe_in(Progress, row[5]),
        receipt=maybe_in(Receipt, row[6]),
        cutoff=maybe_in(Cutoff, row[7]),
        earned_micro=row[8],
        paid_micro=row[9],
    )
