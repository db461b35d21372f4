"""Scores, limits and trust, with the arithmetic written out."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.fields import ZERO_HASH
from node.protocol.objections import objection
from node.protocol.scoring import (
    OK_WHOLE,
    Track,
    Trust,
    estimate,
    newcomer_share,
    newcomers_after,
)
from node.protocol.statements import Skill
from tests.protocol.market_samples import NOW_MS, need, prefs, terms, worker_of

FRESH = Track()


def track(*, jobs: int = 10, first_token_ms: int = 0, rate_mtps: int = 0) -> Track:
    """`first_token_ms` for a prompt of 1,024 tokens."""
    return Track(jobs=jobs, first_token_ms=first_token_ms, rate_mtps=rate_mtps)


def test_the_score_of_an_untried_worker() -> None:
    figures = estimate(need(), prefs(value_of_time_micro_per_s=50), terms(1), FRESH)
    assert figures.price_micro == 100 * 0.1 + 100 * 0.4 == 50
    assert figures.promised.first_token_ms == 100
    assert figures.promised.token_us == 10_000
    # A promise alone counts for 5/4 of its time: 125 ms + 99 tokens of 12.5 ms.
    assert figures.predicted.first_token_ms == 125
    assert figures.total_ms == 125 + 1238
    assert figures.score == 50 + 69  # 50 micro/s × 1.363 s = 68.15, rounded up


def test_measurements_take_over_from_promises() -> None:
    slow = track(jobs=2, first_token_ms=1280, rate_mtps=50_000)
    figures = estimate(need(tokens_in=1024), prefs(), terms(1), slow)
    # Two jobs weigh as much as the doubted promise: (2 × 1280 + 2 × 125) / 4.
    assert figures.predicted.first_token_ms == 702
    assert figures.predicted.token_us == (2 * 20_000 + 2 * 12_500) // 4
    many = track(jobs=98, first_token_ms=1280, rate_mtps=50_000)
    later = estimate(need(tokens_in=1024), prefs(), terms(1), many)
    assert 1250 < later.predicted.first_token_ms <= 1280


def test_a_worker_that_says_it_is_slow_is_believed() -> None:
    quick = track(jobs=100, first_token_ms=10, rate_mtps=900_000)
    figures = estimate(need(), prefs(), terms(1, first_token_ms=5_000, rate_mtps=1_000), quick)
    assert figures.predicted == figures.promised
    assert figures.predicted.first_token_ms == 5_000


def test_an_offer_is_scaled_from_1024_tokens_to_the_prompt_and_a_bid_is_not() -> None:
    # 1,024 tokens at 1,024 a second are 1,000 ms of the 1,100 promised.
    offer = terms(1, first_token_ms=1_100, prefill_tps=1_024)
    small = estimate(need(tokens_in=0), prefs(), offer, FRESH)
    large = estimate(need(tokens_in=3 * 1024), prefs(), offer, FRESH)
    assert (small.promised.first_token_ms, large.promised.first_token_ms) == (100, 3_100)
    bid = terms(1, first_token_ms=1_100, prefill_tps=1_024, ask=b"a" * 32)
    figures = estimate(need(tokens_in=0), prefs(), bid, FRESH)
    assert figures.promised.first_token_ms == 1_100


def test_what_was_measured_is_scaled_to_the_prompt() -> None:
    after = FRESH.after(ok=True, now_ms=NOW_MS, tokens_in=256, first_token_ms=100)
    assert after.first_token_ms == 100 * (1024 + 256) // (256 + 256)
    again = estimate(need(tokens_in=256), prefs(), terms(1, first_token_ms=1), after)
    assert again.predicted.first_token_ms == (100 + 2) // 3


def test_what_a_worker_has_read_before_costs_and_takes_less() -> None:
    # 800 tokens at 1,000 a second, of which 640 are known.
    wanted = need(tokens_in=800)
    offer = terms(1, first_token_ms=1_124, prefill_tps=1_000, quantum=10**6)
    plain = estimate(wanted, prefs(), offer, FRESH)
    figures = estimate(wanted, prefs(), offer, FRESH, tokens_known=640)
    assert (plain.price_micro, plain.tokens_cached, plain.resumes) == (120, 0, False)
    assert figures.price_micro == 160 * 0.1 + 640 * 0.025 + 100 * 0.4 == 72
    assert figures.price_most_micro == 120
    assert (plain.promised.first_token_ms, figures.promised.first_token_ms) == (900, 260)
    assert figures.uncached == plain.predicted
    assert figures.resumes
    assert figures.score == 72 + -(-50 * figures.total_ms // 1000)
    few = estimate(wanted, prefs(), offer, FRESH, tokens_known=192)
    assert not few.resumes


def test_a_bid_is_for_the_whole_prompt() -> None:
    bid = terms(1, first_token_ms=900, prefill_tps=1_000, ask=b"a" * 32)
    figures = estimate(need(tokens_in=800), prefs(), bid, FRESH, tokens_known=640)
    assert figures.promised.first_token_ms == 260
    boast = replace(bid, first_token_ms=5)
    figures = estimate(need(tokens_in=800), prefs(), boast, FRESH, tokens_known=640)
    assert figures.promised.first_token_ms == 0


def test_the_last_tokens_are_never_cached() -> None:
    figures = estimate(need(tokens_in=64), prefs(), terms(1), FRESH, tokens_known=64)
    assert figures.tokens_cached == 32


def test_a_worker_that_did_not_have_it_is_believed_less() -> None:
    measured: dict[str, Any] = {"ok": True, "now_ms": NOW_MS, "first_token_ms": 100}
    once = FRESH.after(**measured, tokens_known=640, tokens_cached=0)
    assert once.kept_permille == 500
    twice = once.after(**measured, tokens_known=640, tokens_cached=160)
    assert twice.kept_permille == (500 + 250) // 2
    assert twice.after(**measured, tokens_known=640, tokens_cached=700).kept_permille == 687
    # Nothing was known, or nothing came: that says nothing.
    assert twice.after(**measured).kept_permille == 375
    failed = twice.after(ok=False, now_ms=NOW_MS, tokens_known=640)
    assert failed.kept_permille == 375
    assert (
        estimate(need(tokens_in=800), prefs(), terms(1), once, tokens_known=640).tokens_cached
        == 320
    )


def test_a_first_token_is_measured_for_what_was_computed() -> None:
    whole = FRESH.after(ok=True, now_ms=NOW_MS, tokens_in=256, first_token_ms=100)
    cached = FRESH.after(
        ok=True, now_ms=NOW_MS, tokens_in=1024, tokens_cached=768, first_token_ms=100
    )
    assert cached.first_token_ms == whole.first_token_ms


def test_limits_hold_for_a_prompt_that_is_not_cached() -> None:
    wanted, limits = need(tokens_in=800), prefs(price_micro_max=119)
    figures = estimate(wanted, limits, terms(1), FRESH, tokens_known=640)
    fault = objection(wanted, limits, terms(1), figures, elapsed_ms=0)
    assert fault == "costs 120 micro, limit 119"


@pytest.mark.parametrize(
    ("of_need", "of_prefs", "of_terms", "says"),
    [
        ({}, {"worker": worker_of(2)}, {}, "wanted worker"),
        ({"model": b"x" * 32}, {}, {}, "model"),
        ({"tier": 2}, {}, {}, "tier"),
        ({"skills": 3}, {}, {"skills": 5}, "can't do what is asked: schema"),
        ({"tokens_in": 4000}, {}, {"quantum": 10**6}, "too short"),
        ({}, {}, {"output_max": 99}, "at most 99"),
        ({}, {"region": "us"}, {}, "region"),
        ({}, {"region": "eu-w"}, {}, "region"),
        ({}, {"price_micro_max": 49}, {}, "costs 50 micro, limit 49"),
        ({}, {}, {"prepay": 1}, "in advance"),
        ({"tokens_in": 1_000}, {}, {}, "no more credit"),
        ({}, {"deadline_s": 1.36}, {}, "would take 1363 ms"),
    ],
)
def test_objections(
    of_need: dict[str, Any], of_prefs: dict[str, Any], of_terms: dict[str, Any], says: str
) -> None:
    wanted, limits, offered = need(**of_need), prefs(**of_prefs), terms(1, **of_terms)
    figures = estimate(wanted, limits, offered, FRESH)
    fault = objection(wanted, limits, offered, figures, elapsed_ms=0)
    assert fault is not None
    assert says in fault


def test_skills_that_nobody_asked_for_are_no_objection() -> None:
    offer = terms(1, skills=255 & ~Skill.EMBEDDINGS)
    figures = estimate(need(skills=1), prefs(), offer, FRESH)
    assert objection(need(skills=1), prefs(), offer, figures, elapsed_ms=0) is None


def test_who_makes_embeddings_does_nothing_else() -> None:
    offer, wanted = terms(1, skills=Skill.EMBEDDINGS), need(skills=Skill.EMBEDDINGS)
    figures = estimate(wanted, prefs(), offer, FRESH)
    assert objection(wanted, prefs(), offer, figures, elapsed_ms=0) is None
    assert objection(need(), prefs(), offer, figures, elapsed_ms=0) is not None


@pytest.mark.parametrize(
    "of_prefs",
    [
        {"worker": worker_of(1)},
        {"region": "eu"},
        {"region": "EU-West"},
        {"price_micro_max": 50},
        {"deadline_s": 1.363},
    ],
)
def test_limits_that_are_just_met(of_prefs: dict[str, Any]) -> None:
    limits = prefs(**of_prefs)
    figures = estimate(need(), limits, terms(1), FRESH)
    assert objection(need(), limits, terms(1), figures, elapsed_ms=0) is None


def test_time_that_passed_is_gone_from_the_deadline() -> None:
    limits = prefs(deadline_s=2.0)
    figures = estimate(need(), limits, terms(1), FRESH)
    assert objection(need(), limits, terms(1), figures, elapsed_ms=600) is None
    assert objection(need(), limits, terms(1), figures, elapsed_ms=700)


def test_trust_is_earned_lost_and_earned_again() -> None:
    assert FRESH.trust is Trust.NEWCOMER
    good = FRESH.after(ok=True, now_ms=NOW_MS)
    assert good.trust is Trust.PROVEN
    bad = FRESH.after(ok=False, now_ms=NOW_MS)
    assert bad.trust is Trust.FAILING
    for _ in range(4):
        good = good.after(ok=True, now_ms=NOW_MS)
    fails = 0
    while good.trust is Trust.PROVEN:
        good = good.after(ok=False, now_ms=NOW_MS)
        fails += 1
    assert fails == 4  # 0.8⁴ < 0.5
    while good.trust is Trust.FAILING:
        good = good.after(ok=True, now_ms=NOW_MS)
    assert good.jobs == 5 + 4 + 1


def test_a_worker_that_only_ever_refuses_ends_up_failing() -> None:
    def refusals_until_failing(track: Track) -> int:
        count = 0
        while track.trust is not Trust.FAILING:
            track = track.refused(now_ms=NOW_MS)
            count += 1
        return count

    assert refusals_until_failing(FRESH) == 6
    assert 10 <= refusals_until_failing(FRESH.after(ok=True, now_ms=NOW_MS)) <= 20


def test_newcomers_lose_their_share_after_a_few_that_failed() -> None:
    record, shares = OK_WHOLE, []
    for _ in range(6):
        shares.append(newcomer_share(record))
        record = newcomers_after(record, ok=False)
    assert shares == [1000, 421, 177, 74, 31, 13]
    assert newcomer_share(0) == 5
    for _ in range(12):
        record = newcomers_after(record, ok=True)
    assert newcomer_share(record) > 800


counts = st.integers(0, 2**20)


@given(
    tokens_in=st.integers(0, 2**32 - 1),
    output_max=st.integers(0, 2**32 - 1),
    price=st.integers(0, 2**53),
    first_token_ms=st.integers(0, 2**32 - 1),
    rate_mtps=st.integers(1, 2**32 - 1),
    prefill_tps=st.integers(0, 2**32 - 1),
    measured=st.tuples(counts, counts, counts),
    ask=st.sampled_from([ZERO_HASH, b"a" * 32]),
    known=st.integers(0, 2**32),
    kept=st.integers(0, 1000),
)
def test_no_terms_that_pass_the_codec_upset_the_arithmetic(
    tokens_in: int,
    output_max: int,
    price: int,
    first_token_ms: int,
    rate_mtps: int,
    prefill_tps: int,
    measured: tuple[int, int, int],
    ask: bytes,
    known: int,
    kept: int,
) -> None:
    wanted = need(tokens_in=tokens_in, output_max=output_max)
    offered = terms(
        1,
        price_in=price,
        price_cached=min(price, 25_000),
        price_out=price,
        first_token_ms=first_token_ms,
        rate_mtps=rate_mtps,
        prefill_tps=prefill_tps,
        ask=ask,
    )
    jobs, first, rate = measured
    measured_of = replace(
        track(jobs=jobs, first_token_ms=first, rate_mtps=rate), kept_permille=kept
    )
    figures = estimate(wanted, prefs(), offered, measured_of, tokens_known=known)
    assert figures.score >= figures.price_micro >= 0
    assert 0 <= figures.tokens_cached <= max(tokens_in - 2, 0)
    assert figures.price_micro <= figures.price_most_micro
    assert figures.predicted.first_token_ms <= figures.uncached.first_token_ms
    assert figures.predicted.first_token_ms >= figures.promised.first_token_ms
    assert figures.predicted.token_us >= figures.promised.token_us
    assert objection(wanted, prefs(), offered, figures, elapsed_ms=0) != ""


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 50))
def test_a_slower_promise_never_helps(less: int, more: int, jobs: int) -> None:
    measured = track(jobs=jobs, first_token_ms=500, rate_mtps=100_000)
    less, more = sorted((less, more))
    scores = [
        estimate(need(), prefs(), terms(1, first_token_ms=each), measured).score
        for each in (less, more)
    ]
    assert scores[0] <= scores[1]
