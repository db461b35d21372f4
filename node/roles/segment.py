"""Runs one segment at the worker: `protocol.job_worker` with its inputs and effects."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import assert_never

import structlog
import trio

from node.errors import NodeError, PeerError, SessionLost, Unavailable
from node.protocol import codec, job_worker, logprobs, pieces, signing
from node.protocol.chain_hash import TextChain
from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import (
    AcceptanceFrame,
    CutoffFrame,
    ErrorFrame,
    Frame,
    ProgressFrame,
    ReceiptFrame,
    RequestData,
)
from node.protocol.job_worker import Phase, WorkerJob
from node.protocol.pieces import Item
from node.protocol.statements import Acceptance, Cutoff, Finish, Progress, Receipt, Tier
from node.protocol.text_output import TextOutput
from node.roles import requests
from node.roles.files import Aside
from node.roles.generation import Engine, EngineModel, GenerationRequest, TokenStep
from node.roles.payee import Payee
from node.roles.ports import Channel, Clock
from node.roles.stores import WorkerStore

log = structlog.get_logger("worker")

EVENTS_MAX = 64
PAYER_CHECKED_EVERY_S = 5.0
LONG_BYTES = 16 * 1024
"""Text above this is counted off the loop: some thousand tokens take 10 ms and more."""
FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentPorts:
    """What every segment of a worker shares."""

    domain: signing.Domain
    key: bytes
    engine: Engine
    payee: Payee
    store: WorkerStore
    clock: Clock
    started: Callable[[Hash], bool]
    """Told that an award's request is here; False if its reservation has expired."""
    reservation_s: float
    """How long the request may take to arrive."""
    payment_s: float
    """How long a missing voucher, or a reader that takes nothing, holds the slot."""
    aside: Aside = trio.to_thread.run_sync
    """Where a long prompt of tier text is counted: off the loop, where there are threads."""


