"""Runs one segment at the client: `protocol.job_client` with its inputs and effects."""

import math
from dataclasses import dataclass
from typing import assert_never

import structlog
import trio

from node.errors import PeerError, SessionLost
from node.protocol import codec, job_client, logprobs, signing
from node.protocol.fields import Signed
from node.protocol.frames import (
    AcceptanceFrame,
    Chunk,
    CutoffFrame,
    End,
    ErrorFrame,
    Frame,
    ProgressFrame,
    ReceiptFrame,
    Refusal,
)
from node.protocol.job_client import ClientJob, Phase
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    CutoffReason,
    Progress,
    Receipt,
    Terms,
)
from node.protocol.transcript_checks import check_receipt_ending
from node.roles.answer import Answer
from node.roles.payer import Payer
from node.roles.ports import Channel, Clock
from node.roles.stores import ClientStore

log = structlog.get_logger("client")

ACCEPTANCE_S = 5.0
RECEIPT_S = 5.0
"""How long the receipt may take after the end, or after a cutoff."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchasePorts:
    """What every segment of a client shares."""

    domain: signing.Domain
    key: bytes
    payer: Payer
    store: ClientStore
    clock: Clock
    silence_s: float
    """No token for this long: the worker is cut off."""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Signed statements of a segment, as they came and went."""

    terms: Signed[Terms]
    award: Signed[Award]
    acceptance: Signed[Acceptance] | None = None
    progress: Signed[Progress] | None = None
    receipt: Signed[Receipt] | None = None
    cutoff: Signed[Cutoff] | None = None


