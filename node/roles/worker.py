"""The worker's side of jobs: check each award, refuse it with a reason or run its segment."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio

from node.config import WorkerConfig
from node.errors import PeerError, SessionLost, Unavailable
from node.protocol import job_worker, limits, signing
from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import AwardFrame, ErrorFrame, Fault, Frame, Refusal, Refused
from node.protocol.statements import Award, Terms
from node.roles.disowned import Disowned
from node.roles.dispatch import Handlers
from node.roles.generation import EngineModel
from node.roles.ports import Channel, Inbound, Session
from node.roles.quotas import Quota, Quotas
from node.roles.segment import Segment, SegmentPorts
from node.roles.seller import Seller
from node.roles.stores import Duplicate

log = structlog.get_logger("worker")

AWARDS_PENDING_MAX = 1024
"""Awards being checked or run at once, over all peers: a bound on tasks, above the slots.  Of a
gateway's thousand streams, two workers have 500 each when the third one dies."""
AWARDS = Quota(burst=128, per_s=32, overrun_max=1024)
AWARDS_ALL = Quota(burst=1024, per_s=256, overrun_max=0)
"""In awards: a signature check, and with a refusal the signing of fresh terms (0.2 ms).  Those that
were paid for are given back; twice as many as a client may have open it may send at once."""
REPLY_S = 5.0
"""How long a refusal may wait for a peer that does not read."""
PREPAY_S = 2.0
"""Vouchers that were on their way before the award's own may arrive after it, within this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why an award is refused."""

    code: Refused
    detail: str = ""
    lock_total: int = 0


UNKNOWN_TERMS = Objection(code=Refused.TERMS_UNKNOWN, detail="terms unknown or expired")
NOT_NOW = Objection(code=Refused.MODEL_UNKNOWN, detail="the model is not available now")
NO_CONTINUATION = Objection(
    code=Refused.NO_CONTINUATION, detail="what runs the model here would begin anew"
)
RATE_LIMITED = Objection(code=Refused.RATE_LIMITED, detail="too many awards")
TOO_MANY = Objection(code=Refused.BUSY, detail="too many jobs of this client")
DETAIL_MAX = 100


