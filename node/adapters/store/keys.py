"""`roles.stores.KeyStore` on SQLite."""

import sqlite3

from node.adapters.store.writer import Writer
from node.errors import CorruptState
from node.roles.stores import Duplicate, KeyRow


class SqliteKeyStore:
    """The gateway's API keys."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def add_key(self, row: KeyRow) -> None:
        """Save a new key.

        Raises:
            Duplicate: There is one with this id.
        """
        values = (
            row.id,
            row.name,
            row.hash,
            row.spend_max_micro,
            row.spent_micro,
            row.created_ms,
            row.revoked_ms,
        )

        def work(connection: sqlite3.Connection) -> None:
            try:
                connection.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            except sqlite3.IntegrityError:
                raise Duplicate("there is a key with this id") from None

        await self._writer.write(work)

    async def save_spent(self, key_id: str, spent_micro: int) -> None:
        """Replace what was spent with a key."""

        def work(connection: sqlite3.Connection) -> None:
            query = "UPDATE api_keys SET spent = ? WHERE id = ?"
            if connection.execute(query, (spent_micro, key_id)).rowcount != 1:
                raise CorruptState("spent with an API key that is not there")

        await self._writer.write(work)

    async def revoke_key(self, key_id: str, *, at_ms: int) -> bool:
        """End a key's use; whether there was one that was in use."""

        def work(connection: sqlite3.Connection) -> bool:
            query = "UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms = 0"
            return connection.execute(query, (at_ms, key_id)).rowcount == 1

        return await self._writer.write(work)

    async def keys(self) -> tuple[KeyRow, ...]:
        """All, the oldest first; revoked ones among them."""
        query = (
            "SELECT id, name, hash, spend_max, spent, created_ms, revoked_ms FROM api_keys"
            " ORDER BY created_ms, id"
        )
        rows = await self._writer.read(lambda c: c.execute(query).fetchall())
        return tuple(
            KeyRow(
                id=row[0],
                name=row[1],
                hash=row[2],
                spend_max_micro=row[3],
                spent_micro=row[4],
                created_ms=row[5],
                revoked_ms=row[6],
            )
            for row in rows
        )
