"""One job over all its workers: when one stops in mid-answer, another goes on where it stopped.

    search ──candidate──▶ award ──accepted──▶ delivery ──complete, cancelled──▶ settle
      ▲                     │ late: a hedge       │ lost, stalled, failed, cheated
      └──── gave nothing ───┴─────────────────────┘ the next search is for what is left

Awards settle beside what follows them: nobody waits for the receipt of a worker that stopped.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import structlog
import trio

from node.errors import NodeError, NoPeers, Unavailable, WalletError
from node.protocol import job_client, limits, prefixes
from node.protocol.frames import Refused
from node.protocol.patience import acceptance_limit_s
from node.protocol.payer_state import TabTaken
from node.protocol.prefixes import Heads
from node.protocol.signing import checksum
from node.roles.guarantee import await_lock, give_lock
from node.roles.job_run import JobRun
from node.roles.leg import Buyer, Leg, NotSent
from node.roles.market import Auction, Candidate, Market, Report, Standby
from node.roles.starting import Start
from node.units import MS_PER_S

log = structlog.get_logger("client")

HEDGES_MAX = 3
"""Awards beside another one, in a job: each sets its cap aside as well."""
HEDGE_FIND_S = 0.3
"""A hedge is for who has offers at hand; nobody is asked."""
AT_HAND_S = 1.0
"""So long an auction takes that finds somebody: offers at hand, or an ask and its answers."""
FREED_S = 2.0
"""How long a continuation waits until the award before it needs its cap no more."""


class Relay:
    """Buys one job."""

    def __init__(self, run: JobRun, *, buyer: Buyer, market: Market, nursery: trio.Nursery) -> None:
        """
        Args:
            run: The job.
            buyer: Who buys.
            market: Where workers come from.
            nursery: Where awards are under way until they are settled.
        """
        self._run = run
        self._buyer = buyer
        self._market = market
        self._nursery = nursery
        self._start: Start
        self._standby: Standby
        self._under_way: list[Leg] = []
        """Awards that were sent, in order."""
        self.legs: list[Leg] = []
        """Those that are the job's segments: they delivered, or are its last."""
        self.gave_up = ""
        """Why nobody went on with what was begun; empty if somebody did, or need not."""

    async def deliver(self) -> None:
        """Until the output is complete, the job cancelled, or nobody there to go on.

        Raises:
            NoPeers: Nobody began it.
            Abandoned: It was cancelled before anybody had it.
            NodeError: The payer or the store failed.
        """
        run = self._run
        with run.cancellable():
            self._start = await self._buyer.starts.take(run.order.model, self._nursery)
        try:
            standby = self._market.standby(run.order.need(), run.order.preferences, run.out)
            with closing(standby) as self._standby:
                while await self._next_leg():
                    self._passed_on(self.legs[-1])
        finally:
            self._start.done()

    async def settle(self) -> None:
        """Until every award is settled; only the last one's receipt is waited for.

        Raises:
            NodeError: The payer or the store failed.
        """
        await self._until(lambda: self.legs[-1].settled)
        self._measure(self.legs[-1])
        for leg in self._under_way:
            if not leg.settled:
                await leg.settle()
        await self._until(lambda: all(leg.settled for leg in self._under_way))

    async def _next_leg(self) -> bool:
        """Have a worker deliver; whether another one is to go on after it."""
        run, begun = self._run, bool(self.legs)
        run.auction = self._search(urgent=begun)
        try:
            leg = await self._delivered(run.auction)
        except (Unavailable, WalletError) as error:
            if not begun:
                raise
            self.gave_up = str(error)
            return False
        self.legs.append(leg)
        job = leg.job
        run.spent_micro += max(job.accepted_micro, job_client.cost_at(job, job.tokens_out))
        run.position = job.position
        if run.cancelled or job.complete is not None or not job.failure:
            return False
        if len(self.legs) == limits.SEGMENTS_MAX:
            self.gave_up = f"{limits.SEGMENTS_MAX} workers have stopped"
            return False
        insists_on = run.order.preferences.insists_on
        return not insists_on or not insists_on <= run.out

    def _search(self, *, urgent: bool) -> Auction:
        run = self._run
        return self._market.auction(
            run.order.need(run.position, run.answer.reread),
            run.preferences(self._now_s()),
            observer=run.watcher.market,
            heads=self._heads(run.position),
            without=frozenset(run.out),
            urgent=urgent,
        )

    def _passed_on(self, leg: Leg) -> None:
        """A worker stopped in mid-answer: what it leaves is the next one's."""
        log.info(
            "a worker stopped",
            job=self._run.job.hex(),
            worker=checksum(leg.candidate.session.peer),
            position=leg.job.position,
            reason=leg.job.failure,
        )
        self._run.answer.resume()
        self._measure(leg)
        self._market.withdraw(leg.candidate)
        leg.stop_watching()
        self._run.watcher.stopped(leg.candidate, leg.job.failure)

    # ------------------------------------------------------------------------------------ awards

    async def _delivered(self, auction: Auction) -> Leg:
        """An award that brought output, or the job's end; what brings nothing is passed over."""
        run = self._run
        while True:
            run.holder = None
            leg = await self._open(auction, await self._candidate(auction))
            if leg is None:
                continue
            legs = [leg]
            if not await self._answered(leg):
                legs += await self._hedge(leg)
            holder = await self._held(legs)
            if holder is not None:
                self._start.done()
            if holder is not None and await self._ended(holder):
                return holder

    async def _candidate(self, auction: Auction) -> Candidate:
        run = self._run
        while True:
            with run.cancellable():
                candidate = await self._next(auction)
            objection = run.objection(candidate, escrow=self._buyer.ports.domain.escrow)
            if self._was_asked(candidate):
                objection = "was asked beside another one"
            if not objection:
                run.watcher.awarded(candidate, auction.record())
                return candidate
            auction.lost(candidate, objection, failed=False)

    async def _next(self, auction: Auction) -> Candidate:
        """Whoever is waited for is no reason to begin no other job."""
        with trio.move_on_after(AT_HAND_S):
            return await auction.next()
        self._start.done()
        return await auction.next()

    def _was_asked(self, candidate: Candidate) -> bool:
        """Another auction, for a hedge, gave it the job: it has the award, and did not refuse."""
        return any(
            leg.candidate.session.peer == candidate.session.peer and leg.job.refusal is None
            for leg in self._under_way
        )

    async def _open(self, auction: Auction, candidate: Candidate) -> Leg | None:
        """Send an award; None if it could not be sent, and another worker may do the job."""
        leg = self._leg(auction, candidate)
        self._run.out.add(candidate.session.peer)
        try:
            try:
                await leg.open()
            except WalletError:
                if not await self._freed():
                    raise
                leg = self._leg(auction, candidate)
                await leg.open()
        except (NotSent, TabTaken) as error:
            self._pass_over(leg, str(error), failed=False)
            return None
        except NodeError:
            self._market.turned_down(candidate, None, its_fault=False)
            raise
        self._buyer.hedges.earn()
        self._send(leg)
        return leg

    def _leg(self, auction: Auction, candidate: Candidate) -> Leg:
        return Leg(
            self._buyer,
            self._run,
            candidate,
            auction,
            before=self.legs[-1].job if self.legs else None,
            replaceable=self._replaceable,
        )

    def _send(self, leg: Leg) -> None:
        self._under_way.append(leg)
        self._nursery.start_soon(leg.run)

    async def _freed(self) -> bool:
        """Whether an award before let go of its cap, of which the deposit may be short."""
        waiting = [leg for leg in self._under_way if not leg.settled]
        for leg in waiting:
            await leg.settle()
        with trio.move_on_after(FREED_S):
            await self._until(lambda: all(leg.settled for leg in waiting))
        return bool(waiting)

    def _replaceable(self) -> bool:
        """Somebody else would go on at once, if the worker that delivers were cut off."""
        more = len(self.legs) + 1 < limits.SEGMENTS_MAX
        return more and self._standby.worker is not None

    # ------------------------------------------------------------------------------------ hedges

    async def _answered(self, leg: Leg) -> bool:
        """Whether the worker accepted, refused or left before its acceptance was late."""
        limit_s = acceptance_limit_s(leg.candidate.predicted.first_token_ms / MS_PER_S)
        with trio.move_on_after(limit_s):
            await self._until(lambda: leg.accepted or leg.over)
        return leg.accepted or leg.over

    async def _hedge(self, late: Leg) -> list[Leg]:
        """Award to another worker as well, if one is at hand; the first to accept has the job."""
        run = self._run
        if run.hedges >= HEDGES_MAX or run.cancelled or not self._replaceable():
            return []
        if self._buyer.hedges.empty:
            return []
        auction = self._search(urgent=True)
        candidate: Candidate | None = None
        with trio.move_on_after(HEDGE_FIND_S):
            try:
                candidate = await auction.next()
            except NoPeers:
                return []
        if candidate is None:
            return []
        leg = self._leg(auction, candidate)
        objection = run.objection(candidate, escrow=self._buyer.ports.domain.escrow)
        try:
            if objection or candidate.terms.statement.prepay:
                raise NotSent(objection or "asks for an advance")
            if not self._buyer.hedges.spend():
                raise NotSent("enough hedges are under way")
            await leg.open()
        except (Unavailable, WalletError) as error:
            auction.lost(candidate, str(error), failed=False)
            return []
        if run.holder is not None or late.over:
            await leg.drop()
            auction.lost(candidate, "not needed", failed=False)
            return []
        run.hedges += 1
        run.out.add(candidate.session.peer)
        run.watcher.hedged(late.candidate, self._now_s() - late.attempt.awarded_s)
        run.watcher.awarded(candidate, auction.record())
        self._send(leg)
        return [leg]

    async def _held(self, legs: list[Leg]) -> Leg | None:
        """Who accepted first; the others are told that they need not begin."""
        await self._until(
            lambda: any(leg.accepted for leg in legs) or all(leg.over for leg in legs)
        )
        ended = legs[0] if self._run.cancelled and legs[0].job.refusal is None else None
        holder = next((leg for leg in legs if leg.accepted), ended)
        for leg in legs:
            if leg is holder:
                continue
            if not leg.over:
                leg.withdrawn = True
                self._nursery.start_soon(leg.withdraw)
            await self._came_to_nothing(leg, lockable=holder is None)
        return holder

    async def _ended(self, leg: Leg) -> bool:
        """Wait for the end of delivery; whether it is a segment of the job.

        It is if it brought output, or ended the job as it should end.
        """
        await self._until(lambda: leg.over)
        job = leg.job
        if job.tokens_out or not job.failure or self._run.cancelled:
            return True
        await self._came_to_nothing(leg, lockable=False)
        return False

    # ------------------------------------------------------------------------- what came of them

    async def _came_to_nothing(self, leg: Leg, *, lockable: bool) -> None:
        run, job = self._run, leg.job
        run.spent_micro += job.accepted_micro
        run.lost_micro += job.accepted_micro
        leg.stop_watching()
        if job.refusal is not None:
            await self._refused(leg, lockable=lockable)
        elif leg.withdrawn:
            self._pass_over(leg, "its acceptance was late", failed=False)
        else:
            self._pass_over(leg, job.failure, failed=not run.cancelled)

    def _pass_over(self, leg: Leg, why: str, *, failed: bool) -> None:
        self._run.watcher.failed(leg.candidate, why)
        leg.auction.lost(leg.candidate, why, failed=failed)

    async def _refused(self, leg: Leg, *, lockable: bool) -> None:
        run, candidate, job = self._run, leg.candidate, leg.job
        refusal = job.refusal
        assert refusal is not None
        await self._until(lambda: leg.settled)  # its channel and cap are free for fresh terms
        run.watcher.refused(candidate, refusal)
        worker = job.terms.worker
        lacks = refusal.code == Refused.LOCK_REQUIRED and run.needs_lock(worker, leg.auction)
        if lacks and lockable:
            lock = await give_lock(
                self._buyer.ports.payer,
                candidate.session,
                payee=job.terms.payee,
                total_micro=refusal.lock_total,
                cap_micro=job.award.cap,
                clock=self._buyer.ports.clock,
            )
            if lock is not None:
                run.lock = lock.statement
                run.watcher.locking(candidate, run.lock)
                with run.cancellable():
                    await await_lock(self._buyer.ports.payer, run.lock, candidate.session)
                # Its terms have run out meanwhile; it pushes new ones.
                refusal = replace(refusal, offer=None)
        leg.auction.refused(candidate, refusal)

    def _measure(self, leg: Leg) -> None:
        attempt, job = leg.attempt, leg.job
        first_s, last_s = attempt.first_token_s, attempt.last_token_s
        took_s = last_s - first_s if first_s is not None and last_s is not None else 0.0
        rate_tps = (job.tokens_out - 1) / took_s if job.tokens_out > 1 and took_s > 0 else None
        self._market.measured(
            Report(
                worker=leg.candidate.session.peer,
                model=job.terms.model,
                tokens_in=job.award.tokens_in,
                tokens_cached=job.tokens_cached,
                heads=self._heads(job.position),
                first_token_s=None if first_s is None else first_s - attempt.awarded_s,
                rate_tps=rate_tps,
                ok=not job.failure,
            )
        )

    def _heads(self, position: int) -> Heads:
        """Of the prompt and so much output; none in tier text, where they are no ids."""
        run = self._run
        ids = (*run.order.prompt, *run.answer.ids[:position])
        return prefixes.heads(ids, start=run.order.scope)

    # ------------------------------------------------------------------------------------ inside

    async def _until(self, true: Callable[[], bool]) -> None:
        """Return once it is true; what goes wrong with any award is raised here."""
        while True:
            for leg in self._under_way:
                if leg.error is not None:
                    raise leg.error
            if true():
                return
            await self._run.changed.wait()

    def _now_s(self) -> float:
        return self._buyer.ports.clock.monotonic_s()
