"""The client's side of jobs: auction, award, purchase; at the end the sealed transcript."""

import json
import random
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from node.errors import NodeError, WalletError
from node.protocol.fields import Address, JobId
from node.protocol.statements import CutoffReason
from node.roles import sealing
from node.roles.answer import AnyAnswer
from node.roles.job_run import Attempt, JobRun, Watcher
from node.roles.leg import Buyer
from node.roles.market import Auction, Market
from node.roles.order import Order
from node.roles.payer import Payer
from node.roles.ports import Transport
from node.roles.purchase import PurchasePorts
from node.roles.relay import Relay
from node.roles.stores import Duplicate, JobState

log = structlog.get_logger("client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A job that got as far as output, or as an accepted award."""

    order: Order
    job: JobId
    seed: int
    segments: tuple[Attempt, ...]
    """At least one, in order: those that brought output, and how the job ended."""
    auctions: tuple[Auction, ...]
    """In which their workers were chosen."""
    failure: str
    """What ended it early, and why nobody went on; empty when nothing did."""
    transcript: bytes
    disclosure: bytes

    @property
    def attempt(self) -> Attempt:
        """The last segment."""
        return self.segments[-1]

    @property
    def auction(self) -> Auction:
        """In which the last segment's worker was chosen."""
        return self.auctions[-1]

    @property
    def tokens_in(self) -> int:
        """Of the prompt."""
        return self.segments[0].job.award.tokens_in

    @property
    def tokens_out(self) -> int:
        """Of the whole answer."""
        return self.attempt.job.position

    @property
    def amount_micro(self) -> int:
        """What all segments together cost."""
        return sum(segment.job.accepted_micro for segment in self.segments)


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
        rng: random.Random,
    ) -> None:
        """
        Args:
            ports: Shared by all segments.
            transport: For this node's own address.
            market: Where candidates come from.
            payer: Whose deposit pays.
            payer_account: The account that awards name as payer.
            rng: Job ids, salts and seeds; cryptographic outside of simulations.
        """
        self._ports = ports
        self._market = market
        self._payer = payer
        self._buyer = Buyer(ports=ports, client=transport.address, account=payer_account, rng=rng)
        self._rng = rng
        self._runs: dict[JobId, JobRun] = {}

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
        seed = self._rng.getrandbits(64) if order.seed is None else order.seed
        run = JobRun(
            order=order,
            answer=answer,
            watcher=watcher,
            job=job,
            seed=seed,
            began_s=self._ports.clock.monotonic_s(),
        )
        if job in self._runs:
            raise Duplicate("a job with this id is under way")
        self._runs[job] = run  # from here on `cancel` finds it
        try:
            return await self._run(run)
        finally:
            del self._runs[job]
            answer.close()

    async def _run(self, run: JobRun) -> Outcome:
        try:
            return await self._seal(run, await self._buy(run))
        except NodeError as error:
            # While all of this node ends, the reason is not this one.
            await trio.lowlevel.checkpoint_if_cancelled()
            if run.unkept is not None:  # there is nothing to note it in, or it is another job's
                raise run.unkept from (None if error is run.unkept else error)
            await self._failed(run, str(error))
            raise

    async def cancel(self, reason: CutoffReason, why: str, *, job: JobId | None = None) -> None:
        """Cut off a job, or every job under way: what was delivered is paid, kept and proven."""
        for run in [run for run in self._runs.values() if job in (None, run.job)]:
            await run.cancel(reason, why)

    async def recover(self) -> None:
        """Free what jobs of a process that died had set aside; what they had accepted is paid."""
        for each in self._payer.reservations:
            if each.closed or self._payer.halted:
                continue
            try:
                await self._payer.release(job=each.job, attempt=each.attempt)
            except WalletError as error:
                log.warning("an earlier job is not settled", job=each.job.hex(), reason=str(error))

    async def _buy(self, run: JobRun) -> Relay:
        """Have it delivered and paid for."""
        failure: NodeError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, run)
            relay = Relay(run, buyer=self._buyer, market=self._market, nursery=nursery)
            try:
                await relay.deliver()
                await relay.settle()
            except NodeError as error:  # raised again outside, where no group wraps it
                failure = error
                nursery.cancel_scope.cancel()
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # it holds its frames, and the prompt in them
        return relay

    async def _keep(self, run: JobRun) -> None:
        """Save that the job was begun: beside its auction, and before its first award leaves."""
        with trio.CancelScope(shield=True):
            try:
                await self._ports.store.begin_job(
                    job=run.job, model=run.order.model, at_ms=self._unix_ms()
                )
            except NodeError as error:
                run.unkept = error
            run.kept.set()

    async def _seal(self, run: JobRun, relay: Relay) -> Outcome:
        """Seal what happened, and keep it."""
        segments = tuple(leg.attempt for leg in relay.legs)
        auctions = tuple(leg.auction for leg in relay.legs)
        file, disclosure = sealing.seal(
            [
                sealing.Part(
                    attempt=segment,
                    record=auction.record(),
                    proof=await self._payer.receipt_proof(
                        job=run.job, attempt=segment.job.award.attempt
                    ),
                )
                for segment, auction in zip(segments, auctions, strict=True)
            ],
            run.answer,
            domain=self._ports.domain,
            key=self._ports.key,
        )
        outcome = Outcome(
            order=run.order,
            job=run.job,
            seed=run.seed,
            segments=segments,
            auctions=auctions,
            failure=_failure(run, relay),
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
        if run.auction is not None and run.auction.begun:
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


def _failure(run: JobRun, relay: Relay) -> str:
    """Why the answer is not whole; empty if it is, or if the user wanted no more."""
    failure = relay.legs[-1].job.failure
    if run.cancelled and run.cancel_reason is not CutoffReason.CANCELLED:
        return run.cancelled
    if run.cancelled or not relay.gave_up:
        return "" if run.cancelled and relay.gave_up else failure
    return f"{failure}; nobody went on: {relay.gave_up}"
