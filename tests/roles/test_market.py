"""The client's side of the market against real sellers over the fake network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from node.config import ClientConfig
from node.errors import NoPeers, SessionLost
from node.protocol import places, signing
from node.protocol.announcements import ANY_MODEL
from node.protocol.auction_state import Bound, GiveAward, SendAsk
from node.protocol.frames import (
    NO_JOB,
    AskFrame,
    Bid,
    Frame,
    Offer,
    Refusal,
    Refused,
)
from node.protocol.scoring import OK_WHOLE, Trust, newcomers_after
from node.protocol.signing import address_of_key
from node.roles import contacts
from node.roles.market import Auction, Candidate, Effect, Event, Market, Report
from node.roles.seller import Seller
from tests.protocol.market_samples import announced, signed_terms, worker_of
from tests.roles.fakes import UNIX_MS_START, FakeSession, Gossip, Net, key_of
from tests.roles.market_world import MODEL, NEED, PREFS, FakeStore, Node, World

SETTLE_S = 5.0
DELAY_S = 0.005
SECOND_CHEAPEST = 300_000
PRICES = (400_000, 200_000, SECOND_CHEAPEST)


class Scene:
    """Three workers, the second cheapest, that know each other; and a nursery for more."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world = world
        self.nursery = nursery
        self.sellers: list[Seller] = []

    async def client(self, *, store: FakeStore | None = None, **more: object) -> Market:
        node, market = await self.world.client(self.nursery, **more)  # type: ignore[arg-type]
        self.node = node
        return market

    def address(self, number: int) -> bytes:
        return self.world.workers[number].address


@asynccontextmanager
async def scene(
    *, prices: tuple[int, ...] = PRICES, gossip: Gossip | None = None, bootstrap: bool = True
) -> AsyncIterator[Scene]:
    world = World(Net(delay_s=DELAY_S), gossip=gossip)
    async with trio.open_nursery() as nursery:
        made = Scene(world, nursery)
        for price in prices:
            _, seller = await world.worker(nursery, price_out=price, bootstrap=bootstrap)
            made.sellers.append(seller)
        await trio.sleep(SETTLE_S)
        yield made
        nursery.cancel_scope.cancel()


def refusal(candidate: Candidate, code: Refused, offer: object = None) -> Refusal:
    return Refusal(
        job=b"j" * 16,
        subject=bytes(32),
        code=code,
        detail="",
        offer=offer,  # type: ignore[arg-type]
        lock_total=0,
    )


def well(market: Market, candidate: Candidate) -> None:
    market.measured(
        Report(
            worker=candidate.session.peer,
            model=MODEL,
            tokens_in=100,
            first_token_s=0.061,
            rate_tps=100.0,
            ok=True,
        )
    )


# ------------------------------------------------------------------------------------- cold start


