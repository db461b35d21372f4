"""The worker's side: terms that bind, offers that keep coming, refusals with their reason."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio

from node.config import SplitConfig, WorkerConfig
from node.errors import ConfigError, SessionLost
from node.protocol import signing
from node.protocol.fields import ZERO_HASH, Signed
from node.protocol.frames import (
    NO_JOB,
    Announcements,
    AskFrame,
    Bid,
    Frame,
    Offer,
    OffersWanted,
    Refusal,
    Refused,
)
from node.protocol.limits import OFFER_LIFE_S
from node.protocol.statements import Ask, Terms, Tier
from node.roles import terms_book
from node.roles.seller import Seller
from node.roles.terms_book import SERIAL_BLOCK, TERMS_LIFE_S
from tests.roles.fakes import DOMAIN, FakeSession, Net, key_of
from tests.roles.market_world import MODEL, FakeEngine, FakeStore, Node, World

CLIENT = 7
CONFIG = WorkerConfig(quantum_micro=100)
JOB = [bytes([n]) * 32 for n in range(64)]


class Shop:
    """A running seller, and a client's bare session with it."""

    def __init__(self, net: Net, node: Node, seller: Seller, session: FakeSession) -> None:
        self.net = net
        self.node = node
        self.seller = seller
        self.session = session

    def ask(self, **changes: Any) -> Ask:
        client = signing.address_of_key(key_of(CLIENT))
        made = Ask(
            client=client,
            payer=client,
            model=MODEL,
            tier=Tier.IDS,
            tokens_in=100,
            output_max=100,
            nonce=1,
            expires_ms=0,
        )
        return replace(made, **changes)

    async def answer_to(self, ask: Ask, *, key: int = CLIENT) -> Bid | Refusal:
        await self.session.send(AskFrame(ask=signing.sign(ask, DOMAIN, key_of(key))))
        frame = await self.next(Bid, Refusal)
        assert isinstance(frame, Bid | Refusal)
        return frame

    async def next(self, *kinds: type[Frame]) -> Frame:
        with trio.fail_after(10):
            while True:
                frame = (await self.session.receive()).frame
                if isinstance(frame, kinds):
                    return frame

    async def offer(self) -> Terms:
        frame = await self.next(Offer)
        assert isinstance(frame, Offer)
        return signing.verify(frame.terms, DOMAIN, self.node.address)

    def fresh(self) -> Signed[Terms]:
        offer = self.seller.fresh_offer(MODEL)
        assert offer is not None
        return offer


@asynccontextmanager
async def shop(
    config: WorkerConfig = CONFIG,
    *,
    store: FakeStore | None = None,
    engine: FakeEngine | None = None,
    **more: Any,
) -> AsyncIterator[Shop]:
    world = World(Net())
    node = world.node(1, sells=True)
    node.store, node.engine = store or node.store, engine or node.engine
    async with trio.open_nursery() as nursery:
        seller = await node.sell(config, nursery, **more)
        client = world.net.transport(key_of(CLIENT))
        yield Shop(world.net, node, seller, await client.connect(node.transport.addrs))
        nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------- offers


async def test_offers_leave_and_come_back_with_the_model(autojump_clock: trio.abc.Clock) -> None:
    engine = FakeEngine()
    engine.there = False
    async with shop(engine=engine) as s:
        await s.session.send(OffersWanted(models=(MODEL,)))
        engine.there = True
        await trio.sleep(5)
        await s.session.send(OffersWanted(models=(MODEL,)))
        await s.offer()
        announced = await s.next(Announcements)
        assert isinstance(announced, Announcements)
        engine.there = False
        await trio.sleep(5)
        assert isinstance(refusal := await s.answer_to(s.ask()), Refusal)
        assert refusal.code == Refused.MODEL_UNKNOWN
        with pytest.raises(trio.TooSlowError):
            await s.offer()
        engine.there = True
        await s.offer()


