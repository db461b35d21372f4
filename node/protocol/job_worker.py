"""One segment of a job, as its worker sees it: a pure state machine.

    REQUEST ──request complete──▶ RUNNING ──output ended, all delivered──▶ CLOSING ──paid──▶ DONE
       │                            │ cutoff, unpaid, engine failed ──▶ CLOSING
       └── lost, timed out ─────────┴──▶ DONE

Output that the engine made waits in `held` until the client has paid for enough of what was
delivered before it: *unpaid* (cost of what was delivered − vouchers) never exceeds the quantum.
What a cutoff takes back of the delivery is *disowned*: the client had it, and does not pay for it.
"""

from dataclasses import replace
from typing import assert_never

from node.errors import PeerError
from node.protocol import limits, pieces
from node.protocol.fields import Hash
from node.protocol.frames import Chunk, End
from node.protocol.job_worker_state import (
    Awarded,
    CheckRequest,
    CutOff,
    Effect,
    Emit,
    Event,
    Generated,
    Gone,
    Issue,
    KeepCutoff,
    Paid,
    Phase,
    RequestChecked,
    RequestPart,
    Step,
    StopEngine,
    Stopped,
    WorkerJob,
)
from node.protocol.statements import Acceptance, Award, Finish, Progress, Receipt, Terms, Tier

PROGRESS_PER_QUANTUM = 4
"""A progress is due when this fraction of a quantum was delivered since the last one."""
IDS_PER_CHUNK_MAX = limits.DATA_BYTES_MAX // 4

__all__ = [
    "Awarded",
    "CheckRequest",
    "CutOff",
    "Effect",
    "Emit",
    "Event",
    "Generated",
    "Gone",
    "Issue",
    "KeepCutoff",
    "Paid",
    "Phase",
    "RequestChecked",
    "RequestPart",
    "Step",
    "StopEngine",
    "Stopped",
    "WorkerJob",
    "deliverable",
    "start",
    "step",
]


def start(award: Award, digest: Hash, terms: Terms) -> WorkerJob:
    """The segment before anything happened in it."""
    return WorkerJob(award=award, digest=digest, terms=terms, chain=award.chain)


def deliverable(job: WorkerJob) -> int:
    """How many more items may go out now: quantum, cap and output limit all hold after them."""
    allowed_micro = min(job.paid_micro + job.terms.quantum, job.award.cap)
    low, high = 0, pieces.fitting(job.held, job.award.output_max - job.tokens_out)
    while low < high:  # cost rises with each token, by an amount that rounding makes uneven
        middle = (low + high + 1) // 2
        if job.cost_at(job.tokens_out + pieces.tokens_of(job.held[:middle])) <= allowed_micro:
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
            return _begun(job, event)
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


def _begun(job: WorkerJob, event: RequestChecked) -> Step:
    assert (event.text is not None) == (job.terms.tier == Tier.TEXT)
    chain = job.chain if event.text is None else event.text.head
    assert chain == job.award.chain, "checked with the request"
    return replace(job, phase=Phase.RUNNING, text=event.text), ()


def _generated(job: WorkerJob, event: Generated, now_ms: int) -> Step:
    if job.phase is not Phase.RUNNING or job.ending is not None:
        return job, ()
    records = event.logprobs or (b"",) * len(event.items)
    assert len(records) == len(event.items), "a record for each id, or none at all"
    if not job.tokens_out and not job.held:
        assert event.tokens_cached <= job.award.tokens_in, "of the prompt"
        job = replace(job, tokens_cached=event.tokens_cached)
    job = replace(job, held=job.held + event.items, held_logprobs=job.held_logprobs + records)
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
        items = job.held[:count]
        job, chunk = _deliver(job, count, now_ms)
        effects.append(Emit(frame=chunk, items=items))
    if _progress_due(job):
        progress = _progress(job, now_ms)
        job = replace(job, progress_micro=progress.amount)
        effects.append(Issue(statement=progress))
    if _full(job):  # also where the engine's own end is behind what has no room
        job = replace(_dropped(job), ending=Finish.LENGTH)
    if job.ending is not None and not job.held:
        return _close(job, tuple(effects), now_ms)
    return job, tuple(effects)


def _dropped(job: WorkerJob) -> WorkerJob:
    """What was made and not delivered is thrown away."""
    return replace(job, held=(), held_logprobs=())


def _chunk_count(job: WorkerJob) -> int:
    """Items of the next chunk: what may go out, as far as they and their records fit a frame."""
    count, room = 0, limits.DATA_BYTES_MAX
    chunk_max = IDS_PER_CHUNK_MAX if job.text is None else pieces.PIECES_PER_CHUNK_MAX
    most = min(deliverable(job), chunk_max)
    while count < most and len(job.held_logprobs[count]) <= room:
        room -= len(job.held_logprobs[count])
        count += 1
    return count


def _deliver(job: WorkerJob, count: int, now_ms: int) -> tuple[WorkerJob, Chunk]:
    items, records = job.held[:count], job.held_logprobs[:count]
    chunk = Chunk(
        job=job.award.job,
        position=job.position,
        data=pieces.packed(items),
        logprobs=b"".join(records) if all(records) else b"",
    )
    chain, text = pieces.grown(job.chain, job.text, items)
    job = replace(
        job,
        held=job.held[count:],
        held_logprobs=job.held_logprobs[count:],
        tokens_out=job.tokens_out + pieces.tokens_of(items),
        chain=chain,
        text=text,
        first_token_ms=job.first_token_ms or now_ms,
    )
    return job, chunk


def _progress_due(job: WorkerJob) -> bool:
    """Before the client's credit runs out, so that a voucher can be back in time."""
    fresh = job.earned_micro - job.progress_micro
    if fresh <= 0 or (job.ending is not None and not job.held):
        return False  # the receipt that follows says it
    return bool(job.held) or fresh * PROGRESS_PER_QUANTUM >= job.terms.quantum


def _full(job: WorkerJob) -> bool:
    """Nothing more fits the output limit, or the cap however well the client pays."""
    if not job.held:
        return job.ending is None and job.tokens_out >= job.award.output_max
    after = job.tokens_out + pieces.tokens_of(job.held[:1])
    return after > job.award.output_max or job.cost_at(after) > job.award.cap


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