async def test_a_cold_client_finds_and_compares_all_three_workers(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        begun_s = trio.current_time()
        seen: list[Event | Effect] = []
        market = await world.client()
        auction = market.auction(NEED, PREFS, observer=seen.append)
        candidate = await auction.next()
        # Two dials of 20 ms in a row, and three round trips of 10 ms.
        assert trio.current_time() - begun_s < 0.1
        assert candidate.session.peer == world.address(1)
        assert candidate.price_micro == 30
        assert candidate.terms_digest == signing.digest(
            candidate.terms.statement, world.world.net.domain
        )
        record = auction.record()
        assert (record.mode, record.winner, record.asked) == ("ask", world.address(1), 3)
        assert [each.estimate.price_micro for each in record.bids] == [30, 40, 50]
        assert record.reason.startswith("best score of 3 within limits")
        assert {type(each) for each in seen} > {SendAsk, Bound, GiveAward}


@pytest.mark.parametrize("find_s", [0.1, 1000.0], ids=["DHT", "gossip"])
async def test_without_bootstrap_one_other_source_is_enough(
    find_s: float, autojump_clock: trio.abc.Clock
) -> None:
    async with scene(gossip=Gossip(find_s=find_s), bootstrap=False) as world:
        market = await world.client(bootstrap=(), config=ClientConfig(discover_s=15))
        candidate = await market.auction(NEED, PREFS).next()
        assert candidate.session.peer in {world.address(n) for n in range(3)}


async def test_nobody_there_is_said_after_the_search(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net())
    far = world.node(9).transport.addrs
    world.net.down.update(far)
    async with trio.open_nursery() as nursery:
        _, market = await world.client(nursery, bootstrap=far)
        with pytest.raises(NoPeers, match=r"no worker that sells this model was found in 5\.0 s"):
            await market.auction(NEED, PREFS).next()
        assert trio.current_time() == pytest.approx(ClientConfig().discover_s)
        nursery.cancel_scope.cancel()


async def test_dead_leads_cost_no_more_than_the_window(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        world.world.net.down.update(world.world.workers[1].transport.addrs)
        market = await world.client()
        candidate = await market.auction(NEED, PREFS).next()
        assert candidate.session.peer == world.address(2)


async def test_a_silent_worker_costs_the_window(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        begun_s = trio.current_time()
        market = await world.client()
        auction = market.auction(NEED, PREFS, observer=lambda event: freeze(event))
        silent = world.address(1)

        def freeze(event: Event | Effect) -> None:
            session = world.node.transport.sessions().get(silent)
            if session is not None:
                session.frozen = True  # its asks never arrive

        candidate = await auction.next()
        took_s = trio.current_time() - begun_s
        assert candidate.session.peer == world.address(2)
        assert 0.4 < took_s < 0.5


# ---------------------------------------------------------------------------------- direct awards


async def test_with_offers_at_hand_the_award_is_direct_and_immediate(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        market = await world.client()
        await market.auction(NEED, PREFS).next()
        await trio.sleep(SETTLE_S)
        begun_s = trio.current_time()
        auction = market.auction(NEED, PREFS)
        candidate = await auction.next()
        assert trio.current_time() == begun_s
        assert (auction.record().mode, auction.record().asked) == ("direct", 0)
        assert candidate.session.peer == world.address(1)


async def test_refusals_lead_to_the_next_and_after_three_to_an_ask(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene(prices=(100_000, 200_000, 400_000, 800_000)) as world:
        market = await world.client()
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        auction = market.auction(NEED, PREFS)
        winners = []
        for _ in range(4):
            candidate = await auction.next()
            winners.append(candidate.session.peer)
            auction.refused(candidate, refusal(candidate, Refused.BUSY))
        assert winners[:3] == [world.address(n) for n in range(3)]
        record = auction.record()
        assert record.mode == "ask"
        assert [each.code for each in record.refusals] == ["BUSY"] * 4


async def test_a_fresh_offer_in_a_refusal_competes_and_a_false_one_does_not(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        market = await world.client()
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        auction = market.auction(NEED, PREFS)
        first = await auction.next()
        fresh = world.sellers[1].fresh_offer(MODEL)
        auction.refused(first, refusal(first, Refused.LOCK_REQUIRED, fresh))
        second = await auction.next()
        assert second.session.peer == first.session.peer
        assert second.terms == fresh
        forged = signing.sign(
            replace(fresh.statement, serial=10**9),
            world.world.net.domain,
            key_of(9),
        )
        other = market.auction(NEED, PREFS)
        candidate = await other.next()
        other.refused(candidate, refusal(candidate, Refused.LOCK_REQUIRED, forged))
        assert (await other.next()).terms != forged


async def test_a_lost_award_goes_elsewhere(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        market = await world.client()
        auction = market.auction(NEED, PREFS)
        first = await auction.next()
        assert isinstance(first.session, FakeSession)
        first.session.cut()
        auction.lost(first, "connection lost", failed=False)
        second = await auction.next()
        assert second.session.peer == world.address(2)
        assert [each.code for each in auction.record().refusals] == ["LOST"]


async def test_an_award_that_came_to_nothing_is_held_against_its_worker(
    autojump_clock: trio.abc.Clock,
) -> None:
    """In the next auction too; one that never had it is as good as before."""
    async with scene() as world:
        market = await world.client()
        auction = market.auction(NEED, PREFS)
        unlucky = await auction.next()
        auction.lost(unlucky, "the award did not fit", failed=False)
        silent = await auction.next()
        auction.lost(silent, "no acceptance within 5 s", failed=True)
        tracks = market.tracks(MODEL)
        assert tracks[silent.session.peer].trust is Trust.FAILING
        assert unlucky.session.peer not in tracks
        assert market.newcomers_permille() == newcomers_after(OK_WHOLE, ok=False)


async def test_a_worker_that_leaves_at_the_moment_of_the_choice_is_passed_over(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        market = await world.client()

        def cut(event: Event | Effect) -> None:
            if isinstance(event, GiveAward) and event.choice.standing.terms.price_out == 200_000:
                world.node.transport.sessions()[world.address(1)].cut()

        auction = market.auction(NEED, PREFS, observer=cut)
        assert (await auction.next()).session.peer == world.address(2)
        assert [each.detail for each in auction.record().refusals] == ["left before the award"]


async def test_a_candidate_that_was_never_used_is_not_given_again(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        auction = (await world.client()).auction(NEED, PREFS)
        peers = [(await auction.next()).session.peer for _ in range(3)]
        assert len(set(peers)) == 3
        with pytest.raises(NoPeers):
            await auction.next()


async def test_fifty_auctions_at_once_are_spread_over_equals(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene(prices=(400_000, 400_000, 400_000)) as world:
        market = await world.client()
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        winners: list[bytes] = []

        async def one(auction: Auction) -> None:
            winners.append((await auction.next()).session.peer)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one, market.auction(NEED, PREFS))
        assert {winners.count(each.address) >= 5 for each in world.world.workers} == {True}


# ------------------------------------------------------------------------------ limits and orders


async def test_limits_that_nobody_meets_are_named_at_once(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        market = await world.client()
        begun_s = trio.current_time()
        with pytest.raises(NoPeers, match=r"none of 3 bids met the limits \(costs 30 micro"):
            await market.auction(NEED, replace(PREFS, price_micro_max=29)).next()
        assert trio.current_time() - begun_s < 0.5


async def test_only_the_wanted_worker_is_dialled_asked_and_taken(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        wanted = world.address(0)
        market = await world.client(
            bootstrap=world.world.workers[1].transport.addrs, config=ClientConfig(workers_max=1)
        )
        auction = market.auction(NEED, replace(PREFS, worker=wanted))
        assert (await auction.next()).session.peer == wanted
        assert auction.record().reason.startswith("the wanted worker")
        absent = market.auction(NEED, replace(PREFS, worker=b"a" * 20))
        with pytest.raises(NoPeers, match="the wanted worker was not found"):
            await absent.next()


async def test_refused_asks_are_told_by_code(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        for seller in world.sellers:
            seller.drain()
        market = await world.client()
        with pytest.raises(NoPeers, match="refused: DRAINING 3×"):
            await market.auction(NEED, PREFS).next()


async def test_busy_workers_are_waited_for(autojump_clock: trio.abc.Clock) -> None:
    async with scene(prices=(400_000,)) as world:
        seller = world.sellers[0]
        keys = [bytes([n]) * 32 for n in range(18)]
        assert all(seller.reserve(key) for key in keys)
        for key in keys:
            seller.started(key)
        market = await world.client()

        async def free_one() -> None:
            await trio.sleep(2)
            seller.free(keys[0])

        world.nursery.start_soon(free_one)
        auction = market.auction(NEED, PREFS)
        candidate = await auction.next()
        assert candidate.session.peer == world.address(0)
        assert "BUSY" in {each.code for each in auction.record().refusals}


# ----------------------------------------------------------------------------------- measurements


async def test_measurements_decide_and_outlive_the_process(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene(prices=(400_000, 395_000)) as world:
        async with trio.open_nursery() as process:
            node, market = await world.world.client(process)
            kept = node.store
            auction = market.auction(NEED, PREFS)
            candidate = await auction.next()
            market.measured(
                Report(
                    worker=candidate.session.peer,
                    model=MODEL,
                    tokens_in=100,
                    first_token_s=4.0,
                    rate_tps=5.0,
                    ok=True,
                )
            )
            process.cancel_scope.cancel()
        slow = candidate.session.peer
        # The record of the first job and that of newcomers, saved though the run was cancelled.
        assert {row.worker for row in kept.rows.values()} == {slow, bytes(20)}
        later = world.world.node(2, bootstrap=world.world.workers[0].transport.addrs)
        later.store = kept
        market = await later.buy(world.nursery)
        auction = market.auction(NEED, PREFS)
        assert (await auction.next()).session.peer != slow
        jobs = {each.worker: each.jobs for each in auction.record().bids}
        assert jobs[slow] == 1


async def test_a_store_that_fails_costs_no_job_and_is_tried_again(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        market = await world.client()
        store = world.node.store
        candidate = await market.auction(NEED, PREFS).next()
        store.broken = True
        well(market, candidate)
        await trio.sleep(1)
        assert not store.rows
        again = await market.auction(NEED, PREFS).next()
        store.broken = False
        well(market, again)
        await market.flush()
        assert store.rows[again.session.peer, MODEL].count == 2


async def test_a_worker_that_fails_is_left_for_one_that_does_not(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        market = await world.client()
        cheapest = await market.auction(NEED, PREFS).next()
        market.measured(
            Report(
                worker=cheapest.session.peer,
                model=MODEL,
                tokens_in=100,
                first_token_s=None,
                rate_tps=None,
                ok=False,
            )
        )
        winners = set()
        for _ in range(10):
            await trio.sleep(1)
            candidate = await market.auction(NEED, PREFS).next()
            winners.add(candidate.session.peer)
            well(market, candidate)
        assert cheapest.session.peer not in winners
        world.world.clock.skew_ms += 3_601_000  # an hour later it may try again
        again = await market.auction(NEED, PREFS).next()
        assert market.tracks(MODEL)[cheapest.session.peer].jobs == 0
        assert again.session.lost is None


# --------------------------------------------------------------------------------------- sessions


async def test_offers_die_with_their_session(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        market = await world.client()
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        assert len(market.live_offers(MODEL)) == 3
        world.node.transport.sessions()[world.address(1)].cut()
        await trio.sleep(0.001)
        assert len(market.live_offers(MODEL)) == 2
        await trio.sleep(SETTLE_S)  # it is dialled again
        assert len(market.live_offers(MODEL)) == 3


async def test_a_worker_with_which_no_session_lasts_is_dialled_now_and_then(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene(prices=PRICES[:1]) as s:
        market = await s.client()
        market.follow(MODEL)
        passed_s = trio.current_time() + 20.0
        while trio.current_time() < passed_s:
            for session in tuple(s.node.transport.sessions().values()):
                session.close("our protocol differs")
            await trio.sleep(0.01)
        # Besides the bootstrap address, which is tried again on its own account.
        assert len(s.node.transport.dialled) <= 60


async def test_sessions_are_bounded_and_places_are_rotated(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contacts, "ROTATE_EVERY_S", 5.0)
    async with scene(prices=(900_000, 800_000, 300_000, 400_000, 500_000)) as world:
        market = await world.client(config=ClientConfig(workers_max=3))
        market.follow(MODEL)
        met: set[bytes] = set()
        for _ in range(40):
            await trio.sleep(3)
            sessions = set(world.node.transport.sessions())
            assert len(sessions) <= 3
            met |= sessions
        assert met == {each.address for each in world.world.workers}


async def test_a_worker_that_joins_has_a_first_job_though_it_is_dear(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene(gossip=Gossip()) as world:
        market = await world.client()
        well(market, await market.auction(NEED, PREFS).next())
        await trio.sleep(places.NEW_S / 2)
        market.follow(MODEL)  # or it would rest
        await trio.sleep(places.NEW_S / 2 + 1)
        new, _ = await world.world.worker(world.nursery, price_out=500_000)
        reasons = {}
        for _ in range(30):
            await trio.sleep(1)
            candidate = await market.auction(NEED, PREFS).next()
            reasons[candidate.session.peer] = candidate.reason
            well(market, candidate)
        assert reasons[new.address].startswith("a first job")
        assert market.tracks(MODEL)[new.address].jobs == 1


async def test_a_session_with_a_job_is_not_rotated_away(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contacts, "ROTATE_EVERY_S", 5.0)
    async with scene(prices=(900_000, 800_000, 300_000, 400_000, 500_000)) as world:
        market = await world.client(config=ClientConfig(workers_max=2))
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        own = [w for w in world.node.transport.sessions() if w != world.address(0)]
        held = await market.auction(NEED, replace(PREFS, worker=own[0])).next()
        for _ in range(20):
            market.follow(MODEL)  # or it would rest
            await trio.sleep(3)
        assert held.session.lost is None
        market.measured(
            Report(
                worker=held.session.peer,
                model=MODEL,
                tokens_in=100,
                first_token_s=None,
                rate_tps=None,
                ok=False,
            )
        )
        for _ in range(20):
            market.follow(MODEL)
            await trio.sleep(3)
        assert held.session.lost is not None


async def test_who_has_no_auctions_wants_no_offers_until_the_next(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        market = await world.client()
        await market.auction(NEED, PREFS).next()
        await trio.sleep(contacts.IDLE_S / 2)
        assert len(market.live_offers(MODEL)) == 3
        await trio.sleep(contacts.IDLE_S)
        assert market.live_offers(MODEL) == ()
        assert len(world.node.transport.sessions()) >= 3
        began_s = trio.current_time()
        await market.auction(NEED, PREFS).next()
        assert trio.current_time() - began_s < 1
        await trio.sleep(1)
        assert len(market.live_offers(MODEL)) == 3


async def test_all_models_can_be_followed(autojump_clock: trio.abc.Clock) -> None:
    async with scene() as world:
        market = await world.client()
        market.follow(ANY_MODEL)
        await trio.sleep(SETTLE_S)
        assert len(market.live_offers(MODEL)) == 3


async def test_hints_that_lie_cost_a_dial_and_no_place(
    autojump_clock: trio.abc.Clock,
) -> None:
    gossip = Gossip()
    async with scene(prices=(400_000,), gossip=gossip) as world:
        bystander, named = world.world.node(60), world.world.node(61, sells=True)
        gossip.providers[MODEL] = dict.fromkeys(bystander.transport.addrs)
        market = await world.client()
        # Announced by one key, at the address of another.
        false = announced(
            62, issued_ms=UNIX_MS_START, ttl_s=600, model=MODEL, addrs=named.transport.addrs
        )
        world.node.hints.take(false, source=world.address(0))
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        assert bystander.transport.addrs[0] in world.node.transport.dialled
        assert world.node.hints.lead_to(worker_of(62)) is None
        # The worker at the stolen address answered, and is not made to pay for the lie.
        assert set(world.node.transport.sessions()) == {world.address(0), named.address}


async def test_a_worker_announced_at_a_wrong_address_by_another_is_still_dialled(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with scene() as world:
        victim = world.world.workers[2].transport.addrs[0]
        wrong = "/ip4/10.255.0.1/tcp/1/p2p/" + victim.rpartition("/")[2]
        market = await world.client()
        for number in range(60, 70):
            false = announced(
                number, issued_ms=UNIX_MS_START, ttl_s=600, model=MODEL, addrs=(wrong,)
            )
            world.node.hints.take(false, source=world.address(0))
        market.follow(MODEL)
        await trio.sleep(SETTLE_S)
        assert wrong in world.node.transport.dialled
        assert world.address(2) in world.node.transport.sessions()


# ------------------------------------------------------------------------------------ hostile peers


class Liar:
    """A peer that claims to sell and says what the test wants."""

    def __init__(self, world: World, node: Node, session: FakeSession) -> None:
        self.address = address_of_key(key_of(50))
        self.session = session

    async def asked(self) -> AskFrame:
        with trio.fail_after(2):
            while True:
                frame = (await self.session.receive()).frame
                if isinstance(frame, AskFrame):
                    return frame


@asynccontextmanager
async def lied_to() -> AsyncIterator[tuple[Market, Liar]]:
    world = World(Net())
    async with trio.open_nursery() as nursery:
        node, market = await world.client(nursery, bootstrap=())
        market.follow(MODEL)
        liar = world.net.transport(key_of(50), sells=True)
        yield market, Liar(world, node, await liar.connect(node.transport.addrs))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "frame",
    [
        Offer(terms=signed_terms(51, model=MODEL)),
        Offer(terms=replace(signed_terms(50, model=MODEL), signature=bytes(64))),
        Offer(terms=signed_terms(50, model=MODEL, ask=b"a" * 32)),
        Offer(terms=signed_terms(50, model=MODEL, tier=7)),
    ],
    ids=["another's", "unsigned", "for an ask", "malformed"],
)
async def test_a_false_offer_ends_the_session(frame: Frame, autojump_clock: trio.abc.Clock) -> None:
    async with lied_to() as (market, liar):
        await liar.session.send(frame)
        with trio.fail_after(1):
            await liar.session.wait_lost()
        assert not market.live_offers(MODEL)


async def test_a_false_bid_ends_the_session_and_a_late_or_unasked_one_is_ignored(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with lied_to() as (market, liar), trio.open_nursery() as nursery:
        auction = market.auction(NEED, PREFS)
        nursery.start_soon(ignoring_no_peers, auction)
        ask = signing.digest((await liar.asked()).ask.statement, Net().domain)
        unasked = signed_terms(50, model=MODEL, ask=b"a" * 32)
        await liar.session.send(Bid(terms=unasked))
        await trio.sleep(0.01)
        assert liar.session.lost is None
        assert market.dropped()["late or unasked"] == 1
        forged = replace(signed_terms(50, model=MODEL, ask=ask), signature=bytes(64))
        await liar.session.send(Bid(terms=forged))
        with trio.fail_after(1):
            await liar.session.wait_lost()
        nursery.cancel_scope.cancel()


async def ignoring_no_peers(auction: Auction) -> None:
    with pytest.raises(NoPeers):
        await auction.next()


async def test_refusals_of_asks_that_were_never_sent_are_ignored(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with lied_to() as (_, liar):
        frame = Refusal(job=NO_JOB, subject=b"x" * 32, code=1, detail="", offer=None, lock_total=0)
        await liar.session.send(frame)
        await trio.sleep(0.01)
        assert liar.session.lost is None


async def test_offers_for_other_models_are_not_kept(autojump_clock: trio.abc.Clock) -> None:
    async with lied_to() as (market, liar):
        await liar.session.send(Offer(terms=signed_terms(50, model=b"x" * 32)))
        await trio.sleep(0.01)
        assert not market.live_offers(b"x" * 32)


async def test_a_flood_of_offers_is_checked_no_faster_than_the_quota_and_cut_off(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with lied_to() as (market, liar):
        kept: set[int] = set()

        async def flood() -> None:
            for serial in range(2, 1300):
                offer = Offer(terms=signed_terms(50, model=MODEL, serial=serial))
                await liar.session.send(offer)
                await trio.sleep(0.001)
                kept.update(each.terms.serial for each in market.live_offers(MODEL))

        with pytest.raises(SessionLost, match="asks for too much"):
            await flood()
        assert len(kept) < 64 + 20 * 2


async def test_a_worker_that_refuses_an_ask_with_an_offer_may_still_win(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with lied_to() as (market, liar):
        auction = market.auction(NEED, PREFS)
        won: list[Candidate] = []

        async def bid() -> None:
            won.append(await auction.next())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bid)
            ask = signing.digest((await liar.asked()).ask.statement, Net().domain)
            await liar.session.send(
                Refusal(
                    job=NO_JOB,
                    subject=ask,
                    code=Refused.PRICE_TOO_LOW,
                    detail="",
                    offer=signed_terms(50, model=MODEL),
                    lock_total=0,
                )
            )
        assert won[0].session.peer == liar.address
