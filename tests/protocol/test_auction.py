"""The auction's state machine: each path once, then its promises under random events."""

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import auction, limits
from node.protocol.auction_record import BIDS_KEPT_MAX, LOST, NoBid
from node.protocol.auction_state import (
    AwardLost,
    AwardRefused,
    Bound,
    Declined,
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
from node.protocol.choice import Choice, why_nobody
from node.protocol.fields import Address
from node.protocol.frames import Refused
from node.protocol.objections import objection
from node.protocol.offers import Standing
from node.protocol.scoring import (
    OK_WHOLE,
    Preferences,
    Track,
    estimate,
    newcomers_after,
)
from tests.protocol.market_samples import need, prefs, standing, worker_of

RULES = Rules()
ASK = b"a" * 32


class Held:
    """An auction and what it did, with a clock that the test turns."""

    def __init__(
        self,
        offers: list[Standing] | None = None,
        *,
        reach: set[int] | None = None,
        pending: int = 0,
        wanted: Preferences | None = None,
        rules: Rules = RULES,
        tracks: dict[Address, Track] | None = None,
        newcomers: int = OK_WHOLE,
        seed: int = 1,
        new_here: Iterable[int] = (),
        **of_need: Any,
    ) -> None:
        self.now_s = 0.0
        offers = offers or []
        workers = {each.terms.worker for each in offers}
        if reach is not None:
            workers = {worker_of(number) for number in reach}
        self.state: State
        self.effects: list[Effect] = []
        self._took(
            auction.start(
                need=need(**of_need),
                prefs=wanted or prefs(),
                rules=rules,
                seed=seed,
                now_s=0.0,
                offers=tuple(offers),
                reached=Reached(
                    workers=frozenset(workers),
                    pending=pending,
                    new_here=frozenset(map(worker_of, new_here)),
                ),
                tracks=tracks or {},
                newcomers_permille=newcomers,
            )
        )

    def on(self, event: Event, *, at_s: float | None = None) -> "Held":
        self.now_s = self.now_s if at_s is None else at_s
        self._took(auction.step(self.state, event, self.now_s))
        return self

    def _took(self, step: Step) -> None:
        self.state, effects = step
        self.effects += effects

    @property
    def last(self) -> Effect | None:
        return self.effects[-1] if self.effects else None

    @property
    def choice(self) -> Choice:
        assert isinstance(self.last, GiveAward), self.last
        return self.last.choice

    @property
    def winner(self) -> Address:
        return self.choice.standing.terms.worker

    @property
    def asked(self) -> set[Address]:
        return {w for each in self.effects if isinstance(each, SendAsk) for w in each.workers}


def bid(number: int, **changes: Any) -> Bound:
    return Bound(standing=standing(number, **{"ask": ASK, "serial": 100, **changes}))


def reached(*numbers: int, pending: int = 0) -> Reached:
    return Reached(workers=frozenset(map(worker_of, numbers)), pending=pending)


def refusal(code: int = Refused.BUSY, fresh: Standing | None = None) -> AwardRefused:
    return AwardRefused(code=code, detail="", fresh=fresh)


def declined(number: int, code: int = Refused.BUSY) -> Declined:
    return Declined(worker=worker_of(number), code=code, detail="", fresh=None)


# ------------------------------------------------------------------------------ the direct award


def test_fresh_offers_are_awarded_at_once_without_an_ask() -> None:
    held = Held([standing(1, price_out=600_000), standing(2), standing(3, price_out=800_000)])
    assert held.effects == [GiveAward(choice=held.choice)]
    assert held.winner == worker_of(2)
    record = auction.record(held.state, 0.0)
    assert (record.mode, record.winner, record.asked) == ("direct", worker_of(2), 0)
    assert [each.worker for each in record.bids] == [worker_of(n) for n in (2, 1, 3)]
    assert record.reason == (
        "best score of 3 within limits: score 119 = 50 micro + 1.36 s × 50 micro/s; next best 139"
    )


def test_scores_within_five_percent_share_the_awards() -> None:
    offers = [standing(1), standing(2, price_out=450_000), standing(3, price_out=600_000)]
    wins = [Held(offers, seed=seed).winner for seed in range(300)]
    assert {wins.count(worker_of(n)) > 90 for n in (1, 2)} == {True}
    assert worker_of(3) not in wins
    assert "drawn from 2 of 3 within limits" in Held(offers).choice.reason


def test_a_refusal_with_a_fresh_offer_competes_again_and_without_one_does_not() -> None:
    held = Held([standing(1), standing(2, price_out=900_000)])
    held.on(refusal(fresh=standing(1, serial=2, price_out=500_000)))
    assert held.winner == worker_of(1)
    assert held.choice.standing.terms.serial == 2
    assert held.choice.reason.endswith("after 1 refused award")
    other = Held([standing(1), standing(2, price_out=900_000)]).on(refusal())
    assert other.winner == worker_of(2)


def test_a_fresh_offer_must_be_newer_than_the_refused_one() -> None:
    held = Held([standing(1, serial=5), standing(2, price_out=900_000)])
    held.on(refusal(fresh=standing(1, serial=5, price_out=1)))
    assert held.winner == worker_of(2)


def test_the_third_refusal_leads_to_a_full_ask() -> None:
    held = Held([standing(n, price_out=400_000 + n * 100_000) for n in range(1, 6)])
    for _ in range(2):
        held.on(refusal())
        assert held.state.mode is Phase.DIRECT
    held.on(refusal())
    assert isinstance(held.last, SendAsk)
    assert len(held.asked) == 5
    for number in (1, 2, 3, 4, 5):
        held.on(bid(number, price_out=400_000 + number * 100_000))
    assert held.winner == worker_of(1)
    assert auction.record(held.state, 0.0).mode == "ask"


@pytest.mark.parametrize("code", [Refused.BLOCKED, Refused.DRAINING, Refused.UNPAID, 999])
def test_a_worker_that_will_not_is_not_awarded_again(code: int) -> None:
    held = Held([standing(1), standing(2, price_out=900_000)])
    held.on(refusal(code, fresh=standing(1, serial=2, price_out=1)))
    assert held.winner == worker_of(2)
    held.on(Bound(standing=standing(1, serial=3, price_out=1))).on(refusal())
    assert not isinstance(held.last, GiveAward)


def test_a_worker_that_refuses_twice_is_out() -> None:
    held = Held([standing(1), standing(2, price_out=900_000)])
    held.on(refusal(fresh=standing(1, serial=2)))
    held.on(refusal(fresh=standing(1, serial=3)))
    assert held.winner == worker_of(2)


def test_a_lost_award_goes_to_the_next() -> None:
    held = Held([standing(1), standing(2, price_out=900_000)]).on(AwardLost(reason="left"))
    assert held.winner == worker_of(2)
    record = auction.record(held.state, 0.0)
    assert [(each.code, each.detail) for each in record.refusals] == [("LOST", "left")]


def test_an_offer_that_died_is_not_awarded() -> None:
    held = Held([standing(1), standing(2, price_out=900_000)])
    held.on(refusal(), at_s=limits.OFFER_LIFE_S)
    assert isinstance(held.last, SendAsk)


# ---------------------------------------------------------------------------------------- the ask


def test_a_cold_client_asks_each_worker_as_it_comes_and_ends_when_all_answered() -> None:
    held = Held(pending=1)
    assert held.effects == []
    held.on(reached(1, pending=2), at_s=0.02)
    held.on(bid(1), at_s=0.03)
    held.on(reached(1, 2, 3, pending=0), at_s=0.05)
    assert held.asked == {worker_of(n) for n in (1, 2, 3)}
    held.on(bid(2, price_out=200_000), at_s=0.06)
    assert not isinstance(held.last, GiveAward)
    held.on(declined(3, Refused.CONTEXT_TOO_LONG), at_s=0.07)
    assert held.winner == worker_of(2)
    record = auction.record(held.state, held.now_s)
    assert record.asked == 3
    assert [(r.subject, r.code) for r in record.refusals] == [("ask", "CONTEXT_TOO_LONG")]


def test_few_offers_among_many_workers_are_not_enough_for_a_choice() -> None:
    one_of_three = Held([standing(1)], reach={1, 2, 3})
    assert isinstance(one_of_three.last, SendAsk)
    one_of_three.on(bid(2, price_out=1)).on(bid(3)).on(bid(1))
    assert one_of_three.winner == worker_of(2)
    assert isinstance(Held([standing(1)], reach={1}).last, GiveAward)
    three_of_nine = Held([standing(n) for n in (1, 2, 3)], reach=set(range(1, 10)))
    assert isinstance(three_of_nine.last, GiveAward)
    wanted = Held([standing(1)], reach={1, 2, 3}, wanted=prefs(worker=worker_of(1)))
    assert isinstance(wanted.last, GiveAward)


def test_the_window_closes_though_somebody_is_silent_or_still_dialled() -> None:
    held = Held(reach={1, 2}, pending=1).on(bid(1), at_s=0.1)
    assert not isinstance(held.last, GiveAward)
    assert auction.wake_s(held.state, held.now_s) == RULES.bid_window_s
    held.on(Tick(), at_s=RULES.bid_window_s)
    assert held.winner == worker_of(1)


def test_after_the_window_the_first_bid_wins() -> None:
    held = Held(reach={1, 2}).on(Tick(), at_s=1.0)
    assert not isinstance(held.last, GiveAward)
    assert held.on(bid(2), at_s=1.5).winner == worker_of(2)


def test_nobody_waits_for_a_worker_that_left() -> None:
    held = Held(reach={1, 2}).on(bid(1), at_s=0.01).on(reached(1), at_s=0.02)
    assert held.winner == worker_of(1)


def test_an_offer_is_no_answer_to_an_ask_but_counts_at_the_end() -> None:
    held = Held(reach={1, 2})
    held.on(Bound(standing=standing(1, price_out=1))).on(bid(2))
    assert not isinstance(held.last, GiveAward)
    held.on(Tick(), at_s=RULES.bid_window_s)
    assert held.winner == worker_of(1)


def test_a_large_job_is_asked_for_even_with_offers_at_hand() -> None:
    many = Held([standing(1)], tokens_in=RULES.large_tokens_in)
    dear = Held([standing(1, price_out=10_100_000_000)])
    for held in (many, dear):
        assert isinstance(held.last, SendAsk)


def test_when_all_are_busy_they_are_asked_again_until_the_time_is_up() -> None:
    held = Held(reach={1}).on(declined(1), at_s=0.01)
    assert auction.wake_s(held.state, held.now_s) == min(
        RULES.bid_window_s, 0.01 + RULES.ask_again_s
    )
    held.on(Tick(), at_s=1.01)
    assert len([each for each in held.effects if isinstance(each, SendAsk)]) == 2
    assert held.on(bid(1), at_s=1.02).winner == worker_of(1)
    stubborn = Held(reach={1})
    for second in range(6):
        stubborn.on(declined(1), at_s=second + 0.01).on(Tick(), at_s=second + 1.01)
    assert isinstance(stubborn.last, GiveUp)
    assert "refused: BUSY" in stubborn.last.reason


def test_everybodys_last_word_ends_it_at_once() -> None:
    held = Held(reach={1, 2}).on(declined(1, Refused.BLOCKED)).on(declined(2, Refused.DRAINING))
    assert held.last == GiveUp(reason="refused: BLOCKED 1×, DRAINING 1×")
    dear = Held(reach={1}, wanted=prefs(price_micro_max=49)).on(bid(1))
    assert dear.last == GiveUp(reason="none of 1 bid met the limits (costs 50 micro, limit 49)")
    over = auction.step(dear.state, bid(1, serial=101, price_out=1), 0.1)
    assert over == (dear.state, ())


def test_nobody_found() -> None:
    held = Held()
    assert auction.wake_s(held.state, held.now_s) == RULES.discover_s
    held.on(Tick(), at_s=RULES.discover_s)
    assert held.last == GiveUp(reason="no worker that sells this model was found in 5.0 s")


def test_nobody_answers() -> None:
    held = Held(reach={1, 2}).on(Tick(), at_s=RULES.discover_s)
    assert held.last == GiveUp(reason="2 workers asked, none answered")


def test_a_refused_bid_goes_to_the_next_bid_without_another_round() -> None:
    held = Held(reach={1, 2}).on(bid(1)).on(bid(2, price_out=900_000))
    asks = len(held.effects)
    held.on(refusal(Refused.LOCK_REQUIRED))
    assert held.winner == worker_of(2)
    assert [type(each) for each in held.effects[asks:]] == [GiveAward]


def test_awards_are_bounded() -> None:
    rules = replace(RULES, awards_max=3, refusals_per_worker_max=99)
    held = Held(reach={1}, rules=rules)
    for serial in range(1, 10):
        held.on(bid(1, serial=serial))
        held.on(refusal())
    assert isinstance(held.last, GiveUp)
    assert held.last.reason.startswith("3 awards came to nothing")
    assert len([each for each in held.effects if isinstance(each, GiveAward)]) == 3


def test_no_more_are_asked_than_the_rules_allow() -> None:
    held = Held(reach=set(range(1, 60)))
    assert len(held.asked) == RULES.asks_max


# ------------------------------------------------------------------------ limits and orders


def test_one_worker_only_means_only_that_one() -> None:
    offers = [standing(1), standing(2, price_out=900_000)]
    only = prefs(worker=worker_of(2))
    held = Held(offers, wanted=only)
    assert held.winner == worker_of(2)
    assert held.choice.reason.startswith("the wanted worker")
    absent = Held(offers, wanted=prefs(worker=worker_of(9)))
    assert absent.effects == []
    absent.on(Tick(), at_s=RULES.discover_s)
    assert isinstance(absent.last, GiveUp)
    found = Held(offers, wanted=prefs(worker=worker_of(9))).on(reached(1, 2, 9), at_s=1.0)
    assert found.asked == {worker_of(9)}


@pytest.mark.parametrize(
    ("limit", "objection_to_first"),
    [
        ({"only": frozenset({worker_of(2), worker_of(3)})}, "not one of the wanted workers"),
        ({"ignore": frozenset({worker_of(1)})}, "not one of the wanted workers"),
        ({"price_in_max": 99_999}, "micro per million prompt tokens, limit 99999"),
        ({"price_out_max": 399_999}, "micro per million output tokens, limit 399999"),
        ({"first_token_ms_max": 200}, "limit 200"),
        ({"rate_mtps_min": 60_000}, "wanted 60.0"),
    ],
)
def test_what_a_client_insists_on_is_a_limit(
    limit: dict[str, Any], objection_to_first: str
) -> None:
    better = {"price_in": 10_000, "price_cached": 0, "first_token_ms": 10, "rate_mtps": 90_000}
    offers = [
        standing(1, price_in=100_000, price_out=400_000, first_token_ms=900, rate_mtps=50_000),
        standing(2, price_out=300_000, **better),
    ]
    held = Held(offers, wanted=prefs(**limit, value_of_time_micro_per_s=0))
    assert held.winner == worker_of(2)
    refused = {each.worker: each.objection for each in auction.record(held.state, 0.0).bids}
    assert objection_to_first in str(refused[worker_of(1)])


@pytest.mark.parametrize(
    ("sort", "best"), [("price", 1), ("latency", 2), ("throughput", 3), ("score", 3)]
)
def test_each_order_is_strict(sort: Any, best: int) -> None:
    offers = [
        standing(1, price_out=390_000, first_token_ms=9_000, rate_mtps=10_000),
        standing(2, first_token_ms=10, rate_mtps=20_000),
        standing(3, first_token_ms=99, rate_mtps=200_000),
    ]
    failing = {worker_of(best): Track(jobs=9, ok_permille=0)} if sort != "score" else {}
    wanted = prefs(sort=sort)
    wins = {Held(offers, wanted=wanted, tracks=failing, seed=seed).winner for seed in range(50)}
    assert wins == {worker_of(best)}


# ------------------------------------------------------------------------------------- newcomers


def test_who_is_new_has_a_first_job_though_others_are_better() -> None:
    """One of ten workers: in about a tenth of the auctions, until it was tried."""
    offers = [standing(number, price_out=400_000 + number) for number in range(1, 10)]
    offers.append(standing(10, price_out=700_000))
    new = worker_of(10)
    proven = {worker_of(number): Track(jobs=1) for number in range(1, 10)}

    def wins(*, tracks: dict[Address, Track] = proven, **known: Any) -> int:
        helds = [Held(offers, seed=seed, tracks=tracks, **known) for seed in range(300)]
        won = [held for held in helds if held.winner == new]
        assert all(held.choice.reason.startswith("a first job") for held in won)
        return len(won)

    assert wins() == 0
    assert 15 <= wins(new_here=[10]) <= 50
    assert wins(new_here=[10], tracks={**proven, new: Track(jobs=1)}) == 0
    assert wins(new_here=[10], wanted=prefs(sort="price")) == 0
    assert wins(new_here=[10], newcomers=300) <= 3


def test_a_first_job_is_not_given_at_any_price() -> None:
    offers = [standing(number, price_out=400_000 + number) for number in range(1, 10)]
    offers.append(standing(10, price_out=40_000_000))
    winners = {Held(offers, seed=seed, new_here=[10]).winner for seed in range(100)}
    assert worker_of(10) not in winners


# ------------------------------------------------------------------------------------------ trust


def test_a_worker_that_failed_comes_last_though_it_is_cheapest() -> None:
    tracks = {worker_of(1): Track(jobs=3, ok_permille=100)}
    held = Held([standing(1, price_out=1), standing(2)], tracks=tracks)
    assert held.winner == worker_of(2)
    assert held.choice.reason.endswith("1 untried or failing not considered")
    assert held.on(refusal()).winner == worker_of(1)


def test_newcomers_compete_while_newcomers_do_well() -> None:
    tracks = {worker_of(1): Track(jobs=5)}
    offers = [standing(1), standing(2, price_out=100_000)]
    assert Held(offers, tracks=tracks).winner == worker_of(2)
    wins = [Held(offers, tracks=tracks, newcomers=500, seed=s).winner for s in range(400)]
    assert 20 <= wins.count(worker_of(2)) <= 85  # 0.5³ = 12.5 %


def test_a_record_is_bounded_and_names_everyone_who_counted() -> None:
    offers = [standing(n, region="x" * 16, price_out=400_000 + n) for n in range(1, 201)]
    tracks = {worker_of(200): Track(jobs=5)}
    held = Held(offers, tracks=tracks, newcomers=0)
    assert held.winner == worker_of(200)
    for number in range(1, 99):
        held.state = replace(held.state, asked=held.state.asked | {worker_of(number)})
        held.on(Declined(worker=worker_of(number), code=1, detail="é" * 200))
    record = auction.record(held.state, 0.0)
    assert len(record.bids) == BIDS_KEPT_MAX
    assert [each["worker"] for each in record.to_json()["bids"] if each["won"]]
    assert len(record.to_bytes()) <= limits.RECORD_BYTES_MAX
    assert len(record.reason.encode()) <= limits.REASON_BYTES_MAX
    assert len(record.terms) <= limits.BIDS_MAX


def test_a_refused_bid_stays_in_the_record() -> None:
    held = Held([standing(1), standing(2, price_out=900_000)]).on(refusal())
    bids = auction.record(held.state, 0.0).to_json()["bids"]
    assert [each["objection"] for each in bids] == [None, "withdrawn or refused"]


@cache
def _honest(number: int) -> Standing:
    return standing(number, price_out=350_000 + 5_000 * number)


@cache
def _bait(number: int) -> Standing:
    changes = {"price_in": 1, "price_out": 1, "price_cached": 0, "first_token_ms": 1}
    return standing(number, rate_mtps=10**9, **changes)


class Flood:
    """20 honest workers and 180 identities that promise everything and do nothing."""

    HONEST = range(1, 21)

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.tracks: dict[Address, Track] = {}
        self.newcomers = OK_WHOLE
        self.next_sybil = 1000
        self.sybils = [self._fresh() for _ in range(180)]

    def _fresh(self) -> int:
        self.next_sybil += 1
        return self.next_sybil

    def run(self, number: int, *, ok: bool) -> None:
        track = self.tracks.get(worker_of(number), Track())
        if track.jobs == 0:
            self.newcomers = newcomers_after(self.newcomers, ok=ok)
        after = track.after(
            ok=ok,
            now_ms=0,
            tokens_in=100,
            first_token_ms=100 if ok else None,
            rate_mtps=100_000 if ok else None,
        )
        self.tracks[worker_of(number)] = after

    def job(self) -> bool:
        """One job's first award: whether an honest worker got it."""
        offers = [_honest(number) for number in self.HONEST]
        offers += [_bait(number) for number in self.sybils]
        held = Held(
            offers, tracks=self.tracks, newcomers=self.newcomers, seed=self.rng.getrandbits(64)
        )
        winner = held.choice.standing.terms.worker
        honest = next((n for n in self.HONEST if worker_of(n) == winner), None)
        if honest is not None:
            self.run(honest, ok=True)
            return True
        sybil = next(n for n in self.sybils if worker_of(n) == winner)
        self.run(sybil, ok=False)
        # An identity costs nothing: a burnt one is replaced at once.
        self.sybils[self.sybils.index(sybil)] = self._fresh()
        return False


@pytest.mark.parametrize("seed", range(2))
def test_against_nine_sybils_in_ten_a_client_with_history_chooses_honest_workers(
    seed: int,
) -> None:
    flood = Flood(seed)
    for number in Flood.HONEST:
        flood.run(number, ok=True)
    honest = [flood.job() for _ in range(200)]
    assert sum(honest) >= 0.95 * len(honest)


@pytest.mark.parametrize("seed", range(2))
def test_against_the_same_a_client_without_history_finds_one_by_trying(seed: int) -> None:
    flood = Flood(seed)
    honest = [flood.job() for _ in range(200)]
    assert honest.index(True) < 40  # one in ten, drawn blindly
    assert sum(honest[100:]) >= 95


# --------------------------------------------------------------------- under random events

numbers = st.integers(1, 6)
terms_changes = st.fixed_dictionaries(
    {
        "price_out": st.integers(1, 2_000_000),
        "first_token_ms": st.integers(0, 5_000),
        "rate_mtps": st.integers(1_000, 500_000),
        "region": st.sampled_from(["eu-west", "us"]),
        "context_max": st.sampled_from([150, 4096]),
        "prepay": st.sampled_from([0, 0, 10]),
    }
)
events = st.one_of(
    st.tuples(st.just("offer"), numbers, terms_changes),
    st.tuples(st.just("bid"), numbers, terms_changes),
    st.tuples(st.just("decline"), numbers, st.sampled_from([1, 4, 12, 15])),
    st.tuples(st.just("refuse"), st.sampled_from([1, 5, 7, 15]), st.none() | terms_changes),
    st.tuples(st.just("lose"), st.none(), st.none()),
    st.tuples(st.just("reach"), st.frozensets(numbers), st.integers(0, 2)),
    st.tuples(st.just("tick"), st.floats(0, 4), st.none()),
)
preferences = st.builds(
    Preferences,
    price_micro_max=st.integers(20, 300),
    deadline_s=st.none() | st.floats(0.5, 10),
    sort=st.sampled_from(["score", "price", "latency", "throughput"]),
    worker=st.none() | st.none() | numbers.map(worker_of),
    region=st.sampled_from(["", "", "eu"]),
    prepay_micro_max=st.sampled_from([0, 10]),
)


class Chaos:
    """Feeds an auction whatever is drawn, and checks its promises after every step."""

    def __init__(self, wanted: Preferences, seed: int) -> None:
        self.held = Held(reach={1, 2, 3}, wanted=wanted, seed=seed)
        self.serial = 0
        self.turned_down: set[bytes] = set()
        self.out: set[Address] = set()
        self.newest: dict[Address, Standing] = {}
        self.checked = 0
        self.check()

    def _standing(self, number: int, changes: dict[str, Any], **more: Any) -> Standing:
        self.serial += 1
        made = standing(number, arrived_s=self.held.now_s, serial=self.serial, **changes, **more)
        self.newest[made.terms.worker] = made
        return made

    def feed(self, kind: str, first: Any, second: Any) -> None:
        held = self.held
        match kind:
            case "offer":
                held.on(Bound(standing=self._standing(first, second)))
            case "bid":
                held.on(Bound(standing=self._standing(first, second, ask=ASK)))
            case "decline":
                if worker_of(first) in held.state.asked - held.state.answered:
                    self.newest.pop(worker_of(first), None)
                held.on(declined(first, second))
            case "reach":
                held.on(reached(*first, pending=second))
            case "tick":
                held.on(Tick(), at_s=held.now_s + first)
            case "refuse" | "lose" if held.state.phase is Phase.CHOSEN:
                self._turn_down(kind, first, second)
        self.check()

    def _turn_down(self, kind: str, code: int, fresh: dict[str, Any] | None) -> None:
        assert self.held.state.chosen is not None
        standing_ = self.held.state.chosen.standing
        worker = standing_.terms.worker
        self.turned_down.add(standing_.digest)
        self.newest.pop(worker, None)
        number = next(n for n in range(1, 7) if worker_of(n) == worker)
        if kind == "lose" or code == Refused.BLOCKED:
            self.out.add(worker)
        if kind == "lose":
            self.held.on(AwardLost(reason="left"))
        else:
            again = None if fresh is None else self._standing(number, fresh)
            self.held.on(refusal(code, again))

    def check(self) -> None:
        held = self.held
        for effect in held.effects[self.checked :]:
            if isinstance(effect, GiveAward):
                self.check_award(effect.choice)
            elif isinstance(effect, SendAsk):
                assert set(effect.workers) <= held.state.reach
                assert not set(effect.workers) & self.out
        self.checked = len(held.effects)
        due_s = auction.wake_s(held.state, held.now_s)
        if held.state.phase is Phase.ASK:
            assert due_s is not None
            assert due_s > held.now_s, "it would spin"
        auction.record(held.state, held.now_s).to_bytes()

    def check_award(self, choice: Choice) -> None:
        held, chosen = self.held, choice.standing
        figures = estimate(held.state.need, held.state.prefs, chosen.terms, Track())
        elapsed_ms = int(held.now_s * 1000)
        fault = objection(
            held.state.need, held.state.prefs, chosen.terms, figures, elapsed_ms=elapsed_ms
        )
        assert fault is None
        assert chosen.live(held.now_s)
        assert chosen.terms.worker in held.state.reach
        assert chosen.terms.worker not in self.out
        assert chosen.digest not in self.turned_down
        if held.state.prefs.sort == "score" and held.state.prefs.worker is None:
            within = [each.estimate.score for each in choice.ranking if each.objection is None]
            assert figures.score * 100 <= min(within) * 105


@settings(max_examples=150, deadline=None)
@given(preferences, st.integers(0, 2**32), st.lists(events, max_size=40))
def test_no_choice_breaks_a_limit_or_a_word(
    wanted: Preferences, seed: int, steps: list[tuple[str, Any, Any]]
) -> None:
    chaos = Chaos(wanted, seed)
    for step in steps:
        chaos.feed(*step)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(events, max_size=25))
