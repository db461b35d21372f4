"""What the gateway needs kept of its API keys; `stores` says what holds for all of it."""

from dataclasses import dataclass
from typing import Protocol

from node.protocol.fields import Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """An API key, without the key."""

    id: str
    name: str
    hash: Hash
    """SHA-256 of the key: 256 random bits need no slow hash."""
    spend_max_micro: int | None
    """Most that may be spent with it in all; None for no limit."""
    spent_micro: int
    """Spent, and set aside for jobs under way."""
    created_ms: int
    revoked_ms: int
    """0: it is in use."""


class KeyStore(Protocol):
    """The API keys."""

    async def add_key(self, row: KeyRow) -> None:
        """Save a new key.

        Raises:
            Duplicate: There is one with this id.
        """
        ...

    async def save_spent(self, key_id: str, spent_micro: int) -> None:
        """Replace what was spent with a key."""
        ...

    async def revoke_key(self, key_id: str, *, at_ms: int) -> bool:
        """End a key's use; whether there was one that was in use."""
        ...

    async def keys(self) -> tuple[KeyRow, ...]:
        """All, the oldest first; revoked ones among them."""
        ...
