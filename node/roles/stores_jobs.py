"""What worker, client and market need kept on disk; `stores` says what holds for all of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from node.protocol.fields import Address, Hash, JobId, Signed
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    Progress,
    Receipt,
    Terms,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """A segment with all its statements, for lists and reports."""

    digest: Hash
    award: Signed[Award]
    terms: Signed[Terms]
    begun_ms: int
    acceptance: Signed[Acceptance] | None
    progress: Signed[Progress] | None
    receipt: Signed[Receipt] | None
    cutoff: Signed[Cutoff] | None
    earned_micro: int
    paid_micro: int


class WorkerStore(Protocol):
    """The worker's statements.  What was signed is kept; it is never signed again."""

    async def begin_segment(
        self,
        *,
        digest: Hash,
        award: Signed[Award],
        terms: Signed[Terms],
        at_ms: int,
    ) -> None:
        """Save that an award was taken on.  `digest` is the award's.

        Raises:
            Duplicate: This (client, job, attempt) was begun before.
        """
        ...

    async def save_acceptance(self, acceptance: Signed[Acceptance]) -> None:
        """Save before it is sent; its `award` names the segment."""
        ...

    async def save_progress(self, progress: Signed[Progress]) -> None:
        """Save before it is sent; replaces the one before."""
        ...

    async def save_receipt(self, receipt: Signed[Receipt], *, digest: Hash) -> None:
        """Save before it is sent.  `digest` is the receipt's.

        Raises:
            Duplicate: The segment has another receipt already.
        """
        ...

    async def save_cutoff(self, cutoff: Signed[Cutoff]) -> None:
        """Save what the client accepted at most."""
        ...

    async def segment(self, digest: Hash) -> SegmentRow | None:
        """One segment by its award's digest."""
        ...

    async def segments(self, *, count_max: int, before_ms: int = 2**62) -> tuple[SegmentRow, ...]:
        """The newest segments begun before a time, newest first."""
        ...

    async def totals(self) -> "Earnings":
        """Sums over all segments and tabs."""
        ...

    async def next_serials(self, count: int, *, at_least: int = 0) -> int:
        """The first of `count` serials, `at_least` or above, that this home has never used."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Earnings:
    """What this node sold, in micro: earned ≥ vouchered ≥ redeemed but for advance payments."""

    segments: int
    """That delivered or earned something: an award that came to nothing is no sale."""
    tokens_out: int
    earned_micro: int
    vouchered_micro: int
    redeemed_micro: int


class JobState(StrEnum):
    """How far a client's job got."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A client's job, for lists and reports.  No prompt and no answer: those are never in here."""

    job: JobId
    model: Hash
    begun_ms: int
    ended_ms: int
    state: JobState
    auction: bytes
    """JSON."""
    summary: bytes
    """JSON; empty while it runs."""
    transcript: bytes
    """The sealed file's bytes; empty while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoughtSegment:
    """A segment at its client, with all its statements."""

    digest: Hash
    award: Signed[Award]
    terms: Signed[Terms]
    acceptance: Signed[Acceptance] | None
    progress: Signed[Progress] | None
    receipt: Signed[Receipt] | None
    cutoff: Signed[Cutoff] | None


class ClientStore(Protocol):
    """The client's statements and jobs."""

    async def begin_job(self, *, job: JobId, model: Hash, at_ms: int) -> None:
        """Save that a job was begun.

        Raises:
            Duplicate: There was one with this id.
        """
        ...

    async def save_auction(self, job: JobId, record: bytes) -> None:
        """Save how the worker was chosen, as JSON."""
        ...

    async def save_award(self, *, digest: Hash, award: Signed[Award], terms: Signed[Terms]) -> None:
        """Save before it is sent.  `digest` is the award's.

        Raises:
            Duplicate: This (job, attempt) was awarded before.
        """
        ...

    async def save_acceptance(self, acceptance: Signed[Acceptance]) -> None:
        """Save a worker's acceptance; its `award` names the segment."""
        ...

    async def save_progress(self, progress: Signed[Progress]) -> None:
        """Save the last progress that was accepted."""
        ...

    async def save_receipt(self, receipt: Signed[Receipt]) -> None:
        """Save the receipt that was accepted."""
        ...

    async def save_cutoff(self, cutoff: Signed[Cutoff]) -> None:
        """Save before it is sent.

        Raises:
            Duplicate: The segment has another cutoff already.
        """
        ...

    async def finish_job(
        self, *, job: JobId, state: JobState, at_ms: int, summary: bytes, transcript: bytes
    ) -> None:
        """Save how a job ended: its summary as JSON and the sealed transcript."""
        ...

    async def job(self, job: JobId) -> JobRow | None:
        """One job."""
        ...

    async def jobs(self, *, count_max: int, before_ms: int = 2**62) -> tuple[JobRow, ...]:
        """The newest jobs begun before a time, newest first; transcripts left empty."""
        ...

    async def bought(self, job: JobId) -> tuple[BoughtSegment, ...]:
        """A job's segments, by attempt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What this client measured of one worker's model: moving averages over `count` segments."""

    worker: Address
    model: Hash
    count: int
    failures: int
    first_token_s: float
    rate_tps: float
    updated_ms: int


class MarketStore(Protocol):
    """What the client measured."""

    async def save_measurement(self, measurement: Measurement) -> None:
        """Insert or replace."""
        ...

    async def measurements(self) -> tuple[Measurement, ...]:
        """All, the latest first; the store keeps a bounded number."""
        ...
