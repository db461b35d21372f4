"""The worker's side of the market: its announcement, its offers, its bids, its places."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from node.config import EngineConfig, WorkerConfig
from node.errors import PeerError, SessionLost
from node.protocol import signing
from node.protocol.fields import ZERO_HASH, Address, Hash, Signed
from node.protocol.frames import (
    NO_JOB,
    AskFrame,
    Bid,
    Frame,
    Offer,
    OffersWanted,
    Refusal,
    Refused,
)
from node.protocol.scoring import OFFER_TOKENS_IN
from node.protocol.signing import checksum
from node.protocol.statements import AnnouncedModel, Ask, Terms
from node.roles.announcer import Announcer, Description
from node.roles.capacity import Reservations, promise
from node.roles.dispatch import Handlers
from node.roles.generation import Engine, EngineModel
from node.roles.hints import Hints
from node.roles.ports import Clock, Discovery, Inbound, Session, Transport
from node.roles.pulse import Pulse
from node.roles.quotas import Quota, Quotas
from node.roles.stock import Stock
from node.roles.stores import WorkerStore
from node.roles.terms_book import TermsBook, price_out

log = structlog.get_logger("seller")

OFFER_EVERY_S = 4.0
"""While nothing changes: an offer binds for 10 s, and a change is told at once."""
OFFER_GAP_S = 0.1
"""Least time between pushes, however often the load changes."""
SEND_S = 2.0
ASKS = Quota(burst=64, per_s=16, overrun_max=1024)
ASKS_ALL = Quota(burst=512, per_s=256, overrun_max=0)
"""In asks and subscriptions: a signature to check and one to make, 0.1 ms."""

Screen = Callable[[Ask], Refused | None]
"""Whether this node would take an award of the asking client; answers from what it knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBid:
    """Why an ask got no bid."""

    code: Refused
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sales:
    """Counts since the start, for `status`."""

    asks: int
    bids: int
    no_bids: Mapping[str, int]
    """By name of the refusal's code."""
    subscribers: int
    slots_free: int
    queued: int
    reservations_expired: int


