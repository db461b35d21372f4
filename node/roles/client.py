"""The client's side of jobs: auction, award, purchase; at the end the sealed transcript."""

import json
import random
from dataclasses import dataclass, replace
from typing import Any

import structlog
import trio

from node.config import ClientConfig
from node.errors import NodeError, Unavailable, WalletError
from node.protocol import chain_hash, job_client, signing
from node.protocol.fields import ZERO_HASH, Address, JobId
from node.protocol.frames import AwardFrame, Refused, VoucherFrame
from node.protocol.job_client import ClientJob
from node.protocol.payer_state import TabTaken
from node.protocol.statements import Award, CutoffReason, Terms
from node.roles import sealing
from node.roles.answer import AnyAnswer
from node.roles.guarantee import await_lock, give_lock
from node.roles.job_run import Attempt, JobRun, Watcher
from node.roles.market import Auction, Candidate, Market
from node.roles.order import Order, send_order
from node.roles.payer import Payer
from node.roles.ports import Session, Transport
from node.roles.purchase import Evidence, Purchase, PurchasePorts
from node.roles.stores import JobState

log = structlog.get_logger("client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A job that got as far as output, or as an accepted award."""

    order: Order
    job: JobId
    seed: int
    attempt: Attempt
    auction: Auction
    transcript: bytes
    disclosure: bytes

    @property
    def failure(self) -> str:
        """What ended it early; empty when nothing did."""
        return self.attempt.job.failure


class Client:
    """Places jobs.  One per node; jobs run side by side."""

    def __init__(
        self,
        *,
        ports: PurchasePorts,
        transport: Transport,
        market: Market,
        payer: Payer,
        payer_account: Address,
        config: ClientConfig,
        rng: random.Random,
    ) -> None:
        """
        Args:
            ports: Shared by all segments.
            transport: For this node's own address.
            market: Where candidates come from.
            payer: Whose deposit pays.
            payer_account: The account that awards name as payer.
            config: Limits of the owner.
            rng: Job ids, salts and seeds; cryptographic outside of simulations.
        """
        self._ports = ports
        self._transport = transport
        self._market = market
        self._payer = payer
        self._account = payer_account
        self._config = config
        self._rng = rng
        self._runs: set[JobRun] = set()

    async def run(
        self, order: Order, answer: AnyAnswer, watcher: Watcher, *, job: JobId | None = None
    ) -> Outcome:
        """Auction a job, buy it and seal its transcript.

        Cancelling this abandons the job without a word; `cancel` ends it properly.

        Args:
            order: What to buy.
            answer: Grows as output is accepted.
            watcher: Is told how it goes.
            job: Its 16-byte id, for who must know it beforehand; None: one is drawn.

        Raises:
            UsageError: The order is none.
            NoPeers: Nobody to buy from within the limits.
            WalletError: The deposit does not cover the job.
            Unavailable: The store failed.
        """
        order.check()
        job = job or self._rng.randbytes(16)
        auction = self._market.auction(order.need, order.preferences, observer=watcher.market)
        seed = self._rng.getrandbits(64) if order.seed is None else order.seed
        run = JobRun(
            order=order, answer=answer, watcher=watcher, job=job, seed=seed, auction=auction
        )
        await self._ports.store.begin_job(job=job, model=order.model, at_ms=self._unix_ms())
        self._runs.add(run)
        try:
            return await self._settle(run, await self._buy(run))
        except NodeError as error:
            # While all of this node ends, the reason is not this one.
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._failed(run, str(error))
            raise
        finally:
            self._runs.discard(run)
            answer.close()

    async def cancel(self, reason: CutoffReason, why: str, *, job: JobId | None = None) -> None:
        """Cut off a job, or every job under way: what was delivered is paid, kept and proven."""
        for run in [run for run in self._runs if job in (None, run.job)]:
            run.cancel(why)
            if run.purchase is not None:
                await run.purchase.cancel(reason, why)

    async def recover(self) -> None:
        """Free what jobs of a process that died had set aside; what they had accepted is paid."""
        for each in self._payer.reservations:
            if each.closed or self._payer.halted:
                continue
            try:
                await self._payer.release(job=each.job, attempt=each.attempt)
            except WalletError as error:
                log.warning("an earlier job is not settled", job=each.job.hex(), reason=str(error))

    async def _buy(self, run: JobRun) -> Attempt:
        while True:
            with run.cancellable():
                run.begun = True
                candidate = await run.auction.next()
            objection = run.objection(candidate, escrow=self._ports.domain.escrow)
            if objection:
                run.auction.lost(candidate, objection, failed=False)
                continue
            run.watcher.awarded(candidate, run.auction.record())
            attempt = await self._try(run, candidate)
            if attempt is not None:
                return attempt

    async def _try(self, run: JobRun, candidate: Candidate) -> Attempt | None:
        """Award to one worker; None if nothing came of it and another may do the job."""
        try:
            attempt = await self._attempt(run, candidate)
        except (_NotSent, TabTaken) as error:
            self._pass_over(run, candidate, str(error), failed=False)
            return None
        except NodeError:
            self._market.turned_down(candidate, None, its_fault=False)
            raise
        job = attempt.job
        if job.refusal is not None:
            run.lost_micro += job.accepted_micro
            await self._refused(run, candidate, job)
            return None
        if job.failure and not job.tokens_out and run.answer.untouched and not run.cancelled:
            run.lost_micro += job.accepted_micro
            self._pass_over(run, candidate, job.failure, failed=True)
            return None
        self._measure(candidate, attempt)
        return attempt

    def _pass_over(self, run: JobRun, candidate: Candidate, why: str, *, failed: bool) -> None:
        run.watcher.failed(candidate, why)
        run.auction.lost(candidate, why, failed=failed)

    async def _refused(self, run: JobRun, candidate: Candidate, job: ClientJob) -> None:
        refusal = job.refusal
        assert refusal is not None
        run.watcher.refused(candidate, refusal)
        if refusal.code == Refused.LOCK_REQUIRED and run.needs_lock(job.terms.worker):
            lock = await give_lock(
                self._payer,
                candidate.session,
                payee=job.terms.payee,
                total_micro=refusal.lock_total,
                cap_micro=job.award.cap,
                clock=self._ports.clock,
            )
            if lock is not None:
                run.lock = lock.statement
                run.watcher.locking(candidate, run.lock)
                with run.cancellable():
                    await await_lock(self._payer, run.lock)
                # Its terms have run out meanwhile; it pushes new ones.
                refusal = replace(refusal, offer=None)
        run.auction.refused(candidate, refusal)

    async def _attempt(self, run: JobRun, candidate: Candidate) -> Attempt:
        terms = candidate.terms.statement
        request = run.order.request(self._rng.randbytes(32))
        award = self._award(run, candidate, request)
        digest = signing.digest(award, self._ports.domain)
        await self._payer.reserve(
            job=run.job,
            attempt=award.attempt,
            worker=terms.worker,
            terms=terms,
            cap_micro=award.cap,
        )
        run.attempts += 1
        try:
            signed = signing.sign(award, self._ports.domain, self._ports.key)
            await self._ports.store.save_award(digest=digest, award=signed, terms=candidate.terms)
            run.check()
            prepaid = await self._prepay(run, terms, award)
            job = job_client.start(award, digest, terms, prepaid_micro=terms.prepay)
            evidence = Evidence(terms=candidate.terms, award=signed)
            awarded_s = self._ports.clock.monotonic_s()
            purchase = await self._purchase(run, candidate.session, job, evidence, request, prepaid)
        finally:
            voucher = await self._payer.release(job=run.job, attempt=award.attempt)
        return Attempt(
            job=purchase.job,
            evidence=evidence,
            voucher=voucher,
            request=request,
            awarded_s=awarded_s,
            first_token_s=purchase.first_token_s,
            ended_s=self._ports.clock.monotonic_s(),
        )

    async def _purchase(
        self,
        run: JobRun,
        session: Session,
        job: ClientJob,
        evidence: Evidence,
        request: bytes,
        prepaid: VoucherFrame | None,
    ) -> Purchase:
        run.check()
        try:
            channel = session.open_channel(run.job)
        except Unavailable as error:
            raise _NotSent(str(error)) from error
        purchase = run.purchase = Purchase(job, channel, run.answer, self._ports, evidence=evidence)
        failure: NodeError | None = None
        try:
            async with trio.open_nursery() as nursery:
                # Beside the purchase: a refusal may come before the request is out.
                frame = AwardFrame(job=run.job, award=evidence.award, voucher=prepaid)
                nursery.start_soon(send_order, channel, frame, request)
                try:
                    await purchase.run()
                except NodeError as error:  # raised again outside, where no group wraps it
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            channel.close()
        if failure is not None:
            raise failure
        return purchase

    def _award(self, run: JobRun, candidate: Candidate, request: bytes) -> Award:
        order, terms = run.order, candidate.terms.statement
        return Award(
            client=self._transport.address,
            payer=self._account,
            worker=terms.worker,
            job=run.job,
            attempt=run.attempts,
            terms=candidate.terms_digest,
            request=signing.keccak256(request),
            request_bytes=len(request),
            tokens_in=len(order.prompt),
            output_max=order.output_max,
            cap=order.cost_micro(terms),
            seed=run.seed,
            position=0,
            chain=chain_hash.start(self._transport.address, run.job),
            previous=ZERO_HASH,
            issued_ms=self._unix_ms(),
        )

    async def _prepay(self, run: JobRun, terms: Terms, award: Award) -> VoucherFrame | None:
        if terms.prepay == 0:
            return None
        return await self._payer.prepay(
            job=run.job, attempt=award.attempt, amount_micro=terms.prepay
        )

    def _measure(self, candidate: Candidate, attempt: Attempt) -> None:
        job, first_s = attempt.job, attempt.first_token_s
        took_s = attempt.ended_s - first_s if first_s is not None else 0.0
        rate_tps = (job.tokens_out - 1) / took_s if job.tokens_out > 1 and took_s > 0 else None
        self._market.measured(
            worker=candidate.session.peer,
            model=job.terms.model,
            tokens_in=job.award.tokens_in,
            first_token_s=None if first_s is None else first_s - attempt.awarded_s,
            rate_tps=rate_tps,
            ok=not job.failure,
        )

    async def _settle(self, run: JobRun, attempt: Attempt) -> Outcome:
        """Seal what happened, and keep it."""
        proof = await self._payer.receipt_proof(job=run.job, attempt=attempt.job.award.attempt)
        file, disclosure = sealing.seal(
            attempt.job,
            attempt.evidence,
            run.answer,
            domain=self._ports.domain,
            key=self._ports.key,
            record=run.auction.record(),
            request=attempt.request,
            voucher=attempt.voucher,
            proof=proof,
        )
        outcome = Outcome(
            order=run.order,
            job=run.job,
            seed=run.seed,
            attempt=attempt,
            auction=run.auction,
            transcript=file,
            disclosure=disclosure,
        )
        await self._ports.store.finish_job(
            job=run.job,
            state=JobState.FAILED if outcome.failure else JobState.DONE,
            at_ms=self._unix_ms(),
            summary=json.dumps({"failure": outcome.failure}).encode(),
            transcript=file,
        )
        return outcome

    async def _failed(self, run: JobRun, why: str) -> None:
        summary: dict[str, Any] = {"failure": why}
        if run.begun:
            summary["auction"] = run.auction.record().to_json()
        await self._ports.store.finish_job(
            job=run.job,
            state=JobState.FAILED,
            at_ms=self._unix_ms(),
            summary=json.dumps(summary).encode(),
            transcript=b"",
        )

    def _unix_ms(self) -> int:
        return self._ports.clock.unix_ms()


class _NotSent(Unavailable):
    """The award never left."""
