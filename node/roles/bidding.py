"""One auction under way: `protocol.auction` with its clock, its asks and whoever waits for it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, assert_never

import trio

from node.errors import NoPeers
from node.protocol import auction, signing
from node.protocol.auction_record import AuctionRecord
from node.protocol.auction_state import (
    OUR_FAULT,
    AwardLost,
    AwardRefused,
    Bound,
    Effect,
    Event,
    GiveAward,
    GiveUp,
    Phase,
    Reached,
    Rules,
    SendAsk,
    State,
    Step,
    Tick,
)
from node.protocol.choice import Choice
from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import Refusal
from node.protocol.offers import Standing
from node.protocol.scoring import Figures, Need, Preferences, Track
from node.protocol.statements import Ask, Terms
from node.roles.ports import Clock, Session

ASK_LIFE_S = 10
Observer = Callable[[Event | Effect], None]
"""Told of everything that happens in an auction, as it happens; must be quick and not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker to award to, and on which terms."""

    session: Session
    terms: Signed[Terms]
    terms_digest: Hash
    score: int
    """Micro: price plus the value of the predicted time."""
    predicted: Figures
    """How fast it is expected to be, even where its cache has nothing of the prompt."""
    price_micro: int
    """Most that the job costs on these terms."""
    reason: str
    """Why this one: a sentence."""


class Desk(Protocol):
    """What an auction needs of the market that holds it."""

    clock: Clock
    rules: Rules

    def open(self, auction: "Auction") -> None:
        """Bring it events from now on."""
        ...

    def close(self, auction: "Auction") -> None:
        """Bring it no more."""
        ...

    def reached(self, model: Hash) -> Reached:
        """Who can be asked for a model now."""
        ...

    def live_offers(self, model: Hash) -> tuple[Standing, ...]:
        """Verified offers that still bind."""
        ...

    def tracks(self, model: Hash) -> Mapping[Address, Track]:
        """What was measured."""
        ...

    def newcomers_permille(self) -> int:
        """The record of newcomers together."""
        ...

    def live_session(self, worker: Address) -> Session | None:
        """The session with a worker."""
        ...

    def send_ask(self, auction: "Auction", ask: Signed[Ask], workers: tuple[Address, ...]) -> None:
        """Send an ask to workers, in the background."""
        ...

    def turned_down(
        self, candidate: Candidate, fresh: Signed[Terms] | None, *, its_fault: bool
    ) -> Standing | None:
        """The terms bind no more; returns the worker's newer terms, if it gave any."""
        ...

    def came_to_nothing(self, candidate: Candidate, *, tokens_in: int) -> None:
        """The worker had the award and gave nothing for it."""
        ...