def test_whatever_happened_time_alone_brings_it_to_an_end(
    seed: int, steps: list[tuple[str, Any, Any]]
) -> None:
    chaos = Chaos(prefs(), seed)
    for step in steps:
        chaos.feed(*step)
    held = chaos.held
    for _ in range(100):
        if held.state.phase in (Phase.OVER, Phase.CHOSEN):
            break
        due_s = auction.wake_s(held.state, held.now_s)
        assert due_s is not None
        held.on(Tick(), at_s=max(due_s, held.now_s))
        for worker in held.state.asked - held.state.answered:
            held.on(Declined(worker=worker, code=Refused.BUSY, detail=""))
    assert held.state.phase in (Phase.OVER, Phase.CHOSEN)


@given(st.integers(0, 2**64 - 1), st.lists(events, max_size=20))
@settings(max_examples=30, deadline=None)
def test_the_same_events_give_the_same_auction(
    seed: int, steps: list[tuple[str, Any, Any]]
) -> None:
    one, two = Chaos(prefs(), seed), Chaos(prefs(), seed)
    for step in steps:
        one.feed(*step)
        two.feed(*step)
    assert one.held.effects == two.held.effects


def test_who_had_the_award_and_failed_is_told_with_the_reason() -> None:
    lost = NoBid(worker=bytes(20), subject="award", code=LOST, detail="the connection was lost")
    busy = NoBid(worker=bytes(20), subject="ask", code="BUSY", detail="")
    told = why_nobody((), refusals=(busy, lost, lost), asked=2)
    assert told == "refused: BUSY 1×; lost: the connection was lost 2×"
