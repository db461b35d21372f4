"""One job at its client: how far it is, who is told, and what ends it early."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from node.errors import NodeError, PeerError, Unavailable
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import Address, JobId, Signed
from node.protocol.frames import Refusal
from node.protocol.job_client import ClientJob
from node.protocol.scoring import Preferences
from node.protocol.statements import CutoffReason, Lock, Voucher
from node.protocol.tabs import check_splits
from node.roles.answer import AnyAnswer
from node.roles.market import Auction, Candidate, Effect, Event
from node.roles.order import Order
from node.roles.pulse import Pulse
from node.roles.purchase import Evidence, Purchase


class Abandoned(Unavailable):
    """The job was cancelled before a worker had it."""


class Watcher(Protocol):
    """Is told how a job goes."""

    def market(self, event: Event | Effect) -> None:
        """Something happened in the auction."""
        ...

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        """A worker was chosen and is being sent the job; the record says from what and why."""
        ...

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        """It would not; another is looked for."""
        ...

    def failed(self, candidate: Candidate, why: str) -> None:
        """It gave nothing, or could not be sent the job; another is looked for."""
        ...

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        """Its acceptance is late; another worker, awarded next, is given the job as well."""
        ...

    def stopped(self, candidate: Candidate, why: str) -> None:
        """It ended in mid-answer; another one is to go on where it stopped."""
        ...

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        """It has been given a lock, which is waited for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One award and what came of it."""

    job: ClientJob
    evidence: Evidence
    voucher: Signed[Voucher] | None
    request: bytes
    awarded_s: float
    first_token_s: float | None
    last_token_s: float | None
    ended_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class JobRun:
    """One job under way, over all its awards."""

    order: Order
    answer: AnyAnswer
    watcher: Watcher
    job: JobId
    seed: int
    began_s: float
    """Monotonic: what the user's deadline is counted from."""
    auction: Auction | None = None
    """The latest search for a worker."""
    position: int = 0
    """Output tokens of the segments that have ended."""
    attempts: int = 0
    """Numbers given to awards: none is used twice."""
    kept: trio.Event = field(default_factory=trio.Event)
    """The store knows of the job, or won't:"""
    unkept: NodeError | None = None
    hedges: int = 0
    spent_micro: int = 0
    """What ended attempts cost, whatever came of them."""
    lost_micro: int = 0
    """The part of it that was paid in advance to workers that then gave nothing."""
    out: set[Address] = field(default_factory=set)
    """Workers that had the job and won't have it again, or have it now."""
    lock: Lock | None = None
    """A worker was given it, and it was waited for: once in a job."""
    want_locks: set[Address] = field(default_factory=set)
    """Workers that gave no credit."""
    holder: Address | None = None
    """Who accepted the award that is under way: no other one's acceptance is taken."""
    purchases: list[Purchase] = field(default_factory=list)
    """Those whose output may still be accepted, or is the job's last."""
    changed: Pulse = field(default_factory=Pulse)
    """Rings when an award was accepted, refused or ended, and with a cancel."""
    cancelled: str = ""
    cancel_reason: CutoffReason | None = None
    _waits: set[trio.CancelScope] = field(default_factory=set)

    def check(self) -> None:
        """
        Raises:
            Abandoned: The job was cancelled.
        """
        if self.cancelled:
            raise Abandoned(self.cancelled)

    async def wait_kept(self) -> None:
        """Return once the store knows of the job.

        Raises:
            NodeError: It can't be kept.
        """
        await self.kept.wait()
        if self.unkept is not None:
            raise self.unkept

    @contextmanager
    def cancellable(self) -> Iterator[None]:
        """What is awaited in here ends at once when the job is cancelled; raises as `check`."""
        self.check()
        with trio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            self.check()

    async def cancel(self, reason: CutoffReason, why: str) -> None:
        """Begin nothing more; what is being delivered is cut off."""
        if not self.cancelled:
            self.cancelled, self.cancel_reason = why, reason
        for scope in self._waits:
            scope.cancel()
        for purchase in tuple(self.purchases):
            await purchase.cancel(reason, why)
        self.changed.ring()

    @property
    def left_micro(self) -> int:
        """What is left of the user's price limit."""
        return max(0, self.order.preferences.price_micro_max - self.spent_micro)

    def preferences(self, now_s: float) -> Preferences:
        """The user's limits, as far as they are not used up."""
        prefs = self.order.preferences
        deadline_s = prefs.deadline_s
        if deadline_s is not None:
            deadline_s = max(0.0, deadline_s - (now_s - self.began_s))
        return replace(prefs, price_micro_max=self.left_micro, deadline_s=deadline_s)

    def objection(self, candidate: Candidate, *, escrow: Address) -> str:
        """Why a worker can't be paid for the job, or not after what others kept; empty if it can.

        Args:
            candidate: Whom the auction chose.
            escrow: The contract, which takes no part in what it pays out.
        """
        prefs, terms = self.order.preferences, candidate.terms.statement
        try:
            check_splits(terms.splits, payee=terms.payee, escrow=escrow)
        except PeerError as error:
            return str(error)
        advance_micro = terms.prepay
        if advance_micro > self.order.cost_micro(terms, self.position, self.answer.reread):
            return "asks for more in advance than the job costs"
        if self.lost_micro and advance_micro + self.lost_micro > prefs.prepay_micro_max:
            return "asks for an advance, and others kept theirs"
        if candidate.price_micro > self.left_micro:
            return "costs more than is left after what others were paid"
        return ""

    def needs_lock(self, worker: Address, auction: Auction) -> bool:
        """Whether a worker that gives no credit is the only choice, or was asked for by name.

        Locks keep the deposit from everybody else: whoever else gives credit comes first.
        """
        self.want_locks.add(worker)
        bids = auction.record().bids
        others = {bid.worker for bid in bids if bid.objection is None} - self.want_locks
        only = self.order.preferences.worker is not None or not others
        return only and self.lock is None