class Worker:
    """Takes awards and serves them."""

    def __init__(self, *, ports: SegmentPorts, seller: Seller, config: WorkerConfig) -> None:
        self._ports = ports
        self._seller = seller
        self._config = config
        self._address = signing.address_of_key(ports.key)
        burst = max(AWARDS.burst, 2 * config.jobs_per_client_max)
        self._quotas = Quotas(replace(AWARDS, burst=burst), total=AWARDS_ALL)
        self._pending: Counter[Address] = Counter()
        """Awards being checked or run, by client."""
        self._disowned = Disowned(allowance_micro=config.quantum_micro)
        self._active: dict[Hash, Segment] = {}
        self._idle = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.awards = 0
        """That came, since the start."""
        self.handlers: Handlers = {AwardFrame: self._on_award}

    @property
    def active(self) -> int:
        """Segments being served now."""
        return len(self._active)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Segments live in this task."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def wait_idle(self) -> None:
        """Return once no segment is being served: the end of a drain."""
        while self._active:
            self._idle = trio.Event()
            await self._idle.wait()

    def end_all(self) -> None:
        """End what is being served, each with a receipt for what was delivered."""
        for segment in self._active.values():
            segment.drain()

    async def _on_award(self, session: Session, inbound: Inbound) -> None:
        frame, channel = inbound.frame, inbound.channel
        assert isinstance(frame, AwardFrame)
        assert channel is not None
        assert self._nursery is not None
        self.awards += 1
        if not self._quotas.spend(session.peer, 1, self._ports.clock.monotonic_s()):
            await self._refuse(channel, frame.award.statement, None, RATE_LIMITED)
            return
        award = signing.verify(frame.award, self._ports.domain, session.peer)
        if award.client != session.peer or award.worker != self._address or award.job != frame.job:
            raise PeerError("an award for somebody else")
        if self._pending.total() >= AWARDS_PENDING_MAX:
            await self._refuse(channel, award, None, Objection(code=Refused.BUSY))
            return
        if self._pending[session.peer] >= self._config.jobs_per_client_max:
            await self._refuse(channel, award, None, TOO_MANY)
            return
        self._pending[session.peer] += 1
        self._nursery.start_soon(partial(self._serve, session, channel, frame))

    async def _serve(self, session: Session, channel: Channel, frame: AwardFrame) -> None:
        award = frame.award.statement
        digest = signing.digest(award, self._ports.domain)
        terms = self._seller.terms_for(award.terms)
        try:
            with ExitStack() as undo:
                sold = self._seller.sold(award.terms)
                objection = await self._admit(session, frame, terms, sold, digest, undo)
                if objection is None and terms is not None and sold is not None:
                    job = job_worker.start(award, digest, terms.statement)
                    await self._run(session, channel, job, sold)
                    return
            await self._refuse(channel, award, terms, objection or UNKNOWN_TERMS)
        except PeerError as error:
            log.info("session closed", peer=signing.checksum(session.peer), reason=str(error))
            session.close(str(error))
        finally:
            channel.close()
            self._pending[session.peer] -= 1
            if not self._pending[session.peer]:
                del self._pending[session.peer]

    async def _run(
        self, session: Session, channel: Channel, job: job_worker.WorkerJob, sold: EngineModel
    ) -> None:
        segment = self._active[job.digest] = Segment(job, channel, self._ports, sold=sold)
        try:
            await segment.run(session.peer)
        finally:
            del self._active[job.digest]
            self._idle.set()
            self._note(segment.job)
        if segment.job.ending is None:
            late = ErrorFrame(job=channel.job, code=Fault.LIMIT, detail="the client is too late")
            await self._tell(channel, late)

    def _note(self, job: job_worker.WorkerJob) -> None:
        """Remember what a segment that has ended, however it did, says of its payer."""
        if job.paid_micro:  # a gateway may well ask for more than a stranger
            self._quotas.give_back(job.award.client, 1)
        self._disowned.note(
            job.award.payer,
            disowned_micro=job.disowned_micro,
            paid_micro=job.paid_micro,
            now_s=self._ports.clock.monotonic_s(),
        )
        log.info(
            "segment ended",
            job=job.award.job.hex(),
            tokens_out=job.tokens_out,
            earned_micro=job.earned_micro,
            paid_micro=job.paid_micro,
            finish=job.ending.name.lower() if job.ending else "lost",
        )

    async def _admit(
        self,
        session: Session,
        frame: AwardFrame,
        terms: Signed[Terms] | None,
        sold: EngineModel | None,
        digest: Hash,
        undo: ExitStack,
    ) -> Objection | None:
        """Check everything that may be refused, cheapest first, then reserve and save.

        What was taken on is given back by `undo`: at once if a later check objects.
        """
        if terms is None:
            return UNKNOWN_TERMS
        if sold is None:
            return NOT_NOW
        award, payee = frame.award.statement, self._ports.payee
        objection = self._objection(award, terms.statement, sold)
        if objection is not None:
            return objection
        if terms.statement.prepay and frame.voucher is None:
            return Objection(code=Refused.PREPAY_REQUIRED)
        refused = await payee.admit(award=award, terms=terms.statement)
        if refused is not None:
            return Objection(
                code=refused.code, detail=refused.detail, lock_total=refused.lock_total
            )
        undo.callback(payee.ended, digest, earned_micro=0)
        if not self._seller.reserve(digest):
            return Objection(code=Refused.BUSY)
        undo.callback(self._seller.free, digest)
        try:
            await self._ports.store.begin_segment(
                digest=digest, award=frame.award, terms=terms, at_ms=self._ports.clock.unix_ms()
            )
        except Duplicate:
            return Objection(code=Refused.DUPLICATE)
        return await self._prepaid(session, frame, terms.statement, digest)

    async def _prepaid(
        self, session: Session, frame: AwardFrame, terms: Terms, digest: Hash
    ) -> Objection | None:
        """Take the award's voucher; it has to bring what the terms ask for."""
        payee = self._ports.payee
        if frame.voucher is None:
            return None
        try:
            await payee.on_voucher(session.peer, frame.voucher)
        except Unavailable as error:
            return Objection(code=Refused.CHAIN_UNAVAILABLE, detail=str(error)[:DETAIL_MAX])
        with trio.move_on_after(PREPAY_S):
            await payee.wait_paid_above(digest, terms.prepay - 1)
            return None
        return Objection(code=Refused.PREPAY_REQUIRED, detail="the voucher brings less")

    def _objection(self, award: Award, terms: Terms, sold: EngineModel) -> Objection | None:
        if self._seller.draining:
            return Objection(code=Refused.DRAINING)
        blocked = {entry.lower() for entry in self._config.block}
        if blocked & {f"0x{award.client.hex()}", f"0x{award.payer.hex()}"}:
            return Objection(code=Refused.BLOCKED)
        if self._disowned.exceeded(award.payer, self._ports.clock.monotonic_s()):
            return Objection(code=Refused.UNPAID, detail="too much was delivered and disowned")
        if award.position and not sold.continues:
            return NO_CONTINUATION
        if award.tokens_in + award.output_max > terms.context_max:
            return Objection(code=Refused.CONTEXT_TOO_LONG)
        if not 0 < award.output_max <= terms.output_max:
            return Objection(code=Refused.BAD_REQUEST, detail="output limit outside the terms")
        if not 0 < award.request_bytes <= limits.REQUEST_BYTES_MAX:
            return Objection(code=Refused.BAD_REQUEST, detail="size of the request")
        job = job_worker.start(award, bytes(32), terms)
        first_micro = job.cost_at(1)
        if award.cap < first_micro:
            return Objection(code=Refused.PRICE_TOO_LOW, detail="the cap buys no token")
        if first_micro - terms.prepay > terms.quantum:
            return Objection(code=Refused.PREPAY_REQUIRED, detail="the prompt exceeds the quantum")
        return None

    async def _refuse(
        self, channel: Channel, award: Award, terms: Signed[Terms] | None, why: Objection
    ) -> None:
        log.info("award refused", job=award.job.hex(), code=why.code.name, detail=why.detail)
        offer = None
        if terms is not None:
            offer = self._seller.fresh_offer(terms.statement.model, tokens_in=award.tokens_in)
        refusal = Refusal(
            job=channel.job,
            subject=signing.digest(award, self._ports.domain),
            code=why.code,
            detail=why.detail,
            offer=offer,
            lock_total=why.lock_total,
        )
        await self._tell(channel, refusal)
        channel.close()

    async def _tell(self, channel: Channel, frame: Frame) -> None:
        """Send a last frame, to a peer that may not read."""
        try:
            with trio.move_on_after(REPLY_S):
                await channel.send(frame)
        except SessionLost:
            log.info("client left", job=channel.job.hex())
