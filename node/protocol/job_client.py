"""One segment of a job, as its client sees it: a pure state machine.

    AWARDED ──acceptance──▶ STREAMING ──end──▶ ENDED ──receipt──▶ DONE
       │ refusal, cutoff       │ cutoff ──▶ CUT ──receipt, or none in time──▶ DONE
       └── lost ───────────────┴── lost ──▶ DONE

The client counts the tokens itself.  What the worker bills is accepted only where it equals that
count at the prices of the terms; anything else ends the segment at the last accepted position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

from node.protocol import pieces
from node.protocol.chain_hash import TextChain
from node.protocol.fields import Hash
from node.protocol.frames import Refusal
from node.protocol.pieces import Item
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    CutoffReason,
    Finish,
    Progress,
    Receipt,
    Terms,
    Tier,
)
from node.units import cost_micro


class Phase(Enum):
    """Where the segment stands; see the module's diagram."""

    AWARDED = auto()
    STREAMING = auto()
    ENDED = auto()
    CUT = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientJob:
    """Everything that decides what the client does next for one segment."""

    award: Award
    digest: Hash
    terms: Terms
    prepaid_micro: int = 0
    phase: Phase = Phase.AWARDED
    tokens_out: int = 0
    tokens_cached: int = 0
    chain: Hash
    text: TextChain | None = None
    """What `chain` is the head of, in tier text."""
    complete: Finish | None = None
    """Set once the output is complete: by the client's own reckoning; in tier text by the worker's
    word as well.  Nothing after it is owed."""
    accepted_micro: int = 0
    """What this client has agreed to pay for the segment so far."""
    cut: Cutoff | None = None
    refusal: Refusal | None = None
    receipt: Receipt | None = None
    failure: str = ""
    """One sentence on what ended the segment early; empty when nothing did."""

    @property
    def position(self) -> int:
        """Output tokens of the job, all segments together."""
        return self.award.position + self.tokens_out

    @property
    def delivering(self) -> bool:
        """More output may be accepted."""
        return self.phase in (Phase.AWARDED, Phase.STREAMING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The worker's acceptance, its signature verified."""

    acceptance: Acceptance


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The worker won't do it."""

    refusal: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Output.  `complete_after` of its items complete it (`finish` says how), or None."""

    position: int
    items: tuple[Item, ...]
    complete_after: int | None = None
    finish: Finish | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """The worker's running total, its signature verified."""

    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The worker's end frame."""

    finish: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted:
    """The worker's receipt, its signature verified."""

    receipt: Receipt
    digest: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Cut the worker off: the user cancelled, it went silent, or it sent what it must not."""

    reason: CutoffReason
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The session was lost."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptOverdue:
    """No receipt came in time after the end or the cutoff."""


Event = (
    Accepted | Refused | Received | Progressed | Ended | Receipted | GiveUp | Gone | ReceiptOverdue
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """These ids or pieces are the answer's next."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pay:
    """Raise the tab so that this segment's vouchers come to `accepted_micro`."""

    accepted_micro: int
    receipt: Hash | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Sign the cutoff, save it, and only then send it."""

    cutoff: Cutoff


Effect = Show | Pay | Cut
Step = tuple[ClientJob, tuple[Effect, ...]]

OVERBILLED = CutoffReason.OVERBILLED
HONEST_CUTS = (CutoffReason.CANCELLED, CutoffReason.DEADLINE, CutoffReason.STALLED)
"""After these the worker's receipt for the accepted part is waited for, if it had accepted."""
FAILURES: Mapping[int, str] = {
    Finish.UNPAID: "the worker was not paid in time",
    Finish.DRAINED: "the worker is shutting down",
    Finish.FAILED: "the worker's engine failed",
}


def start(
    award: Award,
    digest: Hash,
    terms: Terms,
    *,
    prepaid_micro: int = 0,
    text: TextChain | None = None,
) -> ClientJob:
    """The segment as it is when its award leaves; `text`: the chain so far, in tier text."""
    assert (text is not None) == (terms.tier == Tier.TEXT)
    return ClientJob(
        award=award,
        digest=digest,
        terms=terms,
        chain=award.chain,
        text=text,
        prepaid_micro=prepaid_micro,
        accepted_micro=prepaid_micro,
    )


def step(job: ClientJob, event: Event) -> Step:
    """The next state, and what to do, in order.

    Total: a worker that cheats is cut off; nothing is raised.
    """
    if job.phase is Phase.DONE:
        return job, ()
    match event:
        case Accepted():
            return _accepted(job, event)
        case Refused():
            return _refused(job, event)
        case Received():
            return _received(job, event)
        case Progressed():
            return _progressed(job, event.progress)
        case Ended():
            return _ended(job, event)
        case Receipted():
            return _receipted(job, event)
        case GiveUp():
            return _cut(job, event.reason, event.why)
        case Gone():
            return _left(job, CutoffReason.LOST, event.why)
        case ReceiptOverdue():
            return _left(job, CutoffReason.STALLED, "the worker sent no receipt")
        case _:
            assert_never(event)


def cost_at(job: ClientJob, tokens_out: int) -> int:
    """What `tokens_out` delivered tokens of this segment cost, in micro.

    The prompt is owed with the first output token.
    """
    if tokens_out == 0:
        return 0
    return cost_micro(
        tokens_in=job.award.tokens_in - job.tokens_cached,
        tokens_cached=job.tokens_cached,
        tokens_out=tokens_out,
        price_in=job.terms.price_in,
        price_cached=job.terms.price_cached,
        price_out=job.terms.price_out,
    )


def _accepted(job: ClientJob, event: Accepted) -> Step:
    if event.acceptance.award != job.digest:
        return _cut(job, CutoffReason.BAD_STATEMENT, "the acceptance names another award")
    if job.phase is not Phase.AWARDED:
        return _cut(job, CutoffReason.BAD_STATEMENT, "a second acceptance of one award")
    return replace(job, phase=Phase.STREAMING), ()


def _refused(job: ClientJob, event: Refused) -> Step:
    if job.phase is not Phase.AWARDED:
        return _cut(job, CutoffReason.BAD_STATEMENT, "refused what it had accepted")
    return replace(job, phase=Phase.DONE, refusal=event.refusal), ()


def _received(job: ClientJob, event: Received) -> Step:
    if job.phase is Phase.CUT:
        return job, ()  # on its way before the cutoff arrived there
    if job.phase is Phase.AWARDED:
        return _cut(job, CutoffReason.BAD_DATA, "output before the acceptance")
    if job.phase is Phase.ENDED or job.complete is not None:
        return _cut(job, CutoffReason.AFTER_END, "output after the end")
    if event.position != job.position or not event.items:
        return _cut(job, CutoffReason.BAD_DATA, "output at another position than the next")
    owed = len(event.items) if event.complete_after is None else event.complete_after
    owed = min(owed, pieces.fitting(event.items, job.award.output_max - job.tokens_out))
    items = event.items[:owed]
    chain, text = pieces.grown(job.chain, job.text, items)
    job = replace(
        job,
        tokens_out=job.tokens_out + pieces.tokens_of(items),
        chain=chain,
        text=text,
        complete=event.finish if owed == event.complete_after else None,
    )
    if job.complete is None and job.tokens_out == job.award.output_max:
        job = replace(job, complete=Finish.LENGTH)
    shown = (Show(items=items),) if items else ()
    if owed < len(event.items):
        job, effects = _cut(job, CutoffReason.AFTER_END, "output after the end")
        return job, (*shown, *effects)
    return job, shown


def _progressed(job: ClientJob, progress: Progress) -> Step:
    if job.phase is Phase.CUT:
        return job, ()
    wrong = _bill_error(job, progress)
    if job.phase is not Phase.STREAMING:
        wrong = CutoffReason.BAD_STATEMENT, "a progress outside the stream"
    if wrong:
        return _cut(job, *wrong)
    job = replace(job, tokens_cached=progress.tokens_cached)
    return _pay(job, progress.amount)


def _ended(job: ClientJob, event: Ended) -> Step:
    if job.phase is Phase.CUT:
        return job, ()
    if job.phase is not Phase.STREAMING or event.position != job.position:
        return _cut(job, CutoffReason.BAD_DATA, "an end at another position than was delivered")
    claimed = event.finish
    own_end = claimed in (Finish.STOP, Finish.LENGTH)
    # The cap may end an answer before the output limit does; nothing else may.
    early = claimed != job.complete and (claimed == Finish.STOP or not _cap_reached(job))
    # Where ids are not seen, only the backend knows why it ended; then nothing more is billed.
    if own_end and early and job.text is None:
        return _cut(job, CutoffReason.BAD_DATA, "an end before the output was complete")
    if own_end:
        job = replace(job, complete=Finish(claimed))
    else:
        job = replace(job, failure=FAILURES.get(claimed, "the worker ended the job"))
    return replace(job, phase=Phase.ENDED), ()


def _receipted(job: ClientJob, event: Receipted) -> Step:
    receipt = event.receipt
    wrong = _bill_error(job, receipt)
    if job.phase not in (Phase.ENDED, Phase.CUT):
        wrong = CutoffReason.BAD_STATEMENT, "a receipt before the end"
    if wrong and job.phase is Phase.CUT:
        return _pay_delivered(replace(job, phase=Phase.DONE))
    if wrong:
        return _cut(job, *wrong)
    job = replace(job, receipt=receipt, tokens_cached=receipt.tokens_cached, phase=Phase.DONE)
    amount = max(receipt.amount, job.accepted_micro)
    if amount == 0:
        return job, ()  # nothing rises, so no voucher can commit to it
    return replace(job, accepted_micro=amount), (Pay(accepted_micro=amount, receipt=event.digest),)


def _left(job: ClientJob, reason: CutoffReason, why: str) -> Step:
    """No receipt will come.  The cutoff says for the transcript where the segment ended."""
    job, effects = (job, ()) if job.cut is not None else _cut(job, reason, job.failure or why)
    job, paid = _pay_delivered(replace(job, phase=Phase.DONE, failure=job.failure or why))
    return job, (*effects, *paid)


def _cut(job: ClientJob, reason: CutoffReason, why: str) -> Step:
    """Accept nothing after the current position; pay what was delivered until there."""
    if job.cut is not None:
        return replace(job, phase=Phase.DONE, failure=job.failure or why), ()
    cutoff = Cutoff(award=job.digest, position=job.position, chain=job.chain, reason=reason)
    failure = "" if reason is CutoffReason.CANCELLED else why
    waits = reason in HONEST_CUTS and job.phase is not Phase.AWARDED
    phase = Phase.CUT if waits else Phase.DONE
    job = replace(job, phase=phase, cut=cutoff, failure=failure)
    job, paid = _pay_delivered(job)
    return job, (Cut(cutoff=cutoff), *paid)


def _pay_delivered(job: ClientJob) -> Step:
    unbilled = job.phase is Phase.CUT and job.accepted_micro == job.prepaid_micro
    # How much of the prompt was cached is then for the receipt to say.
    cached = job.award.tokens_in if unbilled else job.tokens_cached
    return _pay(job, cost_at(replace(job, tokens_cached=cached), job.tokens_out))


def _pay(job: ClientJob, amount_micro: int) -> Step:
    amount_micro = min(amount_micro, job.award.cap)
    if amount_micro <= job.accepted_micro:
        return job, ()
    return replace(job, accepted_micro=amount_micro), (Pay(accepted_micro=amount_micro),)


def _bill_error(job: ClientJob, bill: Progress | Receipt) -> tuple[CutoffReason, str] | None:
    """Why this bill is not owed, or None if it is."""
    prompt = bill.tokens_in + bill.tokens_cached
    due = cost_at(replace(job, tokens_cached=bill.tokens_cached), job.tokens_out)
    if bill.award != job.digest:
        return CutoffReason.BAD_STATEMENT, "a bill that names another award"
    if prompt != job.award.tokens_in:
        return OVERBILLED, f"billed {prompt} prompt tokens, the prompt has {job.award.tokens_in}"
    if bill.tokens_out != job.tokens_out:
        return OVERBILLED, f"billed {bill.tokens_out} output tokens, delivered {job.tokens_out}"
    if bill.chain != job.chain:
        return CutoffReason.BAD_STATEMENT, "a bill for other tokens than were delivered"
    if bill.amount != due:
        return OVERBILLED, f"billed {bill.amount} micro where the terms come to {due}"
    if bill.amount > job.award.cap:
        return OVERBILLED, f"billed {bill.amount} micro over the cap of {job.award.cap}"
    return None


def _cap_reached(job: ClientJob) -> bool:
    return cost_at(job, job.tokens_out + 1) > job.award.cap
