"""The gateway's API keys: who may ask, and how much may be spent with each.

A key's limit holds whatever happens: what a job may cost is added to what was spent, on disk,
before the job is begun, and what it did not cost is taken off after.  A process that dies in
between leaves the key charged with the job's most.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Final

from node.adapters.http.port import Customer
from node.errors import UsageError
from node.roles.ports import Clock
from node.roles.stores import KeyRow, KeyStore

PREFIX: Final = "gpn"
ID_BYTES: Final = 6
SECRET_BYTES: Final = 32
SCOPE_BYTES: Final = 16
KEYS_MAX: Final = 10_000
NAME_CHARS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made.  It is shown once and kept nowhere."""

    row: KeyRow
    secret: str


class KeyBook:
    """The keys of a home, in memory as on disk."""

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rows: dict[str, KeyRow] = {}
        self._scopes = secrets.token_bytes(SCOPE_BYTES)

    async def load(self) -> None:
        """Read what there is.

        Raises:
            StoreFailed: The disk is broken.
        """
        self._rows = {row.id: row for row in await self._store.keys()}

    @property
    def rows(self) -> tuple[KeyRow, ...]:
        """The oldest first."""
        return tuple(self._rows.values())

    @property
    def any_in_use(self) -> bool:
        """Whether there is a key that opens something."""
        return any(not row.revoked_ms for row in self._rows.values())

    def find(self, secret: str) -> Customer | None:
        """Whose key it is; None if it is nobody's, or no longer."""
        prefix, _, rest = secret.partition("-")
        row = self._rows.get(rest.partition("-")[0])
        if prefix != PREFIX or row is None or row.revoked_ms:
            return None
        return Customer(key_id=row.id) if hmac.compare_digest(row.hash, _hash(secret)) else None

    def scope(self, key_id: str) -> bytes:
        """What sets a key's prompts apart in workers' caches: who has another key can't find them.

        It says nothing of the key, and is another one after a restart.
        """
        if not key_id:
            return b""
        return hashlib.blake2b(key_id.encode(), key=self._scopes, digest_size=SCOPE_BYTES).digest()

    async def create(self, name: str, *, spend_max_micro: int | None) -> NewKey:
        """Make a key.

        Raises:
            UsageError: The name is too long, or there are too many keys.
        """
        if len(name) > NAME_CHARS_MAX or not name.isprintable():
            raise UsageError(f"a key's name has at most {NAME_CHARS_MAX} printable characters")
        if len(self._rows) >= KEYS_MAX:
            raise UsageError(f"there are {KEYS_MAX} keys already")
        key_id = secrets.token_hex(ID_BYTES)
        random = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
        secret = f"{PREFIX}-{key_id}-{random}"
        row = KeyRow(
            id=key_id,
            name=name,
            hash=_hash(secret),
            spend_max_micro=spend_max_micro,
            spent_micro=0,
            created_ms=self._clock.unix_ms(),
            revoked_ms=0,
        )
        await self._store.add_key(row)
        self._rows[key_id] = row
        return NewKey(row=row, secret=secret)

    async def revoke(self, key_id: str) -> None:
        """End a key's use; jobs under way go on.

        Raises:
            UsageError: There is no such key in use.
        """
        at_ms = self._clock.unix_ms()
        row = self._rows.get(key_id)
        if row is None or not await self._store.revoke_key(key_id, at_ms=at_ms):
            raise UsageError(f"no key {key_id} is in use", hint="node keys list")
        self._rows[key_id] = replace(self._rows[key_id], revoked_ms=at_ms)

    def left_micro(self, key_id: str) -> int | None:
        """What may still be spent with a key; None for no limit."""
        row = self._rows.get(key_id)
        if row is None or row.spend_max_micro is None:
            return None
        return max(0, row.spend_max_micro - row.spent_micro)

    async def hold(self, key_id: str, amount_micro: int) -> None:
        """Set an amount aside; counts at once, and is on disk when this returns.

        The caller has asked `left_micro` in the same turn of the loop.
        """
        await self._add(key_id, amount_micro)

    async def settle(self, key_id: str, *, held_micro: int, spent_micro: int) -> None:
        """A job is over: what it did not cost is free again."""
        await self._add(key_id, spent_micro - held_micro)

    async def _add(self, key_id: str, amount_micro: int) -> None:
        row = self._rows.get(key_id)
        if row is None or amount_micro == 0:
            return
        self._rows[key_id] = row = replace(row, spent_micro=row.spent_micro + amount_micro)
        await self._store.save_spent(key_id, row.spent_micro)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