class Auction:
    """Finds a worker for one job, and another if that one will not do."""

    def __init__(
        self,
        desk: Desk,
        *,
        need: Need,
        prefs: Preferences,
        client: Address,
        payer: Address,
        domain: signing.Domain,
        key: bytes,
        rng: random.Random,
        observer: Observer | None,
        known: Mapping[Address, int],
        without: frozenset[Address] = frozenset(),
        urgent: bool = False,
    ) -> None:
        """
        Args:
            desk: The market.
            need: The job.
            prefs: Limits and order.
            client: This node's session key, as an address.
            payer: Account that would pay.
            domain: Chain and escrow.
            key: 32-byte session key that signs the ask.
            rng: Seed of the draws, nonce of the ask.
            observer: Told of every event and effect.
            known: Tokens of the prompt that workers are known to have read before.
            without: Workers that had the job before, and are not to have it again.
            urgent: An offer at hand is taken without asking around.
        """
        self.need = need
        self.prefs = prefs
        self._desk = desk
        self._client = client
        self._payer = payer
        self._domain = domain
        self._key = key
        self._rng = rng
        self._observer = observer
        self._known = known
        self._without = without
        self._urgent = urgent
        self._state: State | None = None
        self._choice: Choice | None = None
        self._failure: str | None = None
        self._ask: Signed[Ask] | None = None
        self._wake = trio.Event()

    async def next(self) -> Candidate:
        """The worker to award to next.

        Call it again after `refused` or `lost`; without them the worker counts as lost.

        Raises:
            NoPeers: Nobody within the limits; the message tells what was seen.
        """
        self._desk.open(self)
        try:
            if self._state is None:
                self._start()
            elif self._state.phase is Phase.CHOSEN and self._choice is None:
                self._refresh()
                self.apply(AwardLost(reason="not used"))
            while True:
                candidate = self._candidate()
                if candidate is not None:
                    return candidate
                await self._event_or_tick()
        finally:
            self._desk.close(self)

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        """The worker refused the award; fresh terms in the refusal compete again."""
        self._refresh()
        fault = refusal.code not in OUR_FAULT
        fresh = self._desk.turned_down(candidate, refusal.offer, its_fault=fault)
        self.apply(AwardRefused(code=refusal.code, detail=refusal.detail, fresh=fresh))

    def lost(self, candidate: Candidate, reason: str, *, failed: bool) -> None:
        """The worker is out of this auction.

        Args:
            candidate: Who had been chosen.
            reason: For the record.
            failed: It had the award, and gave nothing for it; False if it never came to that.
        """
        self._refresh()
        if failed:
            self._desk.came_to_nothing(candidate, tokens_in=self.need.tokens_in)
        else:
            self._desk.turned_down(candidate, None, its_fault=False)
        self.apply(AwardLost(reason=reason, failed=failed))

    @property
    def begun(self) -> bool:
        """There is an account to give."""
        return self._state is not None

    def record(self) -> AuctionRecord:
        """The account so far: bids, refusals, winner and reason."""
        assert self._state is not None, "next() comes first"
        return auction.record(self._state, self._desk.clock.monotonic_s())

    @property
    def digest(self) -> Hash | None:
        """Of the ask, once there is one."""
        return None if self._ask is None else signing.digest(self._ask.statement, self._domain)

    def apply(self, event: Event) -> None:
        """Take an event; its effects are done, or under way, when this returns."""
        if self._state is None:
            return
        self._observe(event)
        self._took(auction.step(self._state, event, self._desk.clock.monotonic_s()))

    def _start(self) -> None:
        self._took(
            auction.start(
                need=self.need,
                prefs=self.prefs,
                rules=self._desk.rules,
                seed=self._rng.getrandbits(64),
                now_s=self._desk.clock.monotonic_s(),
                offers=self._desk.live_offers(self.need.model),
                reached=self._desk.reached(self.need.model),
                tracks=self._desk.tracks(self.need.model),
                newcomers_permille=self._desk.newcomers_permille(),
                known=self._known,
                without=self._without,
                urgent=self._urgent,
            )
        )

    def _refresh(self) -> None:
        """What changed since the choice: between choices nothing is brought."""
        for standing in self._desk.live_offers(self.need.model):
            self.apply(Bound(standing=standing))
        self.apply(self._desk.reached(self.need.model))

    def _took(self, step: Step) -> None:
        self._state, effects = step
        for effect in effects:
            self._observe(effect)
            match effect:
                case SendAsk(workers=workers):
                    self._desk.send_ask(self, self._signed_ask(), workers)
                case GiveAward(choice=choice):
                    self._choice = choice
                case GiveUp(reason=reason):
                    self._failure = reason
                case _:
                    assert_never(effect)
        self._wake.set()

    def _candidate(self) -> Candidate | None:
        while self._choice is not None:
            choice, self._choice = self._choice, None
            session = self._desk.live_session(choice.standing.terms.worker)
            if session is None:
                self.apply(AwardLost(reason="left before the award"))
                continue
            return Candidate(
                session=session,
                terms=choice.standing.signed,
                terms_digest=choice.standing.digest,
                score=choice.estimate.score,
                predicted=choice.estimate.uncached,
                price_micro=choice.estimate.price_most_micro,
                reason=choice.reason,
            )
        if self._failure is not None:
            raise NoPeers(self._failure)
        return None

    async def _event_or_tick(self) -> None:
        assert self._state is not None
        self._wake = trio.Event()
        now_s = self._desk.clock.monotonic_s()
        due_s = auction.wake_s(self._state, now_s)
        if due_s is None:
            await self._wake.wait()
            return
        with trio.move_on_after(max(due_s - now_s, 0)):
            await self._wake.wait()
            return
        self.apply(Tick())

    def _signed_ask(self) -> Signed[Ask]:
        """One ask for all: it names no worker, and every worker that gets it answers the same."""
        if self._ask is None:
            ask = Ask(
                client=self._client,
                payer=self._payer,
                model=self.need.model,
                tier=self.need.tier,
                tokens_in=self.need.tokens_in,
                output_max=self.need.output_max,
                nonce=self._rng.getrandbits(64),
                expires_ms=self._desk.clock.unix_ms() + ASK_LIFE_S * 1000,
            )
            self._ask = signing.sign(ask, self._domain, self._key)
        return self._ask

    def _observe(self, event: Event | Effect) -> None:
        if self._observer is not None:
            self._observer(event)
