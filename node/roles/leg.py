"""One award of a job at its client, from the reservation of its cap to the last voucher."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from node.errors import NodeError, Unavailable
from node.protocol import chain_hash, job_client, signing
from node.protocol.chain_hash import TextChain
from node.protocol.fields import ZERO_HASH, Address, Hash, Signed
from node.protocol.frames import AwardFrame, VoucherFrame
from node.protocol.job_client import ClientJob
from node.protocol.statements import Award, CutoffReason, Tier, Voucher
from node.roles.hedge_budget import HedgeBudget
from node.roles.job_run import Attempt, JobRun
from node.roles.market import Auction, Candidate
from node.roles.order import send_order
from node.roles.ports import Channel
from node.roles.purchase import Evidence, Purchase, PurchasePorts
from node.roles.starting import Starts
from node.roles.together import watched


class NotSent(Unavailable):
    """The award never left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """Who buys: the same for every award of a client."""

    ports: PurchasePorts
    client: Address
    """This node's session key, as an address."""
    account: Address
    """Named as payer."""
    rng: Random
    """Salts of requests."""
    hedges: HedgeBudget = field(default_factory=HedgeBudget)
    starts: Starts = field(default_factory=Starts)


class Leg:
    """An award under way (`purchase.Overseer`)."""

    def __init__(
        self,
        buyer: Buyer,
        run: JobRun,
        candidate: Candidate,
        auction: Auction,
        *,
        before: ClientJob | None,
        replaceable: Callable[[], bool],
    ) -> None:
        """
        Args:
            buyer: Who buys.
            run: The job.
            candidate: Who is to do it, or to go on with it.
            auction: Which chose it.
            before: The segment that ended, if the job has output already.
            replaceable: Whether another worker is at hand.
        """
        self.candidate = candidate
        self.auction = auction
        self.error: NodeError | None = None
        self.settled = False
        """Nothing more will be paid, nor anything else done, for this award."""
        self.withdrawn = False
        """Another worker has the job."""
        self._buyer = buyer
        self._run = run
        self._before = before
        self._replaceable = replaceable
        self._request = b""
        self._prepaid: VoucherFrame | None = None
        self._channel: Channel
        self._purchase: Purchase
        self._voucher: Signed[Voucher] | None = None
        self._awarded_s = 0.0
        self._ended_s: float | None = None

    @property
    def job(self) -> ClientJob:
        """How far it is."""
        return self._purchase.job

    @property
    def accepted(self) -> bool:
        """The worker has the job, or had it."""
        return self._purchase.evidence.acceptance is not None

    @property
    def over(self) -> bool:
        """Nothing more will be delivered."""
        return self.settled or self._purchase.over

    @property
    def digest(self) -> Hash:
        """Of the award."""
        return self.job.digest

    @property
    def attempt(self) -> Attempt:
        """What came of it, once it is settled."""
        purchase = self._purchase
        return Attempt(
            job=purchase.job,
            evidence=purchase.evidence,
            voucher=self._voucher,
            request=self._request,
            awarded_s=self._awarded_s,
            first_token_s=purchase.first_token_s,
            last_token_s=purchase.last_token_s,
            ended_s=self._now_s() if self._ended_s is None else self._ended_s,
        )

    async def open(self) -> None:
        """Set the cap aside, sign the award, save it; it leaves with `run`.

        Raises:
            NotSent, TabTaken: It can't be sent to this worker.
            Abandoned: The job was cancelled.
            WalletError: The deposit does not cover it.
            Unavailable: The chain never answered.
            StoreFailed, CorruptState: Nothing is signed any more.
        """
        run, ports, terms = self._run, self._buyer.ports, self.candidate.terms
        self._request = run.order.request(self._buyer.rng.randbytes(32), run.answer.output)
        award = self._award(self._request)
        digest = signing.digest(award, ports.domain)
        signed = signing.sign(award, ports.domain, ports.key)
        save = partial(ports.store.save_award, digest=digest, award=signed, terms=terms)
        await ports.payer.reserve(
            job=run.job,
            attempt=award.attempt,
            worker=terms.statement.worker,
            terms=terms.statement,
            cap_micro=award.cap,
            beside=(save, run.wait_kept),
        )
        opened = False
        try:
            await self._begin(signed, digest)
            opened = True
        finally:
            if not opened:
                await ports.payer.release(job=run.job, attempt=award.attempt)

    async def run(self) -> None:
        """Send it, and buy; what goes wrong is left in `error`."""
        run, ports = self._run, self._buyer.ports
        try:
            try:
                await self._buy()
            finally:
                self._ended_s = self._now_s()
                attempt = self.job.award.attempt
                self._voucher = await ports.payer.release(job=run.job, attempt=attempt)
        except NodeError as error:
            self.error = error
        self.settled = True
        run.changed.ring()

    async def drop(self) -> None:
        """After `open`, instead of `run`: the award does not leave."""
        self._channel.close()
        self.stop_watching()
        await self._buyer.ports.payer.release(job=self._run.job, attempt=self.job.award.attempt)

    async def withdraw(self) -> None:
        """Another worker has the job: what this one has not begun it need not begin."""
        try:
            await self._purchase.cancel(CutoffReason.STALLED, "another worker was faster")
        except NodeError as error:
            self.error = error
            self._run.changed.ring()

    async def settle(self) -> None:
        """Wait for a receipt no longer."""
        await self._purchase.settle()

    def stop_watching(self) -> None:
        """The job goes on elsewhere: a cancel of it concerns this award no more."""
        self._run.purchases.remove(self._purchase)

    def takes(self) -> bool:
        """The first worker that accepts has the job."""
        run = self._run
        if run.holder is None:
            run.holder = self.candidate.session.peer
        return run.holder == self.candidate.session.peer

    def replaceable(self) -> bool:
        """Another worker is at hand."""
        return self._replaceable()

    def changed(self) -> None:
        """The acceptance came, or output has ended."""
        self._run.changed.ring()

    def _award(self, request: bytes) -> Award:
        run, terms, before = self._run, self.candidate.terms.statement, self._before
        position = run.position
        reread = run.answer.reread
        need = run.order.need(position, reread)
        start = chain_hash.start(self._buyer.client, run.job)
        attempt, run.attempts = run.attempts, run.attempts + 1
        return Award(
            client=self._buyer.client,
            payer=self._buyer.account,
            worker=terms.worker,
            job=run.job,
            attempt=attempt,
            terms=self.candidate.terms_digest,
            request=signing.keccak256(request),
            request_bytes=len(request),
            tokens_in=need.tokens_in,
            output_max=need.output_max,
            cap=min(run.order.cost_micro(terms, position, reread), run.left_micro),
            seed=run.seed,
            position=position,
            chain=start if before is None else before.chain,
            previous=ZERO_HASH if before is None else before.digest,
            issued_ms=self._buyer.ports.clock.unix_ms(),
        )

    async def _begin(self, signed: Signed[Award], digest: Hash) -> None:
        """Make the purchase of an award that is saved; nothing has left."""
        run, ports, terms = self._run, self._buyer.ports, self.candidate.terms
        award = signed.statement
        run.check()
        prepay_micro = terms.statement.prepay
        if prepay_micro:
            self._prepaid = await ports.payer.prepay(
                job=run.job, attempt=award.attempt, amount_micro=prepay_micro
            )
        run.check()
        try:
            self._channel = self.candidate.session.open_channel(run.job)
        except Unavailable as error:
            raise NotSent(str(error)) from error
        text = None
        if terms.statement.tier == Tier.TEXT:
            text = TextChain(self._buyer.client, run.job, run.answer.output)
        self._purchase = Purchase(
            job_client.start(award, digest, terms.statement, prepaid_micro=prepay_micro, text=text),
            self._channel,
            run.answer,
            ports,
            evidence=Evidence(terms=terms, award=signed),
            expected=self.candidate.predicted,
            overseer=self,
        )
        run.purchases.append(self._purchase)
        self._awarded_s = self._now_s()

    async def _buy(self) -> None:
        purchase, channel = self._purchase, self._channel
        frame = AwardFrame(job=self._run.job, award=purchase.evidence.award, voucher=self._prepaid)
        try:
            # Beside the purchase: a refusal may come before the request is out.
            await watched(purchase.run, partial(send_order, channel, frame, self._request))
        finally:
            channel.close()

    def _now_s(self) -> float:
        return self._buyer.ports.clock.monotonic_s()