class Segment:
    """One segment from acceptance to its last voucher."""

    def __init__(
        self, job: WorkerJob, channel: Channel, ports: SegmentPorts, *, sold: EngineModel
    ) -> None:
        """
        Args:
            job: As awarded.
            channel: The client's.
            ports: What all segments share.
            sold: The model, as it was when the terms were signed.
        """
        self.job = job
        self._channel = channel
        self._ports = ports
        self._sold = sold
        self._text: TextOutput | None = None
        """In tier text: cuts and counts what the engine writes."""
        self._prefix: TextChain | None = None
        """In tier text: the chain after the request's prefix."""
        self._body = io.BytesIO()
        self._delivered: list[Item] = []
        """What of this segment went out: a cutoff names a position in it."""
        self._made: list[Item] = []
        self._made_logprobs: list[bytes] = []
        self._tokens_cached = 0
        # None says that `_made` has something.
        self._outbox, self._inbox = trio.open_memory_channel[job_worker.Event | None](EVENTS_MAX)
        self._engine_scope = trio.CancelScope()
        self._room = trio.Event()
        self._cutoff: Signed[Cutoff] | None = None
        """As it came: kept if it is taken."""
        self._lost = False
        self._accepted = trio.Event()
        """The acceptance has left, after its save; what follows it on the channel waits for it."""
        self._patience = _Patience(ports.clock.monotonic_s())
        self._nursery: trio.Nursery
        self._failure: NodeError | None = None

    async def run(self, client: Address) -> WorkerJob:
        """Until nothing is left to do; the result says how it ended.

        Raises:
            PeerError: The client broke the protocol; the segment is over, its statements saved.
            StoreFailed, CorruptState: The disk failed; nothing unsaved was sent.
        """
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._read, client)
            self._nursery.start_soon(self._watch_payments)
            self._nursery.start_soon(self._watch_payer)
            try:
                await self._apply(job_worker.Awarded())
                while self.job.phase is not Phase.DONE:
                    await self._apply(await self._next_event())
            except NodeError as error:  # raised again outside, where no group wraps it
                self._failure = error
            self._nursery.cancel_scope.cancel()
        self._ports.payee.ended(self.job.digest, earned_micro=self.job.earned_micro)
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # it holds the frames that it came through, and the request in them
        return self.job

    def drain(self) -> None:
        """End soon, with a receipt for what was delivered: this worker is stopping."""
        event = job_worker.Stopped(finish=Finish.DRAINED)
        self._nursery.start_soon(self._outbox.send, event)

    async def _next_event(self) -> job_worker.Event:
        left_s = self._patience_s()
        if left_s == math.inf:  # while the engine works: a scope costs more than the event
            return await self._next_told()
        with trio.move_on_after(left_s):
            return await self._next_told()
        if self.job.phase is Phase.RUNNING:
            return job_worker.Stopped(finish=Finish.UNPAID)
        return job_worker.Gone()

    async def _next_told(self) -> job_worker.Event:
        event = await self._inbox.receive()
        return event if event is not None else self._take_made()

    def _patience_s(self) -> float:
        """Seconds until the client's silence ends the wait; no limit while the engine works."""
        limit_s = self._ports.payment_s
        if self.job.phase is Phase.REQUEST:
            limit_s = self._ports.reservation_s
        return self._patience.left_s(self.job, limit_s, self._ports.clock.monotonic_s())

    def _take_made(self) -> job_worker.Generated:
        """All that the engine made since the last turn goes out together: one chunk, one write."""
        items, told = tuple(self._made), tuple(self._made_logprobs)
        self._made, self._made_logprobs = [], []
        return job_worker.Generated(items=items, logprobs=told, tokens_cached=self._tokens_cached)

    async def _apply(self, event: job_worker.Event) -> None:
        before = self.job
        self.job, effects = job_worker.step(before, event, self._ports.clock.unix_ms())
        self._patience.note(before, self.job, self._ports.clock.monotonic_s())
        for effect in effects:
            await self._perform(effect)
        if not self.job.held:
            self._room.set()

    async def _perform(self, effect: job_worker.Effect) -> None:
        match effect:
            case job_worker.Issue(statement=statement):
                await self._issue(statement)
            case job_worker.Emit(frame=frame, items=items):
                self._delivered += items
                await self._send(frame)
            case job_worker.CheckRequest():
                await self._check_request()
            case job_worker.KeepCutoff():
                assert self._cutoff is not None
                await self._ports.store.save_cutoff(self._cutoff)
            case job_worker.StopEngine():
                self._engine_scope.cancel()
            case _:
                assert_never(effect)

    async def _issue(self, statement: Acceptance | Progress | Receipt) -> None:
        """Sign, save, send: in this order, so that a crash never unsays what a client has read."""
        ports, job = self._ports, self.job.award.job
        match statement:
            case Acceptance():
                # Saved beside the request's arrival and the prefill: nothing else leaves before it.
                acceptance = signing.sign(statement, ports.domain, ports.key)
                self._nursery.start_soon(self._accept, acceptance)
            case Progress():
                progress = signing.sign(statement, ports.domain, ports.key)
                await ports.store.save_progress(progress)
                await self._send(ProgressFrame(job=job, progress=progress))
            case Receipt():
                receipt = signing.sign(statement, ports.domain, ports.key)
                digest = signing.digest(statement, ports.domain)
                await ports.store.save_receipt(receipt, digest=digest)
                ports.payee.ended(self.job.digest, earned_micro=statement.amount, receipt=digest)
                await self._send(ReceiptFrame(job=job, receipt=receipt))

    async def _accept(self, acceptance: Signed[Acceptance]) -> None:
        """Save and send the acceptance."""
        try:
            await self._ports.store.save_acceptance(acceptance)
            await self._put(AcceptanceFrame(job=self.job.award.job, acceptance=acceptance))
        except NodeError as error:  # raised again in `run`, where no group wraps it
            self._failure, self._lost = error, True
        self._accepted.set()
        if self._lost:
            await self._outbox.send(job_worker.Gone())

    async def _send(self, frame: Frame) -> None:
        """Send, after the acceptance; a client that is lost meanwhile ends the segment."""
        await self._accepted.wait()
        if self._lost:
            return  # what was to follow on the frame that did not go out
        await self._put(frame)
        if self._lost:
            await self._apply(job_worker.Gone())

    async def _put(self, frame: Frame) -> None:
        """Give a frame to the channel; a reader that grants no credit for too long is lost."""
        try:
            with trio.fail_after(self._ports.payment_s):
                await self._channel.send(frame)
        except (trio.TooSlowError, SessionLost) as error:
            self._lost = True
            log.info("client lost", job=self._channel.job.hex(), reason=str(error) or "stalled")

    async def _check_request(self) -> None:
        body = self._body.getvalue()  # no copy: the two share it
        self._body = io.BytesIO()
        if signing.keccak256(body) != self.job.award.request:
            raise PeerError("a request that does not match its hash")
        checked = await self._checked(body)
        if not self._ports.started(self.job.digest):
            await self._apply(job_worker.Gone())
            return
        self._prefix = checked.text
        await self._apply(job_worker.RequestChecked(text=checked.text))
        self._nursery.start_soon(self._generate, checked.generation)

    async def _checked(self, body: bytes) -> requests.Checked:
        request, job = codec.decode_request(body), self.job
        if job.terms.tier != Tier.TEXT:
            long, check = len(request.format), partial(requests.in_ids, job, request)
        else:
            assert self._sold.count is not None, "an engine of tier text counts"
            self._text = TextOutput(count=self._sold.count, stops=request.stop)
            long, check = len(body), partial(requests.in_text, job, request, self._sold.count)
        return await self._ports.aside(check) if long > LONG_BYTES else check()

    async def _generate(self, request: GenerationRequest) -> None:
        finish = Finish.FAILED
        with self._engine_scope:
            try:
                async with self._ports.engine.generate(request) as steps:
                    async for made in steps:
                        finish = FINISH[made.finish] if made.finish else finish
                        await self._post_step(made)
                        if self._text is not None and self._text.ended:
                            finish = Finish.STOP
                            break
            except Unavailable as error:
                log.warning("engine failed", job=self._channel.job.hex(), reason=str(error))
                finish = Finish.FAILED
            except PeerError as error:  # a prompt that the model has no tokens or no room for
                self._failure = error
                await self._outbox.send(job_worker.Gone())
                return
            await self._outbox.send(job_worker.Stopped(finish=finish))

    async def _post_step(self, made: TokenStep) -> None:
        self._tokens_cached = made.tokens_cached
        if self._text is None:
            records = [logprobs.encode((each,)) for each in made.logprobs]
            await self._post(made.ids, records)
            return
        items = self._text.push(made.text)
        await self._post(items if made.finish is None else (*items, *self._text.close()), [])

    async def _post(self, items: tuple[Item, ...], records: list[bytes]) -> None:
        """Hand over output; wait while what was made before still waits for payment."""
        if items:
            first = not self._made
            self._made += items
            self._made_logprobs += records
            if first:
                await self._outbox.send(None)
        while self.job.held:
            self._room = trio.Event()
            await self._room.wait()

    async def _read(self, client: Address) -> None:
        try:
            while True:
                frame = await self._channel.receive()
                await self._outbox.send(self._event_of(frame, client))
        except SessionLost:
            await self._outbox.send(job_worker.Gone())
        except PeerError as error:
            self._failure = error
            await self._outbox.send(job_worker.Gone())

    def _event_of(self, frame: Frame, client: Address) -> job_worker.Event:
        match frame:
            case RequestData():
                if self._body.tell() + len(frame.data) > self.job.award.request_bytes:
                    raise PeerError("more request data than announced")
                self._body.write(frame.data)
                return job_worker.RequestPart(offset=frame.offset, size=len(frame.data))
            case CutoffFrame():
                if self._cutoff is not None:
                    raise PeerError("a second cutoff of one segment")
                self._cutoff = frame.cutoff
                cutoff = signing.verify(frame.cutoff, self._ports.domain, client)
                tokens = max(0, cutoff.position - self.job.award.position)
                return job_worker.CutOff(cutoff=cutoff, chain_here=self._chain_after(tokens))
            case ErrorFrame():
                return job_worker.Gone()
            case _:
                raise PeerError(f"unexpected {type(frame).__name__} in a job")

    def _chain_after(self, tokens: int) -> Hash:
        """This worker's chain hash at a position of the segment.

        Raises:
            PeerError: The position is within a piece of text.
        """
        items = self._delivered[: pieces.fitting(self._delivered, tokens)]
        if pieces.tokens_of(items) < min(tokens, self.job.tokens_out):
            raise PeerError("a cutoff within a piece")
        return pieces.grown(self.job.award.chain, self._prefix, items)[0]

    async def _watch_payments(self) -> None:
        paid_micro = 0
        while True:
            paid_micro = await self._ports.payee.wait_paid_above(self.job.digest, paid_micro)
            await self._outbox.send(job_worker.Paid(total_micro=paid_micro))

    async def _watch_payer(self) -> None:
        """Stop in time before the payer's deposit leaves."""
        while True:
            await trio.sleep(PAYER_CHECKED_EVERY_S)
            problem = self._ports.payee.problem(self.job.award)
            if problem is not None:
                log.info("segment stopped", job=self._channel.job.hex(), reason=problem.name)
                await self._outbox.send(job_worker.Stopped(finish=Finish.UNPAID))
                return


class _Patience:
    """How long the client has kept this segment waiting."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        """Start of the phase."""
        self._looked_s = now_s
        self._blocked_s = 0.0
        """Time that output waited for payment, since the last that was worth the name."""
        self._paid_micro = 0
        """Paid at that time."""

    def note(self, before: WorkerJob, after: WorkerJob, now_s: float) -> None:
        """An event was taken.

        Micro by micro a client could hold a slot for almost nothing: only half a quantum buys new
        patience.  One that pays its bills pays that much whenever output waits for it.
        """
        if after.phase is not before.phase:
            self._since_s = now_s
        if before.blocked:
            self._blocked_s += now_s - self._looked_s
        if after.paid_micro - self._paid_micro >= max(1, after.terms.quantum // 2):
            self._blocked_s, self._paid_micro = 0.0, after.paid_micro
        self._looked_s = now_s

    def left_s(self, job: WorkerJob, limit_s: float, now_s: float) -> float:
        """What is left of `limit_s`; infinite where the client is not waited for."""
        if job.phase is Phase.RUNNING:
            if not job.blocked:
                return math.inf
            return max(0.0, limit_s - self._blocked_s - (now_s - self._looked_s))
        return max(0.0, limit_s - (now_s - self._since_s))
