"""The next turn of a conversation goes back to who has read it, while that is as good as any."""

from typing import Any

from node.protocol import limits
from node.protocol.auction_record import AuctionRecord
from node.protocol.choice import DRAWS, Choice, choose, rank
from node.protocol.fields import Address
from node.protocol.scoring import OK_WHOLE, Track
from tests.protocol.market_samples import need, prefs, standing, worker_of

PROVEN = {worker_of(number): Track(jobs=9) for number in (1, 2, 3)}
ALIKE = {1: 400_000, 2: 401_000, 3: 402_000}


def chosen(
    *,
    known: dict[int, int],
    draw: int = 0,
    prices_out: dict[int, int] = ALIKE,
    tracks: dict[Address, Track] = PROVEN,
    tokens_in: int = 400,
    new_here: tuple[int, ...] = (),
    **of_prefs: Any,
) -> Choice:
    wanted = prefs(**of_prefs)
    ranking = rank(
        [standing(n, price_out=price, quantum=10**6) for n, price in prices_out.items()],
        need=need(tokens_in=tokens_in),
        prefs=wanted,
        tracks=tracks,
        elapsed_ms=0,
        known={worker_of(number): tokens for number, tokens in known.items()},
    )
    found = choose(
        ranking,
        prefs=wanted,
        tracks=tracks,
        newcomers_permille=OK_WHOLE,
        draws=(0, draw),
        refusals=0,
        new_here=[worker_of(number) for number in new_here],
    )
    assert found is not None
    return found


def winners(**how: Any) -> set[Address]:
    return {chosen(draw=draw, **how).standing.terms.worker for draw in range(0, DRAWS, DRAWS // 50)}


def test_equals_share_the_jobs_that_nobody_has_read() -> None:
    assert winners(known={}) == {worker_of(1), worker_of(2), worker_of(3)}


def test_a_conversation_goes_back_to_who_has_read_it() -> None:
    for number in (1, 2, 3):
        assert winners(known={number: 384}) == {worker_of(number)}


def test_the_best_of_those_who_have_read_it_has_it() -> None:
    assert winners(known={3: 352, 2: 384}) == {worker_of(2)}


def test_those_who_have_read_as_much_share_it() -> None:
    assert winners(known={1: 384, 2: 384, 3: 352}) == {worker_of(1), worker_of(2)}


def test_it_goes_elsewhere_once_others_are_better_all_the_same() -> None:
    # What is cached saves 29 of 80 micro; worker 1 has become dearer by more than that.
    dear = {1: 800_000, 2: 400_000}
    best = chosen(known={1: 384}, prices_out=dear)
    assert best.standing.terms.worker == worker_of(2)
    failing = {**PROVEN, worker_of(1): Track(jobs=9, ok_permille=100)}
    assert worker_of(1) not in winners(known={1: 384}, tracks=failing)
    forgetful = {**PROVEN, worker_of(1): Track(jobs=9, kept_permille=60)}
    assert len(winners(known={1: 384}, tracks=forgetful)) > 1


def test_a_beginning_that_all_prompts_share_does_not_gather_them_at_one_worker() -> None:
    assert len(winners(known={1: 32})) > 1


def test_a_strict_order_stays_strict() -> None:
    cheapest = {1: 400_000, 2: 300_000}
    assert winners(known={1: 384}, prices_out=cheapest, sort="throughput") == {worker_of(1)}
    far = {1: 900_000, 2: 400_000}
    assert winners(known={1: 384}, prices_out=far, sort="price") == {worker_of(2)}
    assert winners(known={1: 384}, worker=worker_of(2)) == {worker_of(2)}


def test_no_first_job_is_taken_from_a_conversation() -> None:
    tracks = {worker_of(1): Track(jobs=9)}
    tried = chosen(known={}, tracks=tracks, new_here=(3,))
    assert tried.reason.startswith("a first job")
    assert winners(known={1: 384}, tracks=tracks, new_here=(2, 3)) == {worker_of(1)}


def test_the_record_says_from_what_the_score_follows() -> None:
    best = chosen(known={3: 384})
    figures = best.estimate
    assert figures.price_micro == -(-(16 * 100_000 + 384 * 25_000 + 100 * 402_000) // 10**6)
    assert f"{figures.price_micro} micro with 384 cached tokens" in best.reason
    assert "goes on" not in best.reason  # it is the best, too
    close = chosen(known={3: 384, 1: 32}, prices_out={**ALIKE, 1: 110_000})
    assert close.standing.terms.worker == worker_of(3)
    assert close.reason.startswith("goes on with what it has read, its score within 5 %")
    assert len(close.reason.encode()) < limits.REASON_BYTES_MAX
    record = AuctionRecord(
        mode="direct",
        sort="score",
        asked=0,
        bids=best.ranking,
        refusals=(),
        winner=worker_of(3),
        reason=best.reason,
    )
    first, *others = record.to_json()["bids"]
    assert (first["won"], first["tokens_cached"], first["price_cached"]) == (True, 384, 25_000)
    assert [each["tokens_cached"] for each in others] == [0, 0]
