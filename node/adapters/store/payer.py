"""`roles.stores.PayerStore` on SQLite."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from node.adapters.store.packing import (
    frame_in,
    frontier_in,
    hashes_in,
    hashes_out,
    signed_in,
    signed_out,
)
from node.adapters.store.schema import HALT_KEY
from node.adapters.store.writer import Writer
from node.protocol import codec
from node.protocol.fields import Hash, Signed
from node.protocol.frames import VoucherFrame
from node.protocol.payer_state import PayerTab, Reservation, SegmentRef, SignedLock, VoucherDraft
from node.protocol.receipts_tree import InclusionProof
from node.protocol.statements import Lock, LockRelease, Voucher
from node.protocol.tabs import Tab
from node.roles.stores import Duplicate, PayerRows, ReceiptProof

_RESERVATION = "job, attempt, tab, cap, hold, paid, due, accepted, receipt, receipt_due, closed"


class SqlitePayerStore:
    """Reservations, vouchers and locks of the account that this node spends from."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def load(self) -> PayerRows:
        """Everything; called once at the start."""
        return await self._writer.read(_load)

    async def reserve(self, reservation: Reservation, tab: PayerTab) -> None:
        """Insert a reservation, and its tab where it is new.

        Raises:
            Duplicate: This (job, attempt) had one before.
        """

        def work(connection: sqlite3.Connection) -> None:
            _insert_tab(connection, tab)
            try:
                _insert_reservation(connection, reservation)
            except sqlite3.IntegrityError:
                raise Duplicate("this attempt of the job was reserved before") from None

        await self._writer.write(work)

    async def save_reservation(self, reservation: Reservation, tab: PayerTab) -> None:
        """Update a reservation."""
        del tab  # it was saved with the reservation

        def work(connection: sqlite3.Connection) -> None:
            _update_reservation(connection, reservation)

        await self._writer.write(work)

    async def save_vouchers(self, vouchers: Sequence[tuple[VoucherDraft, VoucherFrame]]) -> None:
        """Save signed vouchers, one per tab, with what they changed; all or none.

        Raises:
            Duplicate: There is one with this cumulative, or a higher one, already.
        """

        def work(connection: sqlite3.Connection) -> None:
            for draft, frame in vouchers:
                _save_voucher(connection, draft, frame)

        await self._writer.write(work)

    async def vouchers_after(
        self, tab: Hash, *, cumulative_micro: int, count_max: int
    ) -> tuple[VoucherFrame, ...]:
        """The stored frames above a cumulative, lowest first, to be sent again."""
        query = (
            "SELECT frame FROM vouchers_given WHERE tab = ? AND cumulative > ?"
            " ORDER BY cumulative LIMIT ?"
        )
        rows = await self._writer.read(
            lambda connection: connection.execute(
                query, (tab, cumulative_micro, count_max)
            ).fetchall()
        )
        return tuple(frame_in(row[0]) for row in rows)

    async def receipt_proof(self, ref: SegmentRef) -> ReceiptProof | None:
        """The proof that a voucher commits to a segment's receipt, once one does."""
        query = (
            "SELECT voucher, leaf, leaves, path FROM reservations"
            " WHERE job = ? AND attempt = ? AND voucher IS NOT NULL"
        )
        row = await self._writer.read(lambda connection: connection.execute(query, ref).fetchone())
        if row is None:
            return None
        voucher, leaf, leaves, path = row
        return ReceiptProof(
            voucher=signed_in(Voucher, voucher),
            proof=InclusionProof(index=leaf, size=leaves, path=hashes_in(path)),
        )

    async def leaves(self, tab: Hash) -> tuple[Hash, ...]:
        """All receipts' digests of a tab's tree, for proofs against a later root."""
        query = "SELECT receipt FROM leaves WHERE tab = ? ORDER BY leaf"
        rows = await self._writer.read(
            lambda connection: connection.execute(query, (tab,)).fetchall()
        )
        return tuple(row[0] for row in rows)

    async def save_lock(self, lock: Signed[Lock]) -> None:
        """Save a lock that this payer signed.

        Raises:
            Duplicate: There is one with this payee and nonce already.
        """
        statement = lock.statement

        def work(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(
                    "INSERT INTO locks_given (payee, nonce, lock) VALUES (?, ?, ?)",
                    (statement.payee, statement.nonce, signed_out(lock)),
                )
            except sqlite3.IntegrityError:
                raise Duplicate("a lock with this nonce was signed before") from None

        await self._writer.write(work)

    async def save_release(self, release: Signed[LockRelease]) -> None:
        """Save a payee's consent to lower a lock."""
        statement = release.statement

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO releases_got VALUES (?, ?, ?) ON CONFLICT (payee) DO UPDATE"
                " SET nonce = excluded.nonce, release = excluded.release"
                " WHERE excluded.nonce > nonce",
                (statement.payee, statement.nonce, signed_out(release)),
            )

        await self._writer.write(work)

    async def releases(self) -> tuple[Signed[LockRelease], ...]:
        """All of them, the newest per payee."""
        rows = await self._writer.read(
            lambda connection: connection.execute("SELECT release FROM releases_got").fetchall()
        )
        return tuple(signed_in(LockRelease, row[0]) for row in rows)

    async def save_redeemed(
        self, redeemed: Mapping[Hash, int], locks_ended: Sequence[SignedLock]
    ) -> None:
        """Save what tabs were paid, and which locks are over."""

        def work(connection: sqlite3.Connection) -> None:
            for tab, paid in redeemed.items():
                connection.execute(
                    "UPDATE payer_tabs SET redeemed = max(redeemed, ?) WHERE id = ?", (paid, tab)
                )
            for lock in locks_ended:
                connection.execute(
                    "UPDATE locks_given SET ended = 1 WHERE payee = ? AND nonce = ?",
                    (lock.payee, lock.nonce),
                )

        await self._writer.write(work)

    async def forget_vouchers(self, tab: Hash, *, cumulative_micro: int) -> None:
        """The payee has saved a tab's vouchers up to this: they are never sent again."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM vouchers_given WHERE tab = ? AND cumulative <= ?",
                (tab, cumulative_micro),
            )

        await self._writer.write(work)

    async def save_halt(self, reason: str) -> None:
        """Remember that signing stopped, and why."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR IGNORE INTO meta VALUES (?, ?)", (HALT_KEY, reason.encode())
            )

        await self._writer.write(work)


