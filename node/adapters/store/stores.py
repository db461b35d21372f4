"""Opens a home's database and gives out its ports."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from node.adapters.store.chain import SqliteTransactionJournal
from node.adapters.store.client import SqliteClientStore, SqliteMarketStore
from node.adapters.store.keys import SqliteKeyStore
from node.adapters.store.payee import SqlitePayeeStore
from node.adapters.store.payer import SqlitePayerStore
from node.adapters.store.schema import VERSION, check_version, migrate
from node.adapters.store.watermark import Watermark
from node.adapters.store.worker import SqliteWorkerStore
from node.adapters.store.writer import Writer
from node.errors import ConfigError
from node.protocol.signing import Domain, checksum
from node.roles.stores import StoreFailed, Stores

BUSY_S = 5.0
"""How long another process may hold the file before that counts as a failure."""


@asynccontextmanager
async def open_stores(
    path: Path | None, *, domain: Domain, old_ok: bool = False
) -> AsyncIterator[Stores]:
    """Open a home's store for its owner, making or migrating the file where needed.

    Args:
        path: The file; None keeps everything in memory (for tests).
        domain: Which chain and escrow the home is bound to, from its first opening on.
        old_ok: Open an old copy too, to take money out; from then on its payer signs nothing.

    Raises:
        ConfigError: The file belongs to another chain, a newer version or another program.
        CorruptState: An old copy was put in the place of the file that was last in use.
        StoreFailed: The disk, or the file, is broken.
    """
    mark = None if path is None else partial(Watermark.open, path, old_ok=old_ok)
    writer = Writer(partial(_connect, path, domain), mark=mark)
    await writer.open()
    try:
        yield _stores(writer)
    finally:
        await writer.close()


@asynccontextmanager
async def open_stores_read_only(path: Path) -> AsyncIterator[Stores]:
    """Open a home's store beside its owner; whatever writes fails.

    Raises:
        ConfigError: There is no store yet, or this program can't read it.
    """
    writer = Writer(partial(_connect_read_only, path))
    await writer.open()
    try:
        yield _stores(writer)
    finally:
        await writer.close()


def _stores(writer: Writer) -> Stores:
    return Stores(
        payer=SqlitePayerStore(writer),
        payee=SqlitePayeeStore(writer),
        worker=SqliteWorkerStore(writer),
        client=SqliteClientStore(writer),
        market=SqliteMarketStore(writer),
        chain=SqliteTransactionJournal(writer),
        keys=SqliteKeyStore(writer),
    )


def _connect(path: Path | None, domain: Domain) -> sqlite3.Connection:
    if path is not None:
        # Before SQLite makes it: its other files take their mode from this one.
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreFailed(f"the store can't be opened: {error.strerror}") from error
    connection = _open(":memory:" if path is None else f"file:{quote(str(path))}?mode=rw")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        _bind(connection, domain)
    except sqlite3.Error as error:
        connection.close()
        raise StoreFailed(f"the store can't be opened: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_read_only(path: Path) -> sqlite3.Connection:
    nothing = ConfigError("this home has no store yet", hint="node serve, or node submit")
    if not path.exists():
        raise nothing
    connection = _open(f"file:{quote(str(path))}?mode=ro")
    try:
        version = check_version(connection)
        if version == 0:
            raise nothing
        if version < VERSION:
            raise ConfigError(
                "the store is of an earlier version", hint="start node serve once to convert it"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _open(uri: str) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=True
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise StoreFailed(f"the store can't be opened: {error}") from error
    return connection


def _bind(connection: sqlite3.Connection, domain: Domain) -> None:
    """History is worth something on one chain and one contract only (EIP-3076 says the same)."""
    value = f"{domain.chain_id}:{domain.escrow.hex()}".encode()
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('domain', ?)", (value,))
    bound = connection.execute("SELECT value FROM meta WHERE key = 'domain'").fetchone()[0]
    if bound != value:
        chain_id, _, escrow = bound.decode().partition(":")
        raise ConfigError(
            f"this home belongs to chain {chain_id}, escrow {checksum(bytes.fromhex(escrow))}",
            hint="use another --home for another chain",
        )
