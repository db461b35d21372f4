"""The client's side of the market: sessions with workers, their offers, auctions, measurements.

Sessions, subscriptions and dials are tended by one task, which then tells the auctions what is in
reach: so no auction can see a search finished before what it found is being dialled.
"""

import random
from collections import OrderedDict
from collections.abc import Collection, Mapping

import structlog
import trio

from node.config import ClientConfig
from node.errors import PeerError, SessionLost
from node.protocol import signing
from node.protocol.auction_state import Bound, Declined, Effect, Event, Reached, Rules
from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import NO_JOB, AskFrame, Bid, Offer, Refusal
from node.protocol.offers import OfferBook, Standing, admit
from node.protocol.prefixes import Heads
from node.protocol.scoring import OFFER_TOKENS_IN, Need, Preferences, Sort, Track, estimate
from node.protocol.signing import checksum
from node.protocol.statements import Ask, Terms
from node.roles.bidding import Auction, Candidate, Observer
from node.roles.contacts import Contacts
from node.roles.dispatch import Handlers
from node.roles.hints import Hints
from node.roles.measurements import Measurements, Report, Sample
from node.roles.ports import Clock, Inbound, Session, Transport
from node.roles.quotas import Quota, Quotas
from node.roles.standby import Standby
from node.roles.stores import MarketStore

__all__ = [
    "Auction",
    "Candidate",
    "Effect",
    "Event",
    "Market",
    "Need",
    "Observer",
    "Preferences",
    "Report",
    "Sort",
    "Standby",
]

log = structlog.get_logger("market")

TEND_EVERY_S = 2.0
SEND_S = 2.0
ASKS_MAX = 1024
NEEDS_MAX = 64
OUTPUT_GUESS = 256
"""Length of an answer, before the first job is known."""
SCORE_UNKNOWN = 2**62
TERMS = Quota(burst=64, per_s=16, overrun_max=1024)
TERMS_ALL = Quota(burst=2048, per_s=1024, overrun_max=0)
"""In offers and bids: a signature check (70 µs) each."""