class Seller:
    """Offers what the engine can do, at the operator's prices."""

    def __init__(
        self,
        *,
        transport: Transport,
        hints: Hints,
        discovery: Discovery | None,
        engine: Engine,
        clock: Clock,
        domain: signing.Domain,
        key: bytes,
        payee: Address,
        store: WorkerStore,
        rng: random.Random,
        config: WorkerConfig,
        engine_config: EngineConfig,
        screen: Screen | None = None,
    ) -> None:
        """
        Args:
            transport: Peers.
            hints: Through which this worker announces itself.
            discovery: The DHT; None when it is off.
            engine: What is sold.
            clock: Wall clock for statements, monotonic for lives.
            domain: Chain and escrow.
            key: 32-byte session key that signs.
            payee: Account that terms pay to.
            store: Where serials come from.
            rng: Jitter.
            config: Prices, limits, splits.
            engine_config: For the operator's limit on the rate.
            screen: Says early that an award of a client would be refused; None: it is found out
                when the award comes.

        Raises:
            ConfigError: The escrow would refuse the splits.
        """
        self._transport = transport
        self._engine = engine
        self._clock = clock
        self._domain = domain
        self._payee = payee
        self._rng = rng
        self._config = config
        self._rate_max_tps = engine_config.tokens_per_s_max
        self._screen = screen
        self._terms = TermsBook(
            worker=transport.address,
            payee=payee,
            clock=clock,
            domain=domain,
            key=key,
            store=store,
            config=config,
        )
        self._blocked = {entry.lower() for entry in config.block}
        self._stock = Stock(engine)
        self._places = Reservations(
            load=engine.load,
            clock=clock,
            hold_s=config.reservation_s,
            queue_max=config.queue_max,
        )
        self._subscribers: dict[Address, tuple[Session, tuple[Hash, ...]]] = {}
        self._sending: set[Address] = set()
        self._changed = Pulse()
        self._quotas = Quotas(ASKS, total=ASKS_ALL)
        self._asks = 0
        self._bids = 0
        self._no_bids: Counter[str] = Counter()
        self._announcer = Announcer(
            hints=hints,
            transport=transport,
            discovery=discovery,
            clock=clock,
            domain=domain,
            key=key,
            rng=rng,
            describe=self._describe,
        )
        self._announcing = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.draining = False
        self.handlers: Handlers = {AskFrame: self._on_ask, OffersWanted: self._on_wanted}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce and offer until cancelled; the engine and `Hints.run` must be running.

        Raises:
            StoreFailed: No serials to be had.
        """
        await self._terms.more_serials()
        self._stock.look()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._announce)
            task_status.started()
            await self._push_forever(nursery)

    # ------------------------------------------------------------------------- for the job's roles

    def terms_for(self, digest: Hash) -> Signed[Terms] | None:
        """Terms that this worker signed and still honours."""
        return self._terms.find(digest)

    def sold(self, terms: Hash) -> EngineModel | None:
        """The model that live terms are about; None while there is none as they say."""
        signed = self._terms.find(terms)
        return None if signed is None else self._stock.sold_by(signed.statement)

    def fresh_offer(self, model: Hash, *, tokens_in: int | None = None) -> Signed[Terms] | None:
        """An offer as of now; None if there is none to make.

        Args:
            model: For which.
            tokens_in: Size of the prompt that it is for, where one is known: it decides whether
                the offer asks for a voucher with the award.
        """
        if self.draining or model not in self._stock.now():
            return None
        prepay = 0 if tokens_in is None else self._terms.prepay_micro(tokens_in)
        if prepay is None:
            return None
        return self._sign(model, ask=ZERO_HASH, tokens_in=OFFER_TOKENS_IN, prepay_micro=prepay)

    def reserve(self, key: Hash) -> bool:
        """Take a place for an award; False if there is none.  It expires unless `started`."""
        if self.draining or not self._places.reserve(key):
            return False
        self._changed.ring()
        return True

    def started(self, key: Hash) -> bool:
        """The job began: its place stays until `free`.  False if the reservation had expired."""
        return self._places.started(key)

    def free(self, key: Hash) -> None:
        """Give an award's place back; nothing happens if it had none."""
        if self._places.free(key):
            self._changed.ring()

    def drain(self) -> None:
        """Sell nothing more: no announcement, no offer, no bid, no new place."""
        self.draining = True
        self._announcing.cancel()
        log.info("draining")

    def sales(self) -> Sales:
        """Counts since the start."""
        return Sales(
            asks=self._asks,
            bids=self._bids,
            no_bids=dict(self._no_bids),
            subscribers=len(self._subscribers),
            slots_free=self._places.slots_free(),
            queued=self._places.queued(),
            reservations_expired=self._places.expired,
        )

    # ------------------------------------------------------------------------------------- offers

    async def _push_forever(self, nursery: trio.Nursery) -> None:
        while True:
            if self._stock.look():
                self._announcer.changed.ring()
            self._push(nursery)
            await self._terms.more_serials()
            pause_s = OFFER_EVERY_S * self._rng.uniform(0.9, 1.1)
            if await self._changed.wait_at_most(pause_s - OFFER_GAP_S):
                log.debug("load changed", slots_free=self._places.slots_free())
            await trio.sleep(OFFER_GAP_S)

    def _push(self, nursery: trio.Nursery) -> None:
        """One offer per model, the same for all who subscribed."""
        self._subscribers = {p: s for p, s in self._subscribers.items() if s[0].lost is None}
        offers: dict[Hash, Signed[Terms] | None] = {}
        for session, models in self._subscribers.values():
            if session.peer in self._sending:
                continue  # the last one is still on its way: a slow reader misses some
            for model in models:
                if model not in offers:
                    offers[model] = self.fresh_offer(model)
            frames = [Offer(terms=terms) for m in models if (terms := offers[m]) is not None]
            if frames:
                self._sending.add(session.peer)
                nursery.start_soon(self._send_all, session, frames)

    async def _send_all(self, session: Session, frames: list[Offer]) -> None:
        try:
            for frame in frames:
                await _send(session, frame)
        finally:
            self._sending.discard(session.peer)

    async def _on_wanted(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, OffersWanted)
        models = tuple(model for model in frame.models if self._stock.knows(model))
        if not models:
            self._subscribers.pop(session.peer, None)
            return
        self._subscribers[session.peer] = (session, models)
        if not self._quotas.spend(session.peer, len(models), self._clock.monotonic_s()):
            return  # the next push is near
        for model in models:
            offer = self.fresh_offer(model)
            if offer is not None:
                await session.send(Offer(terms=offer))

    # --------------------------------------------------------------------------------------- asks

    async def _on_ask(self, session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, AskFrame)
        ask = frame.ask.statement
        if ask.client != session.peer:
            raise PeerError("an ask in another's name")
        self._asks += 1
        digest = signing.digest(ask, self._domain)
        if not self._quotas.spend(session.peer, 1, self._clock.monotonic_s()):
            await self._refuse(session, digest, NoBid(code=Refused.RATE_LIMITED))
            return
        signing.verify(frame.ask, self._domain, session.peer)
        why_not = self._why_no_bid(ask)
        if why_not is not None:
            await self._refuse(session, digest, why_not)
            return
        prepay = self._terms.prepay_micro(ask.tokens_in)
        assert prepay is not None
        terms = self._sign(ask.model, ask=digest, tokens_in=ask.tokens_in, prepay_micro=prepay)
        if terms is None:
            await self._refuse(session, digest, NoBid(code=Refused.RATE_LIMITED))
            return
        self._bids += 1
        await session.send(Bid(terms=terms))

    def _why_no_bid(self, ask: Ask) -> NoBid | None:
        if self.draining:
            return NoBid(code=Refused.DRAINING)
        if self._blocked & {f"0x{ask.client.hex()}", f"0x{ask.payer.hex()}"}:
            return NoBid(code=Refused.BLOCKED)
        model = self._stock.now().get(ask.model)
        if model is None:
            return NoBid(code=Refused.MODEL_UNKNOWN)
        if ask.tier != model.tier:
            return NoBid(code=Refused.TIER, detail=f"only tier {model.tier.name.lower()}")
        if not 0 < ask.tokens_in + ask.output_max <= model.context:
            return NoBid(code=Refused.CONTEXT_TOO_LONG, detail=f"context is {model.context} tokens")
        if self._places.used() >= self._places.places():
            return NoBid(code=Refused.BUSY, detail=f"{self._places.queued()} jobs wait")
        if self._terms.prepay_micro(ask.tokens_in) is None:
            quantum = self._config.quantum_micro
            return NoBid(
                code=Refused.PREPAY_REQUIRED,
                detail=f"the prompt costs more than the quantum of {quantum} micro",
            )
        screened = self._screen(ask) if self._screen is not None else None
        return None if screened is None else NoBid(code=screened)

    async def _refuse(self, session: Session, ask: Hash, why: NoBid) -> None:
        self._no_bids[why.code.name] += 1
        log.info("no bid", client=checksum(session.peer), code=why.code.name, detail=why.detail)
        await session.send(
            Refusal(
                job=NO_JOB,
                subject=ask,
                code=why.code,
                detail=why.detail,
                offer=None,
                lock_total=0,
            )
        )

    def _sign(
        self, model: Hash, *, ask: Hash, tokens_in: int, prepay_micro: int
    ) -> Signed[Terms] | None:
        sold = self._stock.now()[model]
        return self._terms.sign(
            sold,
            model=model,
            ask=ask,
            prepay_micro=prepay_micro,
            speed=promise(
                sold, self._places, tokens_in=tokens_in, tokens_per_s_max=self._rate_max_tps
            ),
            places=self._places,
        )

    # ------------------------------------------------------------------------------- announcement

    async def _announce(self) -> None:
        with self._announcing:
            await self._announcer.run()

    def _describe(self) -> Description:
        return Description(
            payee=self._payee,
            models=tuple(
                AnnouncedModel(
                    model=model,
                    name=sold.manifest.name.encode()[:64].decode(errors="ignore"),
                    tier=sold.tier,
                    price_in=self._config.price_in,
                    price_out=price_out(sold, self._config),
                )
                for model, sold in self._stock.now().items()
            ),
            region=self._config.region,
        )


async def _send(session: Session, frame: Frame) -> None:
    with trio.move_on_after(SEND_S):
        try:
            await session.send(frame)
        except SessionLost:
            return
