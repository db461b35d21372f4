"""Tells an old copy of the database from the newest one.

Whoever signs from an old copy promises the same money twice.  So every commit is counted, in the
database and in a small file beside it that copies of the database alone leave behind.  The file is
written after the commit and never gets ahead of it, whenever the process or the machine dies: if
it is ahead all the same, the database is not the one that was last in use.

A copy of the whole home brings its own watermark; that one the other side of the tabs notices
(protocol.md, "After a reconnect").
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

from node.adapters.store.schema import HALT_KEY
from node.errors import ConfigError, CorruptState

COUNT_KEY: Final = "commits"
OLD_KEY: Final = "old_copy"
_SIZE: Final = 8


def path_of(store: Path) -> Path:
    """The file of a database.  Hidden, so that `cp node.sqlite*` does not take it along."""
    return store.with_name(f".{store.name}.watermark")


class Watermark:
    """The count of one open database.  Belongs to the writer's thread."""

    def __init__(self, descriptor: int, count: int) -> None:
        self._descriptor = descriptor
        self._count = count

    @classmethod
    def open(cls, store: Path, connection: sqlite3.Connection, *, old_ok: bool) -> "Watermark":
        """Compare file and database; both are made where there is nothing to compare yet.

        Args:
            store: The database's file.
            connection: To it, in autocommit mode.
            old_ok: Go on with an old copy, of which nothing may be promised or sold any more.

        Raises:
            CorruptState: The database is an old copy, or was one once.
            ConfigError: The file can't be written.
        """
        path, count = path_of(store), count_of(connection)
        try:
            seen = _read(path)
            old = _is_marked(connection) or (count > 0 if seen is None else seen > count)
            if old and not old_ok:
                raise CorruptState(
                    f"{store.name} is not the copy that this home used last: signing from an old"
                    " one could promise or sell the same twice",
                    hint=f"put the newest {store.name} back; if it is lost, take the money out with"
                    " node redeem --old-store and node wallet withdraw --old-store, and make a"
                    " new home (node init)",
                )
            if old:
                _retire(connection)
            return cls(_open(path), max(count, seen or 0))
        except OSError as error:
            raise ConfigError(f"can't write {path}: {error.strerror}") from error

    def count(self, connection: sqlite3.Connection) -> int:
        """Count a commit that is about to happen, as a part of it."""
        count = count_of(connection) + 1
        connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (COUNT_KEY, count.to_bytes(_SIZE, "big")),
        )
        return count

    def note(self, count: int) -> None:
        """That commit has happened.

        Not synced: after a power cut the file may be behind, which is not an error.

        Raises:
            OSError: The file can't be written.
        """
        if count > self._count:
            os.pwrite(self._descriptor, count.to_bytes(_SIZE, "big"), 0)
            self._count = count

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def count_of(connection: sqlite3.Connection) -> int:
    """Commits of a database so far."""
    query = "SELECT value FROM meta WHERE key = ?"
    row = connection.execute(query, (COUNT_KEY,)).fetchone()
    return int.from_bytes(row[0], "big") if row else 0


def _retire(connection: sqlite3.Connection) -> None:
    """For ever: the count will pass the file's one day.  The payer signs nothing more."""
    rows = [(OLD_KEY, b"\x01"), (HALT_KEY, b"an old copy of the store was put back")]
    connection.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", rows)


def _is_marked(connection: sqlite3.Connection) -> bool:
    row = connection.execute("SELECT 1 FROM meta WHERE key = ?", (OLD_KEY,)).fetchone()
    return row is not None


def _read(path: Path) -> int | None:
    """What the file says; None if there is none, or one that was never finished."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return int.from_bytes(content, "big") if len(content) == _SIZE else None


def _open(path: Path) -> int:
    """A descriptor to write to; a new file is on the disk, with its name, when this returns."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.fstat(descriptor).st_size != _SIZE:
        os.pwrite(descriptor, bytes(_SIZE), 0)
        os.fsync(descriptor)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return descriptor