def _load(connection: sqlite3.Connection) -> PayerRows:
    tabs = connection.execute(
        "SELECT id, payer, payee, model, splits, worker, cumulative, redeemed, size, peaks, voucher"
        " FROM payer_tabs"
    ).fetchall()
    reservations = connection.execute(
        f"SELECT {_RESERVATION} FROM reservations WHERE closed = 0 OR receipt_due = 1 OR due > paid"
    ).fetchall()
    locks = connection.execute(
        "SELECT lock FROM locks_given WHERE ended = 0 ORDER BY payee, nonce"
    ).fetchall()
    nonces = connection.execute(
        "SELECT payee, max(nonce) FROM locks_given GROUP BY payee"
    ).fetchall()
    halt = connection.execute("SELECT value FROM meta WHERE key = ?", (HALT_KEY,)).fetchone()
    return PayerRows(
        tabs=tuple(_tab_in(row) for row in tabs),
        reservations=tuple(_reservation_in(row) for row in reservations),
        locks=tuple(signed_in(Lock, row[0]) for row in locks),
        lock_nonces=dict(nonces),
        vouchers={row[0]: signed_in(Voucher, row[10]) for row in tabs if row[10] is not None},
        halted=halt[0].decode() if halt else "",
    )


def _tab_in(row: Sequence[Any]) -> PayerTab:
    return PayerTab(
        id=row[0],
        tab=Tab(payer=row[1], payee=row[2], model=row[3], splits=row[4]),
        worker=row[5],
        cumulative_micro=row[6],
        redeemed_micro=row[7],
        tree=frontier_in(row[8], row[9]),
    )


def _reservation_in(row: Sequence[Any]) -> Reservation:
    return Reservation(
        job=row[0],
        attempt=row[1],
        tab=row[2],
        cap_micro=row[3],
        hold_micro=row[4],
        paid_micro=row[5],
        due_micro=row[6],
        accepted_micro=row[7],
        receipt=row[8],
        receipt_due=bool(row[9]),
        closed=bool(row[10]),
    )


def _insert_tab(connection: sqlite3.Connection, tab: PayerTab) -> None:
    connection.execute(
        "INSERT INTO payer_tabs (id, payer, payee, model, splits, worker)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (tab.id, tab.tab.payer, tab.tab.payee, tab.tab.model, tab.tab.splits, tab.worker),
    )


def _insert_reservation(connection: sqlite3.Connection, reservation: Reservation) -> None:
    connection.execute(
        f"INSERT INTO reservations ({_RESERVATION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            reservation.job,
            reservation.attempt,
            reservation.tab,
            reservation.cap_micro,
            reservation.hold_micro,
            reservation.paid_micro,
            reservation.due_micro,
            reservation.accepted_micro,
            reservation.receipt,
            reservation.receipt_due,
            reservation.closed,
        ),
    )


def _update_reservation(connection: sqlite3.Connection, reservation: Reservation) -> None:
    # Amounts and flags only ever move one way, whichever of two writers comes last.
    connection.execute(
        "UPDATE reservations SET paid = max(paid, ?), due = max(due, ?),"
        " accepted = max(accepted, ?), receipt = coalesce(receipt, ?), receipt_due = ?,"
        " closed = max(closed, ?) WHERE job = ? AND attempt = ?",
        (
            reservation.paid_micro,
            reservation.due_micro,
            reservation.accepted_micro,
            reservation.receipt,
            reservation.receipt_due,
            reservation.closed,
            reservation.job,
            reservation.attempt,
        ),
    )


def _save_voucher(connection: sqlite3.Connection, draft: VoucherDraft, frame: VoucherFrame) -> None:
    tab, voucher = draft.tab, signed_out(frame.voucher)
    risen = sum(rise.amount for rise in draft.rises)
    updated = connection.execute(
        "UPDATE payer_tabs SET cumulative = ?, size = ?, peaks = ?, voucher = ?"
        " WHERE id = ? AND cumulative = ? AND size = ?",
        (
            tab.cumulative_micro,
            tab.tree.size,
            hashes_out(tab.tree.peaks),
            voucher,
            tab.id,
            tab.cumulative_micro - risen,
            tab.tree.size - len(draft.receipts),
        ),
    ).rowcount
    if updated != 1:
        raise Duplicate("this home has signed another voucher on this tab meanwhile")
    connection.execute(
        "INSERT INTO vouchers_given VALUES (?, ?, ?)",
        (tab.id, tab.cumulative_micro, codec.encode(frame)),
    )
    for reservation in draft.reservations:
        _update_reservation(connection, reservation)
    first = tab.tree.size - len(draft.receipts)
    connection.executemany(
        "INSERT INTO leaves VALUES (?, ?, ?)",
        [(tab.id, first + at, receipt) for at, receipt in enumerate(draft.receipts)],
    )
    for (job, attempt), proof in draft.proofs:
        connection.execute(
            "UPDATE reservations SET voucher = ?, leaf = ?, leaves = ?, path = ?"
            " WHERE job = ? AND attempt = ?",
            (voucher, proof.index, proof.size, hashes_out(proof.path), job, attempt),
        )
