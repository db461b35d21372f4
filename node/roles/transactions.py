"""What sending a transaction needs and gives: the journal behind it, and the ports around it.

A transaction is saved, signed, before it leaves; an account has one in flight at a time; what
shares its nonce is only ever the same call at a higher fee.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from node.protocol.fields import Address, Hash


class TxState(StrEnum):
    """How far a saved transaction is.  Mined but not final is still SENT: a reorg can undo it."""

    SENT = "sent"
    FINAL = "final"
    REVERTED = "reverted"
    """Final as well, without effect."""
    REPLACED = "replaced"
    """Its nonce was used by another program with the same key; it can never be mined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signed form of a transaction; later ones are fee bumps."""

    hash: Hash
    raw: bytes
    fee_max_wei: int
    """Per gas, tip included."""
    tip_wei: int
    """Per gas."""
    sent_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A journal entry; (sender, nonce) is its key."""

    sender: Address
    nonce: int
    kind: str
    """What it is for: redeem, claim, deposit…"""
    note: str
    """JSON that says more, for people; at most 4 KiB.  Kind and note together name the intent."""
    to: Address
    value_wei: int
    data: bytes
    gas: int
    created_ms: int
    attempts: tuple[Attempt, ...]
    """At least one, newest last."""
    state: TxState
    block: int = 0
    gas_used: int = 0
    fee_wei: int = 0
    """What it cost in all, once closed."""
    closed_ms: int = 0


class TransactionJournal(Protocol):
    """Where transactions are saved; every method returns when it is on disk."""

    async def begin_transaction(self, transaction: Transaction) -> None:
        """Save a signed transaction that was not sent yet.

        Raises:
            CorruptState: Its nonce was used before, or its sender has another one in flight.
        """
        ...

    async def add_attempt(self, *, sender: Address, nonce: int, attempt: Attempt) -> None:
        """Save a fee bump that was not sent yet."""
        ...

    async def close_transaction(
        self,
        *,
        sender: Address,
        nonce: int,
        state: TxState,
        block: int,
        gas_used: int,
        fee_wei: int,
        closed_ms: int,
    ) -> None:
        """Save how it ended; final."""
        ...

    async def open_transaction(self, sender: Address) -> Transaction | None:
        """The one in flight."""
        ...

    async def nonce_last(self, sender: Address) -> int | None:
        """Highest nonce that was ever begun."""
        ...

    async def transactions(self, *, count_max: int) -> tuple[Transaction, ...]:
        """Newest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A transaction to be made."""

    kind: str
    note: str
    to: Address
    data: bytes
    gas: int | None = None
    """Gas limit; None to have it estimated (right where the cost does not depend on state)."""
    value_wei: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """An event of a final transaction."""

    contract: Address
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A transaction at the finality depth that did what it was for."""

    transaction: Transaction
    tx_hash: Hash
    logs: tuple[Log, ...]
    resumed: bool
    """It was in flight already, begun by an earlier process."""


class Transactor(Protocol):
    """Transactions of one account, one after the other."""

    @property
    def address(self) -> Address:
        """The account that sends, and pays for gas."""
        ...

    @property
    def problem(self) -> str:
        """Why the one in flight does not advance; empty when nothing is wrong."""
        ...

    async def transact(self, intent: Intent) -> Outcome:
        """Sign, save, send, and see it through to the finality depth.

        Cancelling leaves it in the journal; the next call, of any process, sees it through first.
        If what was in flight has the same kind and note, it counts as this one.

        Raises:
            WalletError: Refused before anything was signed (it would revert, coins lack), or
                reverted, or its nonce was used by another program.
            Unavailable: Nothing was signed: no RPC answered, or gas is dearer than allowed.
        """
        ...

    async def settle(self) -> Outcome | None:
        """See through what an earlier process or a cancelled call left in flight.

        Raises:
            WalletError: It ended without effect.
        """
        ...

    async def gas_price_wei(self) -> int:
        """What a unit of gas would cost now, tip included.

        Raises:
            Unavailable: No RPC answered.
        """
        ...
