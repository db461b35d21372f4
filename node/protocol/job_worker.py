"""One segment of a job, as its worker sees it: a pure state machine.

    REQUEST ──request complete──▶ RUNNING ──output ended, all delivered──▶ CLOSING ──paid──▶ DONE
       │                            │ cutoff, unpaid, engine failed ──▶ CLOSING
       └── lost, timed out ─────────┴──▶ DONE

Output that the engine made waits in `held` until the client has paid for enough of what was
delivered before it: *unpaid* (cost of what was delivered − vouchers) never exceeds the quantum.
What a cutoff takes back of the delivery is *disowned*: the client had it, and does not pay for it.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

from node.errors import PeerError
from node.protocol import chain_hash, codec, limits
from node.protocol.fields import Hash
from node.protocol.frames import Chunk, End, Frame
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    Finish,
    Progress,
    Receipt,
    Terms,
)
from node.units import cost_micro

PROGRESS_PER_QUANTUM = 4
"""A progress is due when this fraction of a quantum was delivered since the last one."""
IDS_PER_CHUNK_MAX = limits.DATA_BYTES_MAX // 4


class Phase(Enum):
    """Where the segment stands; see the module's diagram."""

    REQUEST = auto()
    RUNNING = auto()
    CLOSING = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """Everything that decides what the worker does next for one segment."""

    award: Award
    digest: Hash
    """Digest of the award; all later statements carry it."""
    terms: Terms
    phase: Phase = Phase.REQUEST
    request_size: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    chain: Hash
    held: tuple[int, ...] = ()
    """Made by the engine, not yet delivered."""
    held_logprobs: tuple[bytes, ...] = ()
    """A record for each held id; empty where none was asked for."""
    paid_micro: int = 0
    progress_micro: int = 0
    """Amount of the last progress."""
    ending: Finish | None = None
    """Why nothing more is made; the receipt follows once `held` is delivered."""
    receipt: Receipt | None = None
    disowned_micro: int = 0
    """Cost of what was delivered beyond the client's cutoff, as far as it is not paid."""
    accepted_ms: int = 0
    first_token_ms: int = 0

    @property
    def position(self) -> int:
        """Output tokens of the job, all segments together."""
        return self.award.position + self.tokens_out

    @property
    def earned_micro(self) -> int:
        """Cost of what was delivered.  The prompt falls due with the first output token."""
        return self.cost_at(self.tokens_out)

    @property
    def blocked(self) -> bool:
        """Output waits for the client to pay."""
        return self.phase is Phase.RUNNING and bool(self.held)

    def cost_at(self, tokens_out: int) -> int:
        """What the segment costs, in micro, with `tokens_out` tokens delivered."""
        if tokens_out == 0:
            return 0
        return cost_micro(
            tokens_in=self.award.tokens_in - self.tokens_cached,
            tokens_cached=self.tokens_cached,
            tokens_out=tokens_out,
            price_in=self.terms.price_in,
            price_cached=self.terms.price_cached,
            price_out=self.terms.price_out,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Awarded:
    """The role checked the award and reserved a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPart:
    """A request data frame of `size` bytes at `offset`."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChecked:
    """The whole request arrived, matches its hash and can be run."""

    tokens_cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The engine made tokens.  `logprobs` has an encoded record for each, or nothing."""

    ids: tuple[int, ...]
    logprobs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Nothing more will be made: by the engine's own end, a drain, a failure or missing pay."""

    finish: Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """Vouchers for this segment now come to `total_micro`, and are saved."""

    total_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """A verified cutoff; `chain_here` is this worker's chain hash at its position."""

    cutoff: Cutoff
    chain_here: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The session was lost, or the client took too long."""


Event = Awarded | RequestPart | RequestChecked | Generated | Stopped | Paid | CutOff | Gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Sign, save, and only then send."""

    statement: Acceptance | Progress | Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Send; nothing to save."""

    frame: Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The request is whole: verify its hash and start the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCutoff:
    """Save the client's cutoff: the receipt that follows rests on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopEngine:
    """Free the slot; what was made and not delivered is thrown away."""


Effect = Issue | Emit | CheckRequest | KeepCutoff | StopEngine
Step = tuple[WorkerJob, tuple[Effect, ...]]


def start(award: Award, digest: Hash, terms: Terms) -> WorkerJob:
    """The segment before anything happened in it."""
    return WorkerJob(award=award, digest=digest, terms=terms, chain=award.chain)


def deliverable(job: WorkerJob) -> int:
    """How many more tokens may go out now: quantum, cap and output limit all hold after them."""
    allowed_micro = min(job.paid_micro + job.terms.quantum, job.award.cap)
    room = job.award.output_max - job.tokens_out
    low, high = 0, min(room, len(job.held))
    while low < high:  # cost rises with each token, by an amount that rounding makes uneven
        middle = (low + high + 1) // 2
        if job.cost_at(job.tokens_out + middle) <= allowed_micro:
            low = middle
        else:
            high = middle - 1
    return low


def step(job: WorkerJob, event: Event, now_ms: int) -> Step:
    """The next state, and what to do, in order.

    Raises:
        PeerError: The client broke the protocol.
    """
    if job.phase is Phase.DONE:
        return job, ()
    match event:
        case Awarded():
            job = replace(job, accepted_ms=now_ms)
            return job, (Issue(statement=Acceptance(award=job.digest, accepted_ms=now_ms)),)
        case RequestPart():
            return _request_part(job, event)
        case RequestChecked():
            if job.phase is not Phase.REQUEST:
                raise PeerError("a second request for one award")
            return replace(job, phase=Phase.RUNNING, tokens_cached=event.tokens_cached), ()
        case Generated():
            return _generated(job, event, now_ms)
        case Stopped():
            return _stopped(job, event.finish, now_ms)
        case Paid():
            job = replace(job, paid_micro=max(job.paid_micro, event.total_micro))
            return _flush(job, now_ms)
        case CutOff():
            return _cut_off(job, event, now_ms)
        case Gone():
            return replace(job, phase=Phase.DONE, held=()), (StopEngine(),)
        case _:
            assert_never(event)


def _request_part(job: WorkerJob, event: RequestPart) -> Step:
    if job.phase is not Phase.REQUEST:
        raise PeerError("request data after the whole request")
    size = job.request_size + event.size
    if event.offset != job.request_size or not event.size or size > job.award.request_bytes:
        raise PeerError("request data that does not fit what the award announced")
    job = replace(job, request_size=size)
    return job, (CheckRequest(),) if size == job.award.request_bytes else ()


def _generated(job: WorkerJob, event: Generated, now_ms: int) -> Step:
    if job.phase is not Phase.RUNNING or job.ending is not None:
        return job, ()
    records = event.logprobs or (b"",) * len(event.ids)
    assert len(records) == len(event.ids), "a record for each id, or none at all"
    job = replace(job, held=job.held + event.ids, held_logprobs=job.held_logprobs + records)
    return _flush(job, now_ms)


def _stopped(job: WorkerJob, finish: Finish, now_ms: int) -> Step:
    own_end = finish in (Finish.STOP, Finish.LENGTH)
    if job.phase is Phase.CLOSING or (own_end and job.ending is not None):
        return job, ()
    if not own_end:
        # What is held will never be paid for, or never continued: also where the engine had ended.
        job = _dropped(job)
    return _flush(replace(job, ending=finish), now_ms)


def _flush(job: WorkerJob, now_ms: int) -> Step:
    """Deliver what may be delivered; say what it comes to; end, if all of it is out."""
    if job.phase is Phase.CLOSING:
        return _settle(job)
    effects: list[Effect] = []
    while count := _chunk_count(job):
        job, chunk = _deliver(job, count, now_ms)
        effects.append(Emit(frame=chunk))
    if _progress_due(job):
        progress = _progress(job, now_ms)
        job = replace(job, progress_micro=progress.amount)
        effects.append(Issue(statement=progress))
    if job.ending is None and (job.tokens_out >= job.award.output_max or _cap_reached(job)):
        job = replace(_dropped(job), ending=Finish.LENGTH)
    if job.ending is not None and not job.held:
        return _close(job, tuple(effects), now_ms)
    return job, tuple(effects)


def _dropped(job: WorkerJob) -> WorkerJob:
    """What was made and not delivered is thrown away."""
    return replace(job, held=(), held_logprobs=())


def _chunk_count(job: WorkerJob) -> int:
    """Ids of the next chunk: what may go out, as far as they and their records fit a frame."""
    count, room = 0, limits.DATA_BYTES_MAX
    most = min(deliverable(job), IDS_PER_CHUNK_MAX)
    while count < most and len(job.held_logprobs[count]) <= room:
        room -= len(job.held_logprobs[count])
        count += 1
    return count


def _deliver(job: WorkerJob, count: int, now_ms: int) -> tuple[WorkerJob, Chunk]:
    ids, records = job.held[:count], job.held_logprobs[:count]
    chunk = Chunk(
        job=job.award.job,
        position=job.position,
        data=codec.pack_ids(ids),
        logprobs=b"".join(records) if all(records) else b"",
    )
    job = replace(
        job,
        held=job.held[count:],
        held_logprobs=job.held_logprobs[count:],
        tokens_out=job.tokens_out + count,
        chain=chain_hash.extend(job.chain, ids),
        first_token_ms=job.first_token_ms or now_ms,
    )
    return job, chunk


def _progress_due(job: WorkerJob) -> bool:
    """Before the client's credit runs out, so that a voucher can be back in time."""
    fresh = job.earned_micro - job.progress_micro
    if fresh <= 0 or (job.ending is not None and not job.held):
        return False  # the receipt that follows says it
    return bool(job.held) or fresh * PROGRESS_PER_QUANTUM >= job.terms.quantum


def _cap_reached(job: WorkerJob) -> bool:
    """Not even one more token fits the award's cap, however well the client pays."""
    return bool(job.held) and job.cost_at(job.tokens_out + 1) > job.award.cap


def _progress(job: WorkerJob, now_ms: int) -> Progress:
    return Progress(
        award=job.digest,
        tokens_in=job.award.tokens_in - job.tokens_cached,
        tokens_cached=job.tokens_cached,
        tokens_out=job.tokens_out,
        amount=job.earned_micro,
        chain=job.chain,
        at_ms=now_ms,
    )


def _close(job: WorkerJob, effects: tuple[Effect, ...], now_ms: int) -> Step:
    assert job.ending is not None
    end = End(job=job.award.job, finish=job.ending, position=job.position)
    receipt = Receipt(
        award=job.digest,
        tokens_in=job.award.tokens_in - job.tokens_cached,
        tokens_cached=job.tokens_cached,
        tokens_out=job.tokens_out,
        amount=job.earned_micro,
        chain=job.chain,
        finish=job.ending,
        accepted_ms=job.accepted_ms,
        first_token_ms=job.first_token_ms,
        ended_ms=now_ms,
    )
    job = replace(job, phase=Phase.CLOSING, receipt=receipt)
    job, settled = _settle(job)
    return job, (*effects, StopEngine(), Emit(frame=end), Issue(statement=receipt), *settled)


def _settle(job: WorkerJob) -> Step:
    if job.receipt is not None and job.paid_micro >= job.receipt.amount:
        return replace(job, phase=Phase.DONE), ()
    return job, ()


def _cut_off(job: WorkerJob, event: CutOff, now_ms: int) -> Step:
    """The client accepts up to a position.  What it paid for beyond that stays paid."""
    cutoff = event.cutoff
    tokens_out = cutoff.position - job.award.position
    if cutoff.award != job.digest or not 0 <= tokens_out <= job.tokens_out:
        raise PeerError("cutoff outside what was delivered")
    if cutoff.chain != event.chain_here:
        raise PeerError("cutoff with another chain hash than what was delivered")
    if job.phase is Phase.CLOSING:
        return job, ()
    kept_micro = max(job.cost_at(tokens_out), job.paid_micro)
    job = replace(
        _dropped(job),
        disowned_micro=max(0, job.earned_micro - kept_micro),
        tokens_out=tokens_out,
        chain=cutoff.chain,
        first_token_ms=job.first_token_ms if tokens_out else 0,
        ending=Finish.CUTOFF,
    )
    return _close(job, (KeepCutoff(),), now_ms)
