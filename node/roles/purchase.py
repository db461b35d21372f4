"""Runs one segment at the client: `protocol.job_client` with its inputs and effects."""

from dataclasses import dataclass, field, replace
from typing import Protocol, assert_never

import structlog
import trio

from node.errors import NodeError, PeerError, SessionLost
from node.protocol import job_client, signing
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
from node.protocol.logprobs import TokenLogprob
from node.protocol.scoring import Figures
from node.protocol.segment_times import check_clocks, check_receipt_ending
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    CutoffReason,
    Progress,
    Receipt,
    Terms,
)
from node.roles.answer import AnyAnswer
from node.roles.deliveries import Deliveries
from node.roles.payer import Payer
from node.roles.ports import Channel, Clock
from node.roles.stores import ClientStore
from node.roles.vigil import Vigil

log = structlog.get_logger("client")

CUTOFF_S = 2.0
"""How long a cutoff may wait for a worker that reads nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchasePorts:
    """What every segment of a client shares."""

    domain: signing.Domain
    key: bytes
    payer: Payer
    store: ClientStore
    clock: Clock
    silence_s: float
    """No token for this long: the worker is cut off, even where nobody else could go on.  For the
    first one its promise is added."""
    deliveries: Deliveries = field(default_factory=Deliveries)


class Overseer(Protocol):
    """Who decides which of a job's purchases goes on."""

    def takes(self) -> bool:
        """The worker has accepted: whether it has the job, or another one was faster."""
        ...

    def replaceable(self) -> bool:
        """Another worker is at hand that would go on."""
        ...

    def changed(self) -> None:
        """The acceptance came, or output has ended; must be quick."""
        ...


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
        answer: AnyAnswer,
        ports: PurchasePorts,
        *,
        evidence: Evidence,
        expected: Figures,
        overseer: Overseer,
    ) -> None:
        """
        Args:
            job: As its award leaves.
            channel: To the worker.
            answer: Where accepted output goes.
            ports: Shared by all segments.
            evidence: Gathers the statements; terms and award are there.
            expected: How fast the worker should be.
            overseer: Asked whether the worker has the job, and told of its end.
        """
        self.job = job
        self.evidence = evidence
        self._channel = channel
        self._answer = answer
        self._ports = ports
        self._overseer = overseer
        self._vigil = Vigil(
            clock=ports.clock,
            deliveries=ports.deliveries,
            worker=job.terms.worker,
            silence_s=ports.silence_s,
            expected=expected,
            replaceable=overseer.replaceable,
            prepaid_micro=job.prepaid_micro,
        )
        self._wanted: tuple[int, bytes | None] | None = None
        """Payment to make: cumulative micro of the segment, and the receipt's digest."""
        self._pay_wake = trio.Event()
        self._acceptance_kept = trio.Event()
        """On disk: nothing is paid before."""
        self._nursery: trio.Nursery
        self._over = False
        """All effects are performed: no further payment will be wanted."""
        self._turns = trio.Lock()
        """One event at a time, with all that follows from it: `cancel` comes from another task."""
        self._waiting = trio.CancelScope()
        self._failure: NodeError | None = None
        self._seen = Evidence(terms=evidence.terms, award=evidence.award)
        """What arrived last, accepted or not."""
        self._logprobs: tuple[TokenLogprob, ...] = ()

    async def run(self) -> ClientJob:
        """Until the segment has ended and every voucher for it is saved and on its way.

        Raises:
            WalletError: The deposit no longer covers what was accepted.
            StoreFailed, CorruptState: Signing has stopped; nothing unsaved was sent.
        """
        self._vigil.stirred()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._pay)
            try:
                while self.job.phase is not Phase.DONE:
                    await self._turn()
                async with self._turns:  # what a cancel began is done before this returns
                    self._over = True
                    self._pay_wake.set()
            except NodeError as error:  # raised again outside, where no group wraps it
                self._failure = error
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return self.job

    async def cancel(self, reason: CutoffReason, why: str) -> None:
        """Accept nothing more; `run` goes on until the worker's receipt is there, or overdue."""
        async with self._turns:
            if self._failure is None:
                await self._apply(job_client.GiveUp(reason=reason, why=why))
                self._waiting.cancel()  # what is waited for now is another thing

    async def settle(self) -> None:
        """Wait for no receipt any more: the worker's part has ended and the job goes on without."""
        async with self._turns:
            if self._failure is None and not self.job.delivering:
                await self._apply(job_client.ReceiptOverdue())
                self._waiting.cancel()

    @property
    def first_token_s(self) -> float | None:
        """When the first output came, monotonic."""
        return self._vigil.first_token_s

    @property
    def last_token_s(self) -> float | None:
        """When the last output came, monotonic."""
        return self._vigil.last_token_s

    @property
    def over(self) -> bool:
        """No more output will be accepted, and whatever cutoff says so is saved."""
        signed = self.job.cut is None or self.evidence.cutoff is not None
        return not self.job.delivering and signed

    async def _turn(self) -> None:
        frame: Frame | None = None
        lost = ""
        due_s = self._vigil.due_s(self.job)
        try:
            left_s = due_s - self._ports.clock.monotonic_s()
            with trio.move_on_after(max(0.0, left_s)) as self._waiting:
                frame = await self._channel.receive()
        except SessionLost as error:
            lost = str(error) or "connection lost"
        async with self._turns:
            event: job_client.Event | None = job_client.Gone(why=lost)
            if not lost:
                event = self._read(frame, due_s)
            if event is not None:
                await self._apply(event)

    def _read(self, frame: Frame | None, due_s: float) -> job_client.Event | None:
        if frame is None:
            return self._vigil.overdue(self.job, due_s)
        return self._event_of(frame)

    def _event_of(self, frame: Frame) -> job_client.Event | None:
        try:
            return self._decoded(frame)
        except PeerError as error:
            data = isinstance(frame, Chunk)
            reason = CutoffReason.BAD_DATA if data else CutoffReason.BAD_STATEMENT
            return job_client.GiveUp(reason=reason, why=str(error))

    def _decoded(self, frame: Frame) -> job_client.Event | None:
        worker, domain = self.job.terms.worker, self._ports.domain
        match frame:
            case AcceptanceFrame():
                acceptance = signing.verify(frame.acceptance, domain, worker)
                check_clocks(self.job.award, acceptance)
                if self.job.phase is Phase.AWARDED and not self._overseer.takes():
                    why = "another worker was faster"
                    return job_client.GiveUp(reason=CutoffReason.STALLED, why=why)
                self._seen.acceptance = frame.acceptance
                return job_client.Accepted(acceptance=acceptance)
            case Refusal():
                return job_client.Refused(refusal=frame)
            case Chunk():
                return self._received(frame)
            case ProgressFrame():
                self._seen.progress = frame.progress
                progress = signing.verify(frame.progress, domain, worker)
                self._check_going_on(progress)
                return job_client.Progressed(progress=progress)
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

    def _check_going_on(self, progress: Progress) -> None:
        accepted = self.evidence.acceptance
        if accepted is None:
            raise PeerError("a running total before the acceptance")
        if progress.at_ms < accepted.statement.accepted_ms:
            raise PeerError("the running total is older than the acceptance")

    def _check_ending(self, receipt: Receipt) -> None:
        accepted, progress = self.evidence.acceptance, self.evidence.progress
        if accepted is None:
            raise PeerError("a receipt before the acceptance")
        last = progress.statement if progress is not None else None
        check_receipt_ending(accepted.statement, last, receipt)
        if last is not None and last.tokens_cached != receipt.tokens_cached:
            raise PeerError("receipt and running total differ in cached tokens")

    def _received(self, frame: Chunk) -> job_client.Received:
        job = self.job
        if job.phase is not Phase.STREAMING or job.complete or frame.position != job.position:
            # Won't be accepted: it must not touch the answer.
            return job_client.Received(position=frame.position, items=())
        items = self._answer.read(frame.data)
        plain = job_client.Received(position=frame.position, items=items)
        self._logprobs = self._answer.read_logprobs(frame.logprobs, len(items))
        done = self._answer.complete_after(items)
        if done is None:
            return plain
        return replace(plain, complete_after=done[0], finish=done[1])

    async def _apply(self, event: job_client.Event) -> None:
        before = self.job
        self.job, effects = job_client.step(before, event)
        if self.job.cut is before.cut:
            await self._keep(event, before.phase)
        for effect in effects:
            await self._perform(effect)
        if effects or self.job.phase is not before.phase:
            self._vigil.stirred()  # only now: what this side took for it is not the worker's
        if self.job.phase is not before.phase:
            self._overseer.changed()

    async def _keep(self, event: job_client.Event, phase: Phase) -> None:
        """Statements that were accepted are evidence, and on disk before they are paid."""
        store, seen, kept = self._ports.store, self._seen, self.evidence
        match event:
            case job_client.Accepted() if phase is Phase.AWARDED:
                assert seen.acceptance is not None
                kept.acceptance = seen.acceptance
                self._nursery.start_soon(self._keep_acceptance, seen.acceptance)
            case job_client.Progressed() if self.job.phase is Phase.STREAMING:
                assert seen.progress is not None
                kept.progress = seen.progress
                await store.save_progress(seen.progress)
            case job_client.Receipted() if self.job.receipt is not None:
                assert seen.receipt is not None
                kept.receipt = seen.receipt
                await store.save_receipt(seen.receipt)

    async def _keep_acceptance(self, acceptance: Signed[Acceptance]) -> None:
        """Beside the first output, which it does not hold up; only payment waits for it."""
        try:
            await self._ports.store.save_acceptance(acceptance)
            self._acceptance_kept.set()
        except NodeError as error:
            self._failure = error
            self._nursery.cancel_scope.cancel()

    async def _perform(self, effect: job_client.Effect) -> None:
        match effect:
            case job_client.Show(items=items):
                self._vigil.delivered()
                self._answer.accept(items, self._logprobs[: len(items)])
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
        self._overseer.changed()  # whoever goes on need not wait until this worker reads it
        try:
            with trio.fail_after(CUTOFF_S):
                await self._channel.send(CutoffFrame(job=self.job.award.job, cutoff=signed))
        except (SessionLost, trio.TooSlowError) as error:
            log.info("cutoff not delivered", reason=str(error) or "the worker reads nothing")

    async def _pay(self) -> None:
        """Vouchers follow delivery without holding it up; only the latest amount matters."""
        award = self.job.award
        while self._wanted is not None or not self._over:
            await self._pay_wake.wait()
            self._pay_wake = trio.Event()
            if self._wanted is None:
                continue
            if self.evidence.acceptance is not None:
                await self._acceptance_kept.wait()
            (accepted_micro, receipt), self._wanted = self._wanted, None
            try:
                await self._ports.payer.pay(
                    job=award.job,
                    attempt=award.attempt,
                    accepted_micro=accepted_micro,
                    receipt=receipt,
                )
            except NodeError as error:
                self._failure = error
                self._nursery.cancel_scope.cancel()
            if self._vigil.vouchered(self.job, accepted_micro):
                self._waiting.cancel()
