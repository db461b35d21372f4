"""The client's side of jobs: auction, award, purchase; at the end the sealed transcript."""

import json
import random
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from node.config import ClientConfig
from node.errors import NodeError, SessionLost, Unavailable, WalletError
from node.protocol import chain_hash, codec, job_client, limits, signing
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import ZERO_HASH, Address, Hash, JobId, Signed
from node.protocol.frames import (
    AwardFrame,
    LockFrame,
    Refusal,
    Refused,
    Request,
    RequestData,
    SamplingFields,
    VoucherFrame,
)
from node.protocol.job_client import ClientJob
from node.protocol.statements import Award, CutoffReason, Terms, Tier, Voucher
from node.roles import sealing
from node.roles.answer import Answer
from node.roles.market import Auction, Candidate, Effect, Event, Market, Need, Preferences
from node.roles.payer import Payer
from node.roles.ports import Channel, Session, Transport
from node.roles.purchase import Evidence, Purchase, PurchasePorts
from node.roles.stores import JobState
from node.units import cost_micro

log = structlog.get_logger("client")

LOCK_LIFE_S = 24 * 3600
"""How long a lock that a worker asked for binds the deposit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job as the client wants it done, rendered and counted."""

    model: Hash
    prompt: tuple[int, ...]
    sampling: SamplingFields
    output_max: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    """None: drawn here, after the price is bound."""
    preferences: Preferences

    @property
    def need(self) -> Need:
        """What workers are told before one is chosen."""
        return Need(
            model=self.model,
            tier=Tier.IDS,
            tokens_in=len(self.prompt),
            output_max=self.output_max,
        )


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


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One job under way."""

    order: Order
    answer: Answer
    watcher: Watcher
    job: JobId
    seed: int
    auction: Auction
    attempts: int = 0
    purchase: Purchase | None = None
    cancelled: str = ""


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
        self._runs: set[_Run] = set()

    async def run(self, order: Order, answer: Answer, watcher: Watcher) -> Outcome:
        """Auction a job, buy it and seal its transcript.

        Cancelling this abandons the job without a word; `cancel` ends it properly.

        Raises:
            NoPeers: Nobody to buy from within the limits.
            WalletError: The deposit does not cover the job.
            Unavailable: The store failed.
        """
        job = self._rng.randbytes(16)
        auction = self._market.auction(order.need, order.preferences, observer=watcher.market)
        seed = self._rng.getrandbits(64) if order.seed is None else order.seed
        run = _Run(order=order, answer=answer, watcher=watcher, job=job, seed=seed, auction=auction)
        self._runs.add(run)
        await self._ports.store.begin_job(job=job, model=order.model, at_ms=self._unix_ms())
        try:
            return await self._settle(run, await self._buy(run))
        except NodeError as error:
            await self._failed(run, str(error))
            raise
        finally:
            self._runs.discard(run)
            answer.close()

    async def cancel(self, reason: CutoffReason, why: str) -> None:
        """Cut off every job under way: what was delivered is paid, kept and proven."""
        for run in tuple(self._runs):
            run.cancelled = why
            if run.purchase is not None:
                await run.purchase.cancel(reason, why)

    async def _buy(self, run: _Run) -> Attempt:
        while True:
            candidate = await run.auction.next()
            if run.cancelled:
                raise Unavailable(run.cancelled)
            run.watcher.awarded(candidate, run.auction.record())
            attempt = await self._attempt(run, candidate)
            refusal = attempt.job.refusal
            if refusal is None:
                self._measure(candidate, attempt)
                return attempt
            run.watcher.refused(candidate, refusal)
            if refusal.code == Refused.LOCK_REQUIRED:
                await self._offer_lock(candidate, refusal)
            run.auction.refused(candidate, refusal)

    async def _attempt(self, run: _Run, candidate: Candidate) -> Attempt:
        terms = candidate.terms.statement
        request = self._request(run)
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
        run: _Run,
        session: Session,
        job: ClientJob,
        evidence: Evidence,
        request: bytes,
        prepaid: VoucherFrame | None,
    ) -> Purchase:
        channel = session.open_channel(run.job)
        run.purchase = Purchase(job, channel, run.answer, self._ports, evidence=evidence)
        try:
            async with trio.open_nursery() as nursery:
                # Beside the purchase: a refusal may come before the request is out.
                frame = AwardFrame(job=run.job, award=evidence.award, voucher=prepaid)
                nursery.start_soon(_send_order, channel, frame, request)
                await run.purchase.run()
                nursery.cancel_scope.cancel()
            return run.purchase
        finally:
            channel.close()

    def _request(self, run: _Run) -> bytes:
        order = run.order
        return codec.encode(
            Request(
                salt=self._rng.randbytes(32),
                prompt=codec.pack_ids(order.prompt),
                prefix=b"",
                sampling=order.sampling,
                stop=order.stop,
                ignore_eos=order.ignore_eos,
            )
        )

    def _award(self, run: _Run, candidate: Candidate, request: bytes) -> Award:
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
            cap=_cost(order, terms),
            seed=run.seed,
            position=0,
            chain=chain_hash.start(self._transport.address, run.job),
            previous=ZERO_HASH,
            issued_ms=self._unix_ms(),
        )

    async def _prepay(self, run: _Run, terms: Terms, award: Award) -> VoucherFrame | None:
        if terms.prepay == 0:
            return None
        return await self._payer.prepay(
            job=run.job, attempt=award.attempt, amount_micro=terms.prepay
        )

    async def _offer_lock(self, candidate: Candidate, refusal: Refusal) -> None:
        """The worker wants a guarantee: give it one if the deposit allows, and go on meanwhile."""
        try:
            lock = await self._payer.make_lock(
                payee=candidate.terms.statement.payee,
                total_micro=refusal.lock_total,
                expiry_s=self._unix_ms() // 1000 + LOCK_LIFE_S,
            )
            await candidate.session.send(LockFrame(lock=lock))
        except (WalletError, Unavailable) as error:
            log.info("no lock", worker=signing.checksum(candidate.session.peer), reason=str(error))

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

    async def _settle(self, run: _Run, attempt: Attempt) -> Outcome:
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

    async def _failed(self, run: _Run, why: str) -> None:
        summary = json.dumps({"failure": why, "auction": run.auction.record().to_json()}).encode()
        await self._ports.store.finish_job(
            job=run.job,
            state=JobState.FAILED,
            at_ms=self._unix_ms(),
            summary=summary,
            transcript=b"",
        )

    def _unix_ms(self) -> int:
        return self._ports.clock.unix_ms()


def _cost(order: Order, terms: Terms) -> int:
    """Most that the job can cost on these terms, in micro."""
    return cost_micro(
        tokens_in=len(order.prompt),
        tokens_cached=0,
        tokens_out=order.output_max,
        price_in=max(terms.price_in, terms.price_cached),
        price_cached=0,
        price_out=terms.price_out,
    )


async def _send_order(channel: Channel, frame: AwardFrame, request: bytes) -> None:
    try:
        await channel.send(frame)
        for offset in range(0, len(request), limits.DATA_BYTES_MAX):
            data = request[offset : offset + limits.DATA_BYTES_MAX]
            await channel.send(RequestData(job=channel.job, offset=offset, data=data))
    except SessionLost as error:
        log.info("order not delivered", reason=str(error))  # the purchase hears of it as well