class Purchase:
    """One segment, from the acceptance of its award to the last voucher."""

    def __init__(
        self,
        job: ClientJob,
        channel: Channel,
        answer: Answer,
        ports: PurchasePorts,
        *,
        evidence: Evidence,
    ) -> None:
        self.job = job
        self.evidence = evidence
        self._channel = channel
        self._answer = answer
        self._ports = ports
        self._wanted: tuple[int, bytes | None] | None = None
        """Payment to make: cumulative micro of the segment, and the receipt's digest."""
        self._pay_wake = trio.Event()
        self._over = False
        """All effects are performed: no further payment will be wanted."""
        self.accepted_s: float | None = None
        self.first_token_s: float | None = None
        self._last_s = 0.0
        self._seen = Evidence(terms=evidence.terms, award=evidence.award)
        """What arrived last, accepted or not."""
        self._logprobs: tuple[logprobs.TokenLogprob, ...] = ()

    async def run(self) -> ClientJob:
        """Until the segment has ended and every voucher for it is saved and on its way."""
        self._last_s = self._ports.clock.monotonic_s()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pay)
            while self.job.phase is not Phase.DONE:
                await self._turn()
            self._over = True
            self._pay_wake.set()
        return self.job

    async def cancel(self, reason: CutoffReason, why: str) -> None:
        """Accept nothing more; `run` goes on until the worker's receipt is there, or overdue."""
        await self._apply(job_client.GiveUp(reason=reason, why=why))

    async def _turn(self) -> None:
        frame: Frame | None = None
        try:
            with trio.move_on_after(self._patience_s()):
                frame = await self._channel.receive()
        except SessionLost as error:
            await self._apply(job_client.Gone(why=str(error)))
            return
        event = self._overdue() if frame is None else self._event_of(frame)
        if event is not None:
            await self._apply(event)

    def _patience_s(self) -> float:
        limit_s = {
            Phase.AWARDED: ACCEPTANCE_S,
            Phase.STREAMING: self._ports.silence_s,
            Phase.ENDED: RECEIPT_S,
            Phase.CUT: RECEIPT_S,
        }.get(self.job.phase, math.inf)
        return max(0.0, self._last_s + limit_s - self._ports.clock.monotonic_s())

    def _overdue(self) -> job_client.Event | None:
        if self._ports.clock.monotonic_s() < self._last_s:
            return None
        match self.job.phase:
            case Phase.AWARDED:
                why = f"no acceptance within {ACCEPTANCE_S:g} s"
                return job_client.GiveUp(reason=CutoffReason.STALLED, why=why)
            case Phase.STREAMING:
                why = f"no token for {self._ports.silence_s:g} s"
                return job_client.GiveUp(reason=CutoffReason.STALLED, why=why)
            case _:
                return job_client.ReceiptOverdue()

    def _event_of(self, frame: Frame) -> job_client.Event | None:
        try:
            return self._decoded(frame)
        except PeerError as error:
            return job_client.GiveUp(reason=CutoffReason.BAD_STATEMENT, why=str(error))

    def _decoded(self, frame: Frame) -> job_client.Event | None:
        worker, domain = self.job.terms.worker, self._ports.domain
        match frame:
            case AcceptanceFrame():
                acceptance = signing.verify(frame.acceptance, domain, worker)
                self._seen.acceptance = frame.acceptance
                return job_client.Accepted(acceptance=acceptance)
            case Refusal():
                return job_client.Refused(refusal=frame)
            case Chunk():
                return self._received(frame)
            case ProgressFrame():
                self._seen.progress = frame.progress
                return job_client.Progressed(
                    progress=signing.verify(frame.progress, domain, worker)
                )
            case End():
                return job_client.Ended(finish=frame.finish, position=frame.position)
            case ReceiptFrame():
                self._seen.receipt = frame.receipt
                receipt = signing.verify(frame.receipt, domain, worker)
                self._check_ending(receipt)
                return job_client.Receipted(receipt=receipt, digest=signing.digest(receipt, domain))
            case ErrorFrame():
                return job_client.Gone(why=f"the worker gave up: {frame.detail}")
            case _:
                raise PeerError(f"unexpected {type(frame).__name__} in a job")

    def _check_ending(self, receipt: Receipt) -> None:
        accepted, progress = self.evidence.acceptance, self.evidence.progress
        if accepted is None:
            raise PeerError("a receipt before the acceptance")
        last = progress.statement if progress is not None else None
        check_receipt_ending(accepted.statement, last, receipt)

    def _received(self, frame: Chunk) -> job_client.Received:
        ids = codec.unpack_ids(frame.data)
        self._logprobs = logprobs.decode(frame.logprobs, len(ids))
        done = self._answer.complete_after(ids) if self.job.complete is None else None
        count, finish = done if done is not None else (None, None)
        return job_client.Received(
            position=frame.position, ids=ids, complete_after=count, finish=finish
        )

    async def _apply(self, event: job_client.Event) -> None:
        before = self.job
        self.job, effects = job_client.step(before, event)
        now_s = self._ports.clock.monotonic_s()
        if effects or self.job.phase is not before.phase:
            self._last_s = now_s
        if before.phase is Phase.AWARDED and self.job.phase is Phase.STREAMING:
            self.accepted_s = now_s
        if self.job.cut is before.cut:
            await self._keep(event)
        for effect in effects:
            await self._perform(effect, now_s)

    async def _keep(self, event: job_client.Event) -> None:
        """Statements that were accepted are evidence, and on disk before they are paid."""
        store, seen, kept = self._ports.store, self._seen, self.evidence
        match event:
            case job_client.Accepted():
                assert seen.acceptance is not None
                kept.acceptance = seen.acceptance
                await store.save_acceptance(seen.acceptance)
            case job_client.Progressed() if self.job.phase is Phase.STREAMING:
                assert seen.progress is not None
                kept.progress = seen.progress
                await store.save_progress(seen.progress)
            case job_client.Receipted() if self.job.receipt is not None:
                assert seen.receipt is not None
                kept.receipt = seen.receipt
                await store.save_receipt(seen.receipt)

    async def _perform(self, effect: job_client.Effect, now_s: float) -> None:
        match effect:
            case job_client.Show(ids=ids):
                self.first_token_s = self.first_token_s or now_s
                self._answer.accept(ids, self._logprobs[: len(ids)])
            case job_client.Pay(accepted_micro=accepted_micro, receipt=receipt):
                self._wanted = (accepted_micro, receipt)
                self._pay_wake.set()
            case job_client.Cut(cutoff=cutoff):
                await self._cut(cutoff)
            case _:
                assert_never(effect)

    async def _cut(self, cutoff: Cutoff) -> None:
        signed = signing.sign(cutoff, self._ports.domain, self._ports.key)
        await self._ports.store.save_cutoff(signed)
        self.evidence.cutoff = signed
        try:
            await self._channel.send(CutoffFrame(job=self.job.award.job, cutoff=signed))
        except SessionLost as error:
            log.info("cutoff not delivered", reason=str(error))

    async def _pay(self) -> None:
        """Vouchers follow delivery without holding it up; only the latest amount matters."""
        award = self.job.award
        while self._wanted is not None or not self._over:
            await self._pay_wake.wait()
            self._pay_wake = trio.Event()
            if self._wanted is None:
                continue
            (accepted_micro, receipt), self._wanted = self._wanted, None
            await self._ports.payer.pay(
                job=award.job,
                attempt=award.attempt,
                accepted_micro=accepted_micro,
                receipt=receipt,
            )