async def test_offers_come_at_once_and_then_twice_in_the_life_of_one(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop() as open_shop:
        await open_shop.session.send(OffersWanted(models=(MODEL,)))
        times, serials = [], []
        for _ in range(8):
            terms = await open_shop.offer()
            times.append(trio.current_time())
            serials.append(terms.serial)
            assert terms.ask == ZERO_HASH
            assert terms.payee == terms.worker == open_shop.node.address
        assert times[0] < 0.1
        gaps = [later - earlier for earlier, later in pairwise(times[1:])]
        assert all(3 <= gap <= OFFER_LIFE_S / 2 for gap in gaps)
        assert serials == sorted(set(serials))


async def test_a_change_of_load_is_pushed_within_the_blink_of_an_eye(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop() as open_shop:
        await open_shop.session.send(OffersWanted(models=(MODEL,)))
        await open_shop.offer()
        await open_shop.offer()
        await trio.sleep(0.3)
        changed_s = trio.current_time()
        assert open_shop.seller.reserve(JOB[0])
        assert (await open_shop.offer()).slots_free == 1
        open_shop.seller.free(JOB[0])
        assert (await open_shop.offer()).slots_free == 2
        assert trio.current_time() - changed_s <= 0.4


async def test_one_offer_is_signed_for_all_who_subscribed(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net())
    async with trio.open_nursery() as nursery:
        node, _ = await world.worker(nursery)
        sessions = []
        for number in range(1, 4):
            client = world.net.transport(key_of(number))
            session = await client.connect(node.transport.addrs)
            await session.send(OffersWanted(models=(MODEL,)))
            sessions.append(session)
        await trio.sleep(5)
        last = []
        for session in sessions:
            offers = []
            with trio.move_on_after(0.01):
                while True:
                    frame = (await session.receive()).frame
                    offers += [frame] if isinstance(frame, Offer) else []
            last.append(offers[-1])
        assert last[0] == last[1] == last[2]
        nursery.cancel_scope.cancel()


async def test_a_subscriber_that_does_not_read_holds_up_nobody(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop() as open_shop:
        lazy = await open_shop.net.transport(key_of(8)).connect(open_shop.node.transport.addrs)
        await lazy.send(OffersWanted(models=(MODEL,)))
        await open_shop.session.send(OffersWanted(models=(MODEL,)))
        for _ in range(400):
            await open_shop.offer()
        assert open_shop.seller.sales().subscribers == 2


async def test_an_empty_wish_ends_the_offers(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        await open_shop.session.send(OffersWanted(models=(MODEL,)))
        await open_shop.offer()
        await open_shop.session.send(OffersWanted(models=()))
        await trio.sleep(0.01)
        assert open_shop.seller.sales().subscribers == 0


async def test_unknown_models_are_not_subscribed_to(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        await open_shop.session.send(OffersWanted(models=(b"x" * 32,)))
        await trio.sleep(0.01)
        assert open_shop.seller.sales().subscribers == 0


# ------------------------------------------------------------------------------------------ terms


async def test_signed_terms_are_honoured_until_they_expire(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        offer = open_shop.fresh()
        digest = signing.digest(offer.statement, DOMAIN)
        assert offer.statement.expires_ms == open_shop.node.clock.unix_ms() + TERMS_LIFE_S * 1000
        await trio.sleep(TERMS_LIFE_S - 0.01)
        assert open_shop.seller.terms_for(digest) == offer
        await trio.sleep(0.01)
        assert open_shop.seller.terms_for(digest) is None
        assert open_shop.seller.terms_for(JOB[0]) is None


async def test_a_draining_worker_still_honours_what_it_signed(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop() as open_shop:
        offer = open_shop.fresh()
        open_shop.seller.drain()
        assert open_shop.seller.terms_for(signing.digest(offer.statement, DOMAIN)) == offer
        assert open_shop.seller.fresh_offer(MODEL) is None
        assert not open_shop.seller.reserve(JOB[0])


async def test_serials_rise_over_a_restart_whatever_the_clock_does(
    autojump_clock: trio.abc.Clock,
) -> None:
    store = FakeStore()
    async with shop(store=store) as open_shop:
        before = [open_shop.fresh().statement.serial for _ in range(5)]
    async with shop(store=store) as open_shop:
        open_shop.node.clock.skew_ms = -3_600_000
        after = open_shop.fresh().statement.serial
    assert before == sorted(set(before))
    assert after > before[-1]


async def test_serials_go_on_from_the_clock_where_the_store_is_an_old_copy(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop(store=FakeStore()) as open_shop:
        before = [open_shop.fresh().statement.serial for _ in range(5)]
        await trio.sleep(1)
    async with shop(store=FakeStore()) as open_shop:
        assert open_shop.fresh().statement.serial > before[-1]


async def test_serials_never_run_out(autojump_clock: trio.abc.Clock) -> None:
    store = FakeStore()
    async with shop(store=store) as open_shop:
        first = open_shop.fresh().statement.serial
        open_shop.seller._terms._serial = store.serial - SERIAL_BLOCK // 2 + 1
        await trio.sleep(6)
        assert store.serial >= first + 2 * SERIAL_BLOCK - 2
        assert open_shop.fresh().statement.serial >= first + SERIAL_BLOCK - 1


async def test_the_terms_in_force_are_bounded(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms_book, "ISSUED_MAX", 50)
    async with shop() as open_shop:
        made = 0
        while open_shop.seller.fresh_offer(MODEL) is not None:
            made += 1
        assert made == 50
        refusal = await open_shop.answer_to(open_shop.ask())
        assert isinstance(refusal, Refusal)
        assert refusal.code == Refused.RATE_LIMITED
        await trio.sleep(TERMS_LIFE_S)
        assert open_shop.seller.fresh_offer(MODEL) is not None


async def test_splits_are_in_the_terms_in_the_contracts_order(
    autojump_clock: trio.abc.Clock,
) -> None:
    splits = (
        SplitConfig(payee="0x" + "22" * 20, bps=100),
        SplitConfig(payee="0x" + "11" * 20, bps=200),
    )
    async with shop(replace(CONFIG, splits=splits)) as open_shop:
        offered = open_shop.fresh().statement.splits
        assert [(each.payee[0], each.bps) for each in offered] == [(0x11, 200), (0x22, 100)]


@pytest.mark.parametrize(("payee", "bps"), [("0x11", 1), ("zz", 1), ("0x" + "11" * 20, 5001)])
async def test_splits_that_the_escrow_would_refuse_stop_the_start(payee: str, bps: int) -> None:
    config = replace(CONFIG, splits=(SplitConfig(payee=payee, bps=bps),))
    async with trio.open_nursery() as nursery:
        node = World(Net()).node(1, sells=True)
        with pytest.raises(ConfigError):
            await node.sell(config, nursery)


# ------------------------------------------------------------------------------------------- asks


async def test_an_ask_is_answered_with_terms_for_it(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        ask = open_shop.ask(tokens_in=500)
        bid = await open_shop.answer_to(ask)
        assert isinstance(bid, Bid)
        terms = signing.verify(bid.terms, DOMAIN, open_shop.node.address)
        assert terms.ask == signing.digest(ask, DOMAIN)
        assert terms.first_token_ms == 10 + 250 + 1  # idle, and 500 tokens at 2,000 a second
        assert terms.rate_mtps == 100_000
        found = open_shop.seller.terms_for(signing.digest(terms, DOMAIN))
        assert found == bid.terms


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": b"x" * 32}, Refused.MODEL_UNKNOWN),
        ({"tier": Tier.TEXT}, Refused.TIER),
        ({"tokens_in": 1949}, Refused.CONTEXT_TOO_LONG),
        ({"tokens_in": 2**32 - 1, "output_max": 2**32 - 1}, Refused.CONTEXT_TOO_LONG),
        ({"tokens_in": 0, "output_max": 0}, Refused.CONTEXT_TOO_LONG),
        ({"tokens_in": 1000}, Refused.PREPAY_REQUIRED),
    ],
)
async def test_no_bid_says_why_and_is_counted(
    changes: dict[str, Any], code: Refused, autojump_clock: trio.abc.Clock
) -> None:
    async with shop() as open_shop:
        ask = open_shop.ask(**changes)
        refusal = await open_shop.answer_to(ask)
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.job) == (code, NO_JOB)
        assert refusal.subject == signing.digest(ask, DOMAIN)
        sales = open_shop.seller.sales()
        assert (sales.asks, sales.bids, dict(sales.no_bids)) == (1, 0, {code.name: 1})


async def test_no_bid_for_the_blocked_the_busy_the_screened_and_while_draining(
    autojump_clock: trio.abc.Clock,
) -> None:
    client = signing.address_of_key(key_of(CLIENT))

    async def code_with(config: WorkerConfig, *, drain: bool = False, **more: Any) -> int:
        async with shop(config, **more) as open_shop:
            if drain:
                open_shop.seller.drain()
            refusal = await open_shop.answer_to(open_shop.ask())
            assert isinstance(refusal, Refusal), refusal
            return refusal.code

    full = FakeEngine()
    full.busy = replace(full.busy, active=2, queued=1)
    blocking = replace(CONFIG, block=("0x" + client.hex().upper(),))
    assert await code_with(blocking) == Refused.BLOCKED
    assert await code_with(replace(CONFIG, queue_max=1), engine=full) == Refused.BUSY
    assert await code_with(CONFIG, screen=lambda _ask: Refused.UNPAID) == Refused.UNPAID
    assert await code_with(CONFIG, drain=True) == Refused.DRAINING


async def test_a_dear_prompt_gets_terms_with_an_advance_if_the_operator_takes_them(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop(replace(CONFIG, prepay_above_micro=120)) as open_shop:
        # 998 tokens and the first of the output come to 100.2, rounded up to 101: over the quantum.
        for tokens_in, prepay in {500: 0, 996: 0, 998: 100, 1200: 120, 1201: 121}.items():
            bid = await open_shop.answer_to(open_shop.ask(tokens_in=tokens_in))
            assert isinstance(bid, Bid)
            assert bid.terms.statement.prepay == prepay
        offer = open_shop.seller.fresh_offer(MODEL, tokens_in=1201)
        assert offer is not None
        assert offer.statement.prepay == 121


@pytest.mark.parametrize("lie", ["another's name", "another's signature"])
async def test_a_forged_ask_ends_the_session(lie: str, autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        ask = open_shop.ask(client=b"c" * 20) if lie == "another's name" else open_shop.ask()
        with pytest.raises(SessionLost):
            await open_shop.answer_to(ask, key=8)
        assert open_shop.session.lost is not None


async def test_a_flood_of_asks_is_refused_then_cut_off(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        frame = AskFrame(ask=signing.sign(open_shop.ask(), DOMAIN, key_of(CLIENT)))
        answers: list[Frame] = []

        async def flood() -> None:
            while True:
                await open_shop.session.send(frame)
                answers.append(await open_shop.next(Bid, Refusal))

        with pytest.raises(SessionLost):
            await flood()
        bids = [each for each in answers if isinstance(each, Bid)]
        codes = {each.code for each in answers if isinstance(each, Refusal)}
        assert len(bids) == 64
        assert codes == {Refused.RATE_LIMITED}
        assert len(answers) < 64 + 1100


# ---------------------------------------------------------------------------------------- places


async def test_places_are_slots_and_queue_and_no_more(autojump_clock: trio.abc.Clock) -> None:
    async with shop(replace(CONFIG, queue_max=3)) as open_shop:
        seller = open_shop.seller
        assert [seller.reserve(JOB[n]) for n in range(6)] == [True] * 5 + [False]
        assert not seller.reserve(JOB[0])
        assert (seller.sales().slots_free, seller.sales().queued) == (0, 3)
        seller.free(JOB[0])
        assert seller.reserve(JOB[9])


async def test_a_reservation_that_is_not_used_expires_and_one_that_is_stays(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with shop(replace(CONFIG, queue_max=0, reservation_s=10)) as open_shop:
        seller = open_shop.seller
        assert seller.reserve(JOB[0])
        assert seller.reserve(JOB[1])
        assert seller.started(JOB[1])
        await trio.sleep(10.1)
        assert not seller.started(JOB[0])
        assert seller.reserve(JOB[2])
        assert not seller.reserve(JOB[3])
        assert seller.sales().reservations_expired == 1
        seller.free(JOB[0])
        assert not seller.reserve(JOB[3])


async def test_jobs_that_the_engine_runs_take_places_too(autojump_clock: trio.abc.Clock) -> None:
    async with shop(replace(CONFIG, queue_max=0)) as open_shop:
        engine = open_shop.node.engine
        engine.busy = replace(engine.busy, active=2)
        assert not open_shop.seller.reserve(JOB[0])


async def test_promises_follow_the_load(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        seller = open_shop.seller
        seen = []
        for number in range(4):
            terms = open_shop.fresh().statement
            seen.append((terms.slots_free, terms.queued, terms.rate_mtps, terms.first_token_ms))
            seller.reserve(JOB[number])
        idle = 10 + 512 + 1  # 1,024 tokens at 2,000 a second
        # Two slots: 100 tokens/s alone, 150 together; a job's length is guessed at 3 s.
        assert seen == [
            (2, 0, 100_000, idle),
            (1, 0, 75_000, idle),
            (0, 0, 75_000, idle + 1_500),
            (0, 1, 75_000, idle + 3_000),
        ]


async def test_the_operators_limit_on_the_rate_is_promised(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        open_shop.seller._rate_max_tps = 30.0
        assert open_shop.fresh().statement.rate_mtps == 30_000


async def test_waiting_times_follow_how_long_jobs_take(autojump_clock: trio.abc.Clock) -> None:
    async with shop(engine=FakeEngine(slots=1)) as open_shop:
        seller = open_shop.seller
        for _ in range(30):
            seller.reserve(JOB[0])
            seller.started(JOB[0])
            await trio.sleep(0.5)
            seller.free(JOB[0])
        seller.reserve(JOB[0])
        terms = open_shop.fresh().statement
        assert 500 <= terms.first_token_ms - (10 + 512 + 1) < 510


async def test_draining_ends_the_announcements(autojump_clock: trio.abc.Clock) -> None:
    async with shop() as open_shop:
        open_shop.seller.drain()
        before_s, frames = trio.current_time(), []
        with trio.move_on_after(60):
            while True:
                inbound = await open_shop.session.receive()
                frames += [inbound.frame] if inbound.arrived_s > before_s else []
        assert not [each for each in frames if isinstance(each, Announcements)]
