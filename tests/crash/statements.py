"""Everything that was ever signed: for each thing that may be said once, what was said of it."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from node.adapters.store.packing import frame_in, signed_in
from node.protocol import codec
from node.protocol.fields import Signed
from node.protocol.frames import Frame
from node.protocol.statements import (
    Acceptance,
    Announcement,
    Ask,
    Award,
    Cutoff,
    Lock,
    LockRelease,
    Progress,
    Receipt,
    Terms,
    TranscriptSeal,
    Voucher,
)
from node.protocol.tabs import tab_id, tab_of_voucher

COLUMNS: tuple[tuple[str, str, type[Any]], ...] = (
    ("payer_tabs", "voucher", Voucher),
    ("reservations", "voucher", Voucher),
    ("locks_given", "lock", Lock),
    ("releases_got", "release", LockRelease),
    ("payee_tabs", "held", Voucher),
    ("payee_tabs", "best_voucher", Voucher),
    ("locks_got", "lock", Lock),
    *(
        ("segments", column, kind)
        for column, kind in (
            ("award", Award), ("terms", Terms), ("acceptance", Acceptance),
            ("progress", Progress), ("receipt", Receipt), ("cutoff", Cutoff),
        )
    ),
    *(
        ("bought", column, kind)
        for column, kind in (
            ("award", Award), ("terms", Terms), ("acceptance", Acceptance),
            ("progress", Progress), ("receipt", Receipt), ("cutoff", Cutoff),
        )
    ),
)  # fmt: skip


def slot(statement: Any) -> tuple[Any, ...] | None:
    """What a statement is the only one of; None for kinds that may be said anew."""
    match statement:
        case Voucher():
            return "voucher", tab_id(tab_of_voucher(statement)), statement.cumulative
        case Award():
            return "award", statement.client, statement.job, statement.attempt
        case Progress():
            return "progress", statement.award, statement.tokens_out
        case Acceptance() | Receipt() | Cutoff():
            return type(statement).__name__, statement.award
        case Lock() | LockRelease():
            name = type(statement).__name__
            return name, statement.payer, statement.payee, statement.nonce
        case Terms():
            return "terms", statement.worker, statement.serial
        case Announcement():
            return "announcement", statement.worker, statement.issued_ms
        case TranscriptSeal():
            return "seal", statement.client, statement.job
        case Ask():
            return "ask", statement.client, statement.nonce
    raise AssertionError(statement)


@dataclass(slots=True)
class Said:
    """All statements seen, and where one contradicts another."""

    known: dict[tuple[Any, ...], tuple[bytes, str]] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    promised: dict[bytes, int] = field(default_factory=dict)
    """Highest voucher ever seen, by tab."""
    _offsets: dict[Path, int] = field(default_factory=dict)

    def add(self, signed: Signed[Any], where: str) -> None:
        """Compare with what was said before."""
        statement = signed.statement
        place = slot(statement)
        if place is None:
            return
        # Signatures are deterministic: the same statement has the same one.
        content = codec.encode_struct(signed)
        before = self.known.setdefault(place, (content, where))
        if before[0] != content:
            self.conflicts.append(f"{place[0]} signed twice: {before[1]}, then {where}")
        if isinstance(statement, Voucher):
            tab = place[1]
            self.promised[tab] = max(self.promised.get(tab, 0), statement.cumulative)

    def read_record(self, path: Path) -> Iterator[tuple[str, Frame]]:
        """The frames that a process recorded since the last call, each with its direction."""
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        for line in whole.splitlines():
            frame = codec.decode_frame(bytes.fromhex(line[1:].decode()))
            for signed in signed_in_frame(frame):
                self.add(signed, f"{path.name} {line[:1].decode()} {type(frame).__name__}")
            yield line[:1].decode(), frame

    def read_store(self, store: sqlite3.Connection, name: str) -> None:
        """The statements that a home has saved."""
        for table, column, kind in COLUMNS:
            query = f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
            for (blob,) in store.execute(query):
                self.add(signed_in(kind, blob), f"{name} {table}.{column}")
        for (blob,) in store.execute("SELECT frame FROM vouchers_given"):
            self.add(frame_in(blob).voucher, f"{name} vouchers_given")


def signed_in_frame(value: Any) -> Iterator[Signed[Any]]:
    """Every signed statement inside a frame."""
    if isinstance(value, Signed):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from signed_in_frame(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from signed_in_frame(getattr(value, each.name))
