"""One job at its client: how far it is, who is told, and what ends it early."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.errors import PeerError, Unavailable
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import Address, JobId, Signed
from node.protocol.frames import Refusal
from node.protocol.job_client import ClientJob
from node.protocol.statements import Lock, Voucher
from node.protocol.tabs import check_splits
from node.roles.answer import AnyAnswer
from node.roles.market import Auction, Candidate, Effect, Event
from node.roles.order import Order
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
    ended_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class JobRun:
    """One job under way, over all its awards."""

    order: Order
    answer: AnyAnswer
    watcher: Watcher
    job: JobId
    seed: int
    auction: Auction
    attempts: int = 0
    lost_micro: int = 0
    """Paid in advance to workers that then gave nothing."""
    lock: Lock | None = None
    """A worker was given it, and it was waited for: once in a job."""
    want_locks: set[Address] = field(default_factory=set)
    """Workers that gave no credit."""
    begun: bool = False
    """The auction has an account to give."""
    purchase: Purchase | None = None
    cancelled: str = ""
    _waits: set[trio.CancelScope] = field(default_factory=set)

    def check(self) -> None:
        """
        Raises:
            Abandoned: The job was cancelled.
        """
        if self.cancelled:
            raise Abandoned(self.cancelled)

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

    def cancel(self, why: str) -> None:
        """Begin nothing more."""
        self.cancelled = self.cancelled or why
        for scope in self._waits:
            scope.cancel()

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
        if advance_micro > self.order.cost_micro(terms):
            return "asks for more in advance than the job costs"
        if self.lost_micro and advance_micro + self.lost_micro > prefs.prepay_micro_max:
            return "asks for an advance, and others kept theirs"
        if candidate.price_micro + self.lost_micro > prefs.price_micro_max:
            return "costs more than is left after others kept their advance"
        return ""

    def needs_lock(self, worker: Address) -> bool:
        """Whether a worker that gives no credit is the only choice, or was asked for by name.

        Locks keep the deposit from everybody else: whoever else gives credit comes first.
        """
        self.want_locks.add(worker)
        bids = self.auction.record().bids
        others = {bid.worker for bid in bids if bid.objection is None} - self.want_locks
        only = self.order.preferences.worker is not None or not others
        return only and self.lock is None
