"""A payee's book: its state, what happens to it and what follows; `payee_ledger` has the rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.protocol.fields import Address, Hash, JobId
from node.protocol.frames import Refused, Rise
from node.protocol.receipts_tree import EMPTY, Frontier
from node.protocol.tabs import Tab

SEGMENTS_MAX = 8_192
"""Kept in memory; the store knows the rest."""
VIEW_FRESH_S = 30.0
"""A view of the chain older than this counts locks only (design.md, "Chain")."""
DEBT_GRACE_S = 10.0
"""A segment that ended this recently may have its last voucher under way."""
DEBT_KEPT_S = 3600.0
"""A debt older than this keeps its payer no longer from being served."""
DEBT_PAID_SHARE = 16
"""One part in so many of what a payer vouchered here may be left unpaid besides."""
PAYERS_MAX = 4_096
"""Views kept of payers that have no tab here."""
ADVANCES_MAX = 4_096
"""Rises kept for segments that are not known (yet)."""
SegmentKey = tuple[Address, JobId, int]
"""Client, job and attempt: served once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeRules:
    """What the operator allows; amounts in micro."""

    credit_micro: int
    credit_new_micro: int
    debt_max_micro: int
    """Earned, never vouchered: most that a payer may leave behind before it is refused."""
    exit_margin_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeTab:
    """One tab as its payee has it."""

    id: Hash
    tab: Tab
    client: Address
    """The session key that last brought a voucher of it."""
    cumulative_micro: int = 0
    """Of the last voucher whose rises are known."""
    tree: Frontier = EMPTY
    best_micro: int = 0
    """Of the highest voucher seen; that one is redeemed."""
    redeemed_micro: int = 0

    @property
    def owed_micro(self) -> int:
        """Vouchered and not redeemed."""
        return max(0, self.best_micro - self.redeemed_micro)

    @property
    def behind(self) -> bool:
        """A higher voucher is known than the ones that were accounted for."""
        return self.best_micro > self.cumulative_micro


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment as far as its payment goes."""

    award: Hash
    client: Address
    job: JobId
    attempt: int
    payer: Address
    tab: Hash
    cap_micro: int
    need_micro: int
    """Most that it may come to: its cap, or its cost with every token used if that is less."""
    paid_micro: int = 0
    earned_micro: int = 0
    """Known once it ended."""
    ended_s: float | None = None
    """Monotonic time of its end; None while it runs."""
    receipt: Hash | None = None
    """Digest of the receipt that this worker signed."""
    receipt_taken: bool = False
    """A voucher commits to `receipt`."""

    @property
    def key(self) -> SegmentKey:
        """How vouchers name it."""
        return self.client, self.job, self.attempt

    @property
    def claim_micro(self) -> int:
        """What may still come to be owed for it."""
        most = self.need_micro if self.ended_s is None else self.earned_micro
        return max(0, most - self.paid_micro)

    @property
    def debt_micro(self) -> int:
        """Earned and not vouchered, once it ended."""
        return max(0, self.earned_micro - self.paid_micro) if self.ended_s is not None else 0

    @property
    def settled(self) -> bool:
        """Nothing more is expected for it."""
        over = self.ended_s is not None and not self.debt_micro
        free = self.receipt is None or self.earned_micro == 0  # no voucher commits to it
        return over and (free or self.receipt_taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerSeen:
    """A payer in the escrow, as one read of the chain gave it."""

    seen_s: float
    """Monotonic time at which the read began."""
    free_micro: int
    exit_ready_s: int
    lock_micro: int
    lock_expiry_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Both clocks: exits and expiries are judged by the wall's, ages by the monotonic one."""

    unix_s: int
    monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeState:
    """Everything that decides what this payee accepts."""

    rules: PayeeRules
    tabs: Mapping[Hash, PayeeTab] = field(default_factory=dict)
    segments: Mapping[Hash, Segment] = field(default_factory=dict)
    """By award digest."""
    keys: Mapping[SegmentKey, Hash] = field(default_factory=dict)
    payers: Mapping[Address, PayerSeen] = field(default_factory=dict)
    advances: Mapping[SegmentKey, int] = field(default_factory=dict)
    """Micro vouchered for segments that were not admitted: a prepaid voucher may overtake its
    award, and the award may be refused after all.  What is promised stays promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """An award wants to be served."""

    segment: Segment
    tab: Tab
    signer_expiry_s: int
    signer_left_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A segment will earn no more; with nothing earned it may never have begun."""

    award: Hash
    earned_micro: int
    receipt: Hash | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherSeen:
    """A voucher whose signature is the payer's or the client's own, with its reasons."""

    client: Address
    tab_id: Hash
    cumulative_micro: int
    root: Hash
    rises: tuple[Rise, ...]
    receipts: tuple[Hash, ...]
    found: tuple[Segment, ...] = ()
    """Segments that the state had dropped and the store still knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldByPayer:
    """A payer showed, with its signature, the highest voucher that it gave on a tab."""

    client: Address
    tab_id: Hash
    cumulative_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidSeen:
    """What the escrow paid on tabs, at a finalised block no newer than the payer's next view."""

    paid: Mapping[Hash, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSeen:
    """A payer was read at a finalised block."""

    payer: Address
    seen: PayerSeen


Event = Admit | Ended | VoucherSeen | HeldByPayer | PaidSeen | ChainSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The award is not taken on."""

    code: Refused
    lock_total: int = 0
    """With LOCK_REQUIRED: the lock's total that would do, in micro."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveTab:
    """Save a tab that is new here, so that its vouchers can be redeemed whatever happens."""

    tab: PayeeTab


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveVoucher:
    """Save the voucher, its tab, the segments that it paid, and what it paid in advance."""

    tab: PayeeTab
    segments: tuple[Segment, ...]
    advances: Mapping[SegmentKey, int]
    """New sums, of segments that are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveBest:
    """Save a voucher that is worth more than any before, although its rises are not known."""

    tab: PayeeTab


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """The saved voucher pays these segments: they may go on."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRedeemed:
    """Save what the escrow paid."""

    redeemed: Mapping[Hash, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskResume:
    """Vouchers are missing: tell the client which is the last one here."""

    client: Address


Effect = Refuse | SaveTab | SaveVoucher | SaveBest | Credit | SaveRedeemed | AskResume
Step = tuple[PayeeState, tuple[Effect, ...]]
