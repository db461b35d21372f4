"""What payer and payee need kept on disk; `stores` says what holds for all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import VoucherFrame
from node.protocol.payee_state import PayeeTab, Segment, SegmentKey
from node.protocol.payer_state import (
    PayerTab,
    Reservation,
    SegmentRef,
    SignedLock,
    VoucherDraft,
)
from node.protocol.receipts_tree import InclusionProof
from node.protocol.statements import (
    Lock,
    LockRelease,
    Split,
    Voucher,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerRows:
    """All that a payer has to know after a restart."""

    tabs: tuple[PayerTab, ...]
    reservations: tuple[Reservation, ...]
    """Those not released, or with a receipt or amount that no voucher covers yet."""
    locks: tuple[Signed[Lock], ...]
    """Those not known to have ended."""
    lock_nonces: Mapping[Address, int]
    """Highest that was ever signed, by payee."""
    vouchers: Mapping[Hash, Signed[Voucher]]
    """The newest of each tab."""
    halted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptProof:
    """That a voucher commits to a receipt."""

    voucher: Signed[Voucher]
    proof: InclusionProof


class PayerStore(Protocol):
    """Reservations, vouchers and locks of the account that this node spends from."""

    async def load(self) -> PayerRows:
        """Everything; called once at the start."""
        ...

    async def save_reservation(self, reservation: Reservation, tab: PayerTab) -> None:
        """Insert or update a reservation, and insert its tab where it is new."""
        ...

    async def reserve(self, reservation: Reservation, tab: PayerTab) -> None:
        """Insert a reservation, and its tab where it is new.

        Raises:
            Duplicate: This (job, attempt) had one before.
        """
        ...

    async def save_vouchers(self, vouchers: Sequence[tuple[VoucherDraft, VoucherFrame]]) -> None:
        """Save signed vouchers, one per tab, with what they changed; all or none.

        Raises:
            Duplicate: There is one with this cumulative already.
        """
        ...

    async def vouchers_after(
        self, tab: Hash, *, cumulative_micro: int, count_max: int
    ) -> tuple[VoucherFrame, ...]:
        """The stored frames above a cumulative, lowest first, to be sent again."""
        ...

    async def receipt_proof(self, ref: SegmentRef) -> ReceiptProof | None:
        """The proof that a voucher commits to a segment's receipt, once one does."""
        ...

    async def save_lock(self, lock: Signed[Lock]) -> None:
        """Save a lock that this payer signed.

        Raises:
            Duplicate: There is one with this payee and nonce already.
        """
        ...

    async def save_release(self, release: Signed[LockRelease]) -> None:
        """Save a payee's consent to lower a lock."""
        ...

    async def releases(self) -> tuple[Signed[LockRelease], ...]:
        """All of them, the newest per payee."""
        ...

    async def save_redeemed(
        self, redeemed: Mapping[Hash, int], locks_ended: Sequence[SignedLock]
    ) -> None:
        """Save what tabs were paid, and which locks are over."""
        ...

    async def forget_vouchers(self, tab: Hash, *, cumulative_micro: int) -> None:
        """The payee has saved a tab's vouchers up to this: they are never sent again."""
        ...

    async def save_halt(self, reason: str) -> None:
        """Remember that signing stopped, and why."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TabRow:
    """A tab as its payee has it, with what redeeming it takes."""

    tab: PayeeTab
    splits: tuple[Split, ...]
    held: Signed[Voucher] | None = None
    """The last voucher whose rises are known."""
    best: Signed[Voucher] | None = None
    """The highest voucher seen: what is redeemed."""
    owed_since_ms: int = 0
    """When something unredeemed first stood on it; 0 if nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeRows:
    """All that a payee has to know after a restart."""

    tabs: tuple[TabRow, ...]
    segments: tuple[Segment, ...]
    """Those not settled, oldest first, bounded in number; `ended_s` is not kept."""
    advances: Mapping[SegmentKey, int]
    locks: tuple[Signed[Lock], ...]


class PayeeStore(Protocol):
    """Vouchers that this node was given."""

    async def load(self) -> PayeeRows:
        """Everything; called once at the start."""
        ...

    async def find_segments(
        self, *, client: Address, refs: Sequence[SegmentRef], receipts: Sequence[Hash]
    ) -> tuple[Segment, ...]:
        """Segments of a client by reference or by their receipt's digest, settled ones too."""
        ...

    async def save_tab(self, row: TabRow) -> None:
        """Insert or replace a tab with its vouchers."""
        ...

    async def save_voucher(
        self, row: TabRow, *, segments: Sequence[Segment], advances: Mapping[SegmentKey, int]
    ) -> None:
        """Save an accepted voucher with its tab and what it paid; all or nothing."""
        ...

    async def save_redeemed(self, redeemed: Mapping[Hash, int]) -> None:
        """Save what the escrow paid on tabs, at a finalised block."""
        ...

    async def save_lock(self, lock: Signed[Lock]) -> None:
        """Save a payer's lock, to be submitted; replaces one with a lower nonce."""
        ...

    async def drop_lock(self, *, payer: Address, nonce: int) -> None:
        """The lock landed or died."""
        ...
