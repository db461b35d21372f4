"""The real tables without a thread, so that trio's virtual clock and seeds rule a test alone."""

import sqlite3
from typing import TypeVar

import trio

from node.adapters.store.chain import SqliteTransactionJournal
from node.adapters.store.client import SqliteClientStore, SqliteMarketStore
from node.adapters.store.keys import SqliteKeyStore
from node.adapters.store.payee import SqlitePayeeStore
from node.adapters.store.payer import SqlitePayerStore
from node.adapters.store.schema import migrate
from node.adapters.store.worker import SqliteWorkerStore
from node.adapters.store.writer import Work, Writer
from node.roles.stores import StoreFailed, Stores

T = TypeVar("T")


class InlineWriter(Writer):
    """Each write is a transaction of its own, done when it is called and told `commit_s` later."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection)
        self.commit_s = 0.0
        self.writes = 0
        self.reads = 0
        self.fails_at = 2**62
        """Number of the write at which the disk fails, from 1."""

    async def write(self, work: Work[T]) -> T:
        self.writes += 1
        if self.writes >= self.fails_at:
            await trio.lowlevel.checkpoint()
            raise StoreFailed("the store can't be written: no space")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(self.connection)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        with trio.CancelScope(shield=True):
            await trio.sleep(self.commit_s)
        return result

    async def read(self, work: Work[T]) -> T:
        self.reads += 1
        if self.writes >= self.fails_at:
            raise StoreFailed("the store can't be written: no space")
        await trio.lowlevel.checkpoint()
        return work(self.connection)

    def stores(self) -> Stores:
        return Stores(
            payer=SqlitePayerStore(self),
            payee=SqlitePayeeStore(self),
            worker=SqliteWorkerStore(self),
            client=SqliteClientStore(self),
            market=SqliteMarketStore(self),
            chain=SqliteTransactionJournal(self),
            keys=SqliteKeyStore(self),
        )
