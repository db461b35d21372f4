"""A payer's book: its state, what happens to it and what follows; `payer_ledger` has the rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.errors import Unavailable
from node.protocol.fields import Address, Hash, JobId
from node.protocol.frames import Rise
from node.protocol.receipts_tree import EMPTY, Frontier, InclusionProof
from node.protocol.statements import Voucher
from node.protocol.tabs import Tab

RESERVATIONS_MAX = 4096
"""Open at the same time, over all workers."""
SegmentRef = tuple[JobId, int]
"""Job and attempt: names a segment among one client's own."""


class TabTaken(Unavailable):
    """Another worker keeps the tab that these terms would be paid on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerTab:
    """One tab as its payer has it."""

    id: Hash
    tab: Tab
    worker: Address
    """The one node that keeps this tab at the payee: it must see every voucher in order."""
    cumulative_micro: int = 0
    redeemed_micro: int = 0
    """Paid by the escrow, at a finalised block."""
    tree: Frontier = EMPTY

    @property
    def owed_micro(self) -> int:
        """Promised and not yet taken from the deposit."""
        return self.cumulative_micro - self.redeemed_micro


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one segment may cost, and how much of it was vouchered."""

    job: JobId
    attempt: int
    tab: Hash
    cap_micro: int
    hold_micro: int = 0
    """Kept back until the receipt, so that the voucher that commits to it rises."""
    paid_micro: int = 0
    due_micro: int = 0
    """What vouchers for this segment shall come to; above `paid_micro` until the next voucher."""
    accepted_micro: int = 0
    receipt: Hash | None = None
    receipt_due: bool = False
    """`receipt` waits for the next voucher of its tab."""
    closed: bool = False
    """Released: nothing beyond `due_micro` will be paid."""

    @property
    def ref(self) -> SegmentRef:
        """How events name it."""
        return self.job, self.attempt

    @property
    def claim_micro(self) -> int:
        """What may still be vouchered for it."""
        return (self.due_micro if self.closed else self.cap_micro) - self.paid_micro


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLock:
    """A lock that this payer signed: until the chain shows it, it may land at any moment."""

    payee: Address
    total_micro: int
    nonce: int
    expiry_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSeen:
    """One of the payer's locks in the escrow."""

    amount_micro: int
    nonce: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Funds:
    """The payer in the escrow, at one finalised block."""

    block: int
    block_time_s: int
    free_micro: int
    locked_micro: int
    exit_ready_s: int
    signer_expiry_s: int
    signer_left_micro: int
    locks: Mapping[Address, LockSeen]
    """By payee; those this node signed.  What is locked besides counts as out of reach."""
    exact: bool = True
    """No tab was paid while this was read; else we seem to owe what was just paid as well."""

    @property
    def deposit_micro(self) -> int:
        """All of it, free and locked."""
        return self.free_micro + self.locked_micro


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerState:
    """Everything that decides what this payer may still promise."""

    payer: Address
    tabs: Mapping[Hash, PayerTab] = field(default_factory=dict)
    reservations: Mapping[SegmentRef, Reservation] = field(default_factory=dict)
    locks: tuple[SignedLock, ...] = ()
    """Signed, and not known to have landed or died."""
    lock_nonces: Mapping[Address, int] = field(default_factory=dict)
    """Highest that was ever signed, by payee: a lock that died uses its nonce up all the same."""
    funds: Funds | None = None
    halted: str = ""
    """Why nothing is signed any more; empty while all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """A segment is about to be awarded."""

    job: JobId
    attempt: int
    tab_id: Hash
    tab: Tab
    worker: Address
    cap_micro: int
    hold_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The client accepts that the segment costs `accepted_micro` so far (cumulative)."""

    job: JobId
    attempt: int
    accepted_micro: int
    receipt: Hash | None
    prepay: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The segment is over: what it did not use is free again."""

    job: JobId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """One voucher for all that is due on a tab."""

    tab_id: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeLock:
    """Reserve a part of the deposit for one payee."""

    payee: Address
    total_micro: int
    expiry_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FundsSeen:
    """The chain was read: first what tabs were paid, then the rest, so that paid is never newer."""

    funds: Funds
    paid: Mapping[Hash, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldByPayee:
    """A payee showed a voucher with our own signature."""

    tab_id: Hash
    cumulative_micro: int
    receipts: Hash


Event = Reserve | Accept | Release | Flush | MakeLock | FundsSeen | HeldByPayee


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherDraft:
    """A voucher to sign, and everything that is saved with it."""

    tab: PayerTab
    """As it is with this voucher."""
    voucher: Voucher
    rises: tuple[Rise, ...]
    receipts: tuple[Hash, ...]
    proofs: tuple[tuple[SegmentRef, InclusionProof], ...]
    reservations: tuple[Reservation, ...]
    """Those that it changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveReservation:
    """Save a segment's reservation, and its tab if that is new."""

    reservation: Reservation
    tab: PayerTab
    new: bool = False
    """There must not have been one for this (job, attempt) before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveVoucher:
    """Sign and save."""

    draft: VoucherDraft


@dataclass(frozen=True, slots=True, kw_only=True)
class SendVoucher:
    """Send the voucher that was just saved."""

    draft: VoucherDraft


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveLock:
    """Sign and save; the caller may have it afterwards."""

    lock: SignedLock


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRedeemed:
    """Save what the escrow paid, and which locks landed or died."""

    redeemed: Mapping[Hash, int]
    locks_ended: tuple[SignedLock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveHalt:
    """Save why signing stopped, so that a restart does not forget it."""

    reason: str


Effect = SaveReservation | SaveVoucher | SendVoucher | SaveLock | SaveRedeemed | SaveHalt
Step = tuple[PayerState, tuple[Effect, ...]]
