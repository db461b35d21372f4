"""The money rules, checked on what both sides have on disk, on what left them, and on the chain.

With SQL and sums of its own: a rule that is broken in the ledgers must not be broken here too.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.adapters.store.packing import signed_in
from node.protocol.frames import (
    AcceptanceFrame,
    AwardFrame,
    CutoffFrame,
    Frame,
    LockFrame,
    ProgressFrame,
    ReceiptFrame,
    VoucherFrame,
)
from node.protocol.statements import Progress
from node.protocol.tabs import tab_id, tab_of_voucher
from tests.crash.statements import Said


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One consistent look at a store, beside its owner or after its end."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        connection.execute("BEGIN")
        yield connection


def promised_micro(store: sqlite3.Connection) -> int:
    """All that a payer ever vouchered, and what it may still voucher under its reservations."""
    vouchered = store.execute("SELECT coalesce(sum(cumulative), 0) FROM payer_tabs").fetchone()[0]
    reserved = store.execute(
        "SELECT coalesce(sum(CASE closed WHEN 1 THEN due ELSE cap END - paid), 0)"
        " FROM reservations WHERE closed = 0 OR due > paid"
    ).fetchone()[0]
    return int(vouchered + reserved)


@dataclass(frozen=True, slots=True)
class Unpaid:
    """What a worker delivered and was not given vouchers for, in micro."""

    total: int
    worst: int
    """Of one segment."""
    overpaid: int
    """The most that one segment was paid beyond what it had earned."""


def unpaid_micro(store: sqlite3.Connection) -> Unpaid:
    """Of all segments of a worker."""
    rows = store.execute("SELECT earned - paid FROM segments").fetchall()
    owed = [row[0] for row in rows]
    return Unpaid(
        total=sum(each for each in owed if each > 0),
        worst=max(owed, default=0),
        overpaid=max((-each for each in owed), default=0),
    )


def unsaved(store: sqlite3.Connection, direction: str, frame: Frame) -> str:
    """What of a frame that left is not in the store of who sent it; empty if all of it is."""
    if direction != ">":
        return ""
    match frame:
        case VoucherFrame(voucher=signed):
            tab = tab_id(tab_of_voucher(signed.statement))
            query = "SELECT cumulative FROM payer_tabs WHERE id = ?"
            row = store.execute(query, (tab,)).fetchone()
            return "" if row and row[0] >= signed.statement.cumulative else "a voucher"
        case AwardFrame(award=award):
            key = (award.statement.job, award.statement.attempt)
            query = "SELECT 1 FROM bought WHERE job = ? AND attempt = ?"
            found = store.execute(query, key).fetchone()
            query = "SELECT 1 FROM reservations WHERE job = ? AND attempt = ?"
            return "" if found and store.execute(query, key).fetchone() else "an award"
        case CutoffFrame(cutoff=cutoff):
            return _column(store, "bought", "cutoff", cutoff.statement.award)
        case AcceptanceFrame(acceptance=acceptance):
            return _column(store, "segments", "acceptance", acceptance.statement.award)
        case ReceiptFrame(receipt=receipt):
            return _column(store, "segments", "receipt", receipt.statement.award)
        case ProgressFrame(progress=progress):
            query = "SELECT progress FROM segments WHERE digest = ?"
            row = store.execute(query, (progress.statement.award,)).fetchone()
            saved = signed_in(Progress, row[0]).statement.tokens_out if row and row[0] else -1
            return "" if saved >= progress.statement.tokens_out else "a running total"
        case LockFrame(lock=lock):
            query = "SELECT 1 FROM locks_given WHERE payee = ? AND nonce = ?"
            key = (lock.statement.payee, lock.statement.nonce)
            return "" if store.execute(query, key).fetchone() else "a lock"
    return ""


def _column(store: sqlite3.Connection, table: str, column: str, digest: bytes) -> str:
    query = f"SELECT {column} FROM {table} WHERE digest = ?"
    row = store.execute(query, (digest,)).fetchone()
    return "" if row and row[0] is not None else f"a {column}"


def look(said: Said, store_path: Path, record: Path) -> list[str]:
    """What one home says after a crash: what it sent is saved, nothing contradicts anything."""
    before = len(said.conflicts)
    frames = list(said.read_record(record))
    if not store_path.exists():
        return ["frames left a home without a store"] if frames else []
    with reading(store_path) as store:
        if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'bought'").fetchone():
            return []  # it died before it made its tables
        said.read_store(store, store_path.parent.name)
        lost = [unsaved(store, direction, frame) for direction, frame in frames]
    wrong = [f"{store_path.parent.name} sent {what} that it had not saved" for what in lost if what]
    return wrong + said.conflicts[before:]