class Market:
    """Keeps sessions with workers and finds one for each job."""

    def __init__(
        self,
        *,
        transport: Transport,
        hints: Hints,
        clock: Clock,
        domain: signing.Domain,
        key: bytes,
        payer: Address,
        rng: random.Random,
        config: ClientConfig,
        store: MarketStore | None,
    ) -> None:
        """
        Args:
            transport: Sessions.
            hints: Whom to dial.
            clock: Monotonic for offers' lives, wall clock for asks.
            domain: Chain and escrow.
            key: 32-byte session key.
            payer: Account that pays.
            rng: Draws among equals, nonces.
            config: Windows and limits.
            store: Where measurements are kept; None: only in memory.
        """
        self.clock = clock
        self.rules = Rules(
            bid_window_s=config.bid_window_s,
            discover_s=config.discover_s,
            asks_max=config.workers_max,
        )
        self._transport = transport
        self._hints = hints
        self._domain = domain
        self._key = key
        self._payer = payer
        self._rng = rng
        self._offers = OfferBook(domain)
        self._measured = Measurements(store=store, clock=clock)
        self._contacts = Contacts(
            transport=transport,
            hints=hints,
            clock=clock,
            sessions_max=config.workers_max,
            standing=self._standing,
            rng=rng,
            on_lost=self._offers.forget,
        )
        self._needs: OrderedDict[Hash, Need] = OrderedDict()
        self._prefs = Preferences(
            price_micro_max=config.job_cap_micro,
            value_of_time_micro_per_s=config.value_of_time_micro_per_s,
        )
        """With the needs: what workers are compared by, when one has to go."""
        self._auctions: dict[int, Auction] = {}
        self._standbys: set[Standby] = set()
        self._asks: OrderedDict[Hash, tuple[Auction, set[Address]]] = OrderedDict()
        self._unasked = 0
        self._quotas = Quotas(TERMS, total=TERMS_ALL)
        self._nursery: trio.Nursery | None = None
        self.handlers: Handlers = {
            Offer: self._on_offer,
            Bid: self._on_bid,
            Refusal: self._on_refusal,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tend sessions until cancelled; measurements are saved to the end.

        Raises:
            StoreFailed: What was measured before can't be read.
        """
        await self._measured.load()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._measured.run)
            task_status.started()
            while True:
                self._tend(nursery)
                await self._hints.changed.wait_at_most(TEND_EVERY_S)

    async def greet(self, _session: Session) -> None:
        """A new session: if it sells, it is subscribed to at once."""
        self._hints.changed.ring()

    def follow(self, model: Hash) -> None:
        """Find workers of a model (`ANY_MODEL`: of every model) and keep their offers at hand."""
        self._contacts.want(model)

    def auction(
        self,
        need: Need,
        prefs: Preferences,
        *,
        observer: Observer | None = None,
        heads: Heads = (),
        without: frozenset[Address] = frozenset(),
        urgent: bool = False,
    ) -> Auction:
        """An auction of one job; it begins with the first `next()`.  Arguments as `Auction`'s.

        `heads` are the prompt's: whoever has read it before has an advantage.
        """
        self.follow(need.model)
        self._needs[need.model], self._prefs = need, prefs
        self._needs.move_to_end(need.model)
        if len(self._needs) > NEEDS_MAX:
            self._needs.popitem(last=False)
        return Auction(
            self,
            need=need,
            prefs=prefs,
            client=self._transport.address,
            payer=self._payer,
            domain=self._domain,
            key=self._key,
            rng=self._rng,
            observer=observer,
            known=self._measured.known(need.model, heads),
            without=without,
            urgent=urgent,
        )

    def standby(self, need: Need, prefs: Preferences, out: Collection[Address]) -> Standby:
        """Whoever would go on with a job that has a worker (of `out`); to be closed with it."""
        standby = Standby(self, need=need, prefs=prefs, out=out, on_close=self._standbys.discard)
        self._standbys.add(standby)
        standby.tend(self.live_offers(need.model), self.reached(need.model).workers)
        return standby

    def measured(self, report: Report) -> None:
        """Note how a segment went; counts at once, and is saved in the background."""
        self._contacts.release(report.worker)
        self._measured.note(report)

    async def flush(self) -> None:
        """Return once all that was measured is saved."""
        await self._measured.flush()

    def dropped(self) -> dict[str, int]:
        """Offers and answers that were not taken, by reason."""
        counts = {reason.value: count for reason, count in self._offers.dropped.items()}
        return counts | {"late or unasked": self._unasked, "rate limited": self._quotas.refused}

    # ------------------------------------------------------------------ what auctions need (Desk)

    def open(self, auction: Auction) -> None:
        """Bring it events from now on."""
        self._auctions[id(auction)] = auction
        if auction.prefs.insists_on:
            self._hints.changed.ring()  # they are dialled at once

    def close(self, auction: Auction) -> None:
        """Bring it no more."""
        self._auctions.pop(id(auction), None)

    def reached(self, model: Hash) -> Reached:
        """Workers with a session that may sell a model; and what is under way to find more."""
        return self._contacts.reached(model)

    def live_offers(self, model: Hash) -> tuple[Standing, ...]:
        """Verified offers that still bind, of workers with a session."""
        return self._offers.live(model, self.clock.monotonic_s())

    def tracks(self, model: Hash) -> Mapping[Address, Track]:
        """What was measured with a model, per worker."""
        return self._measured.tracks(model)

    def samples(self, worker: Address, model: Hash) -> tuple[Sample, ...]:
        """The figures of a worker's latest jobs, one by one."""
        return self._measured.samples(worker, model)

    def newcomers_permille(self) -> int:
        """The record of newcomers together."""
        return self._measured.newcomers_permille

    def live_session(self, worker: Address) -> Session | None:
        """The session with a worker; it is kept until the job is measured or refused."""
        return self._contacts.hold(worker)

    def let_go(self, worker: Address) -> None:
        """The session with a worker, of `live_session`, is needed no more."""
        self._contacts.release(worker)

    def send_ask(self, auction: Auction, ask: Signed[Ask], workers: tuple[Address, ...]) -> None:
        """Send an ask to workers, in the background."""
        digest = auction.digest
        assert digest is not None
        _, asked = self._asks.setdefault(digest, (auction, set()))
        asked.update(workers)
        if len(self._asks) > ASKS_MAX:
            self._asks.popitem(last=False)
        assert self._nursery is not None, "run() comes first"
        sessions = self._transport.sessions()
        for worker in workers:
            session = sessions.get(worker)
            if session is not None:
                self._nursery.start_soon(_send, session, AskFrame(ask=ask))

    def turned_down(
        self, candidate: Candidate, fresh: Signed[Terms] | None, *, its_fault: bool
    ) -> Standing | None:
        """The award's terms bind no more; returns newer ones of the worker, if there are any."""
        terms, worker = candidate.terms.statement, candidate.session.peer
        self._contacts.release(worker)
        if its_fault:
            self._measured.note_refusal(worker, terms.model)
        self._offers.withdraw(worker, terms.model, serial=terms.serial)
        if fresh is not None:
            try:
                self._offers.take(fresh, peer=worker, arrived_s=self.clock.monotonic_s())
            except PeerError as error:
                log.info("fresh offer dropped", worker=checksum(worker), reason=str(error))
        live = self.live_offers(terms.model)
        return next((each for each in live if each.terms.worker == worker), None)

    def withdraw(self, candidate: Candidate) -> None:
        """A worker failed in mid-answer: what it offered before that is worth nothing."""
        terms = candidate.terms.statement
        self._offers.withdraw(terms.worker, terms.model, serial=terms.serial)

    def came_to_nothing(self, candidate: Candidate, *, tokens_in: int) -> None:
        """A job that failed, though nobody has to see it: another worker does it."""
        self.measured(
            Report(
                worker=candidate.session.peer,
                model=candidate.terms.statement.model,
                tokens_in=tokens_in,
                first_token_s=None,
                rate_tps=None,
                ok=False,
            )
        )
        self.withdraw(candidate)

    # ------------------------------------------------------------------------------------ frames

    async def _on_offer(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, Offer)
        terms = frame.terms.statement
        if not self._contacts.wants(terms.model) or not self._affordable(session):
            return
        standing = self._offers.take(frame.terms, peer=session.peer, arrived_s=inbound.arrived_s)
        if standing is not None:
            self._tell(terms.model, Bound(standing=standing))

    async def _on_bid(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, Bid)
        auction = self._asked(session.peer, frame.terms.statement.ask)
        if auction is None or not self._affordable(session):
            return
        standing = admit(
            frame.terms,
            peer=session.peer,
            domain=self._domain,
            ask=frame.terms.statement.ask,
            arrived_s=inbound.arrived_s,
        )
        auction.apply(Bound(standing=standing))

    async def _on_refusal(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, Refusal)
        auction = self._asked(session.peer, frame.subject)
        if frame.job != NO_JOB or auction is None or not self._affordable(session):
            return
        fresh = None
        if frame.offer is not None:
            fresh = self._offers.take(frame.offer, peer=session.peer, arrived_s=inbound.arrived_s)
        auction.apply(
            Declined(worker=session.peer, code=frame.code, detail=frame.detail, fresh=fresh)
        )

    def _asked(self, worker: Address, ask: Hash) -> Auction | None:
        """The auction that asked this worker; None for what comes too late or unasked."""
        auction, asked = self._asks.get(ask, (None, ()))
        if worker in asked:
            return auction
        self._unasked += 1
        return None

    def _affordable(self, session: Session) -> bool:
        return self._quotas.spend(session.peer, 1, self.clock.monotonic_s())

    # ------------------------------------------------------------------------------------ inside

    def _tend(self, nursery: trio.Nursery) -> None:
        auctions = tuple(self._auctions.values())
        only = {worker for each in auctions for worker in each.prefs.insists_on}
        self._contacts.tend(nursery, only)
        # There may be a thousand jobs, of few models: each model is looked at once.
        models = {each.need.model for each in auctions}
        models |= {each.need.model for each in self._standbys}
        for model in models:
            self._contacts.want(model)
        reached = {model: self.reached(model) for model in models}
        offers = {model: self.live_offers(model) for model in models}
        for auction in auctions:
            auction.apply(reached[auction.need.model])
        for standby in tuple(self._standbys):
            model = standby.need.model
            standby.tend(offers[model], reached[model].workers)

    def _tell(self, model: Hash, event: Event) -> None:
        for auction in tuple(self._auctions.values()):
            if auction.need.model == model:
                auction.apply(event)

    def _standing(self, worker: Address, model: Hash) -> tuple[int, int]:
        """Its trust, and its score for a job like the last one."""
        track = self._measured.track(worker, model)
        terms = next((o.terms for o in self.live_offers(model) if o.terms.worker == worker), None)
        if terms is None:
            return track.trust.value, SCORE_UNKNOWN
        need = self._needs.get(model) or Need(
            model=model, tier=terms.tier, tokens_in=OFFER_TOKENS_IN, output_max=OUTPUT_GUESS
        )
        return track.trust.value, estimate(need, self._prefs, terms, track).score


async def _send(session: Session, frame: AskFrame) -> None:
    with trio.move_on_after(SEND_S):
        try:
            await session.send(frame)
        except SessionLost:
            return
