"""How long silence may last: by the stream's own gaps, and before them by what was promised."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.patience import (
    ACCEPTANCE_S,
    GAP_S_MIN,
    Gaps,
    acceptance_limit_s,
    first_token_limit_s,
)


def gaps_of(*lengths: float) -> Gaps:
    gaps = Gaps()
    for length in lengths:
        gaps = gaps.after(length)
    return gaps


def cut_wrongly(lengths: list[float], expected_s: float) -> list[float]:
    """Gaps at which the stream would have been taken for stalled."""
    gaps, wrong = Gaps(), []
    for length in lengths:
        if length > gaps.limit_s(expected_s):
            wrong.append(length)
        gaps = gaps.after(length)
    return wrong


@pytest.mark.parametrize("rate_tps", [10, 30, 100, 400])
def test_a_typical_stream_is_taken_for_stalled_within_a_second(rate_tps: int) -> None:
    gaps = gaps_of(*[1 / rate_tps] * 50)
    assert GAP_S_MIN <= gaps.limit_s(1 / rate_tps) <= 1.0


def test_a_slow_but_steady_stream_has_a_multiple_of_its_gap() -> None:
    assert gaps_of(*[2.0] * 20).limit_s(0.01) >= 6.0
    assert cut_wrongly([2.0] * 200, expected_s=1.0) == []


def test_the_first_gap_is_judged_by_what_was_promised() -> None:
    assert Gaps().limit_s(0.02) == 1.0
    assert Gaps().limit_s(0.8) == 8.0


def test_who_was_slow_to_begin_may_be_slow_to_go_on() -> None:
    assert Gaps(first_s=1.5).limit_s(0.01) == 3.0
    assert Gaps(first_s=0.1).limit_s(0.01) == 1.0


def test_a_first_burst_is_no_record() -> None:
    """Forty tokens in one instant say nothing of the pause that follows them."""
    assert gaps_of(*[0.0] * 40).limit_s(0.3) == 3.0


@pytest.mark.parametrize("seed", range(20))
def test_a_busy_machine_is_not_taken_for_a_dead_one(seed: int) -> None:
    """Heavy tails: one gap in fifty is twenty times as long as usual, one in ten five times."""
    rng = random.Random(seed)
    lengths = [
        rng.expovariate(1 / 0.03) * rng.choices((1, 5, 20), (44, 5, 1))[0] for _ in range(2000)
    ]
    lengths = [min(each, 0.7) for each in lengths]
    assert cut_wrongly(lengths, expected_s=0.03) == []


@pytest.mark.parametrize("pause_s", [0.5, 1.5, 3.0])
def test_a_stream_in_bursts_learns_its_pauses(pause_s: float) -> None:
    """A batch of tokens, a pause, a batch …: at most the first pause surprises."""
    lengths = ([0.005] * 20 + [pause_s]) * 30
    assert len(cut_wrongly(lengths, expected_s=0.05)) <= 1


def test_a_long_gap_fades() -> None:
    gaps = gaps_of(*[0.02] * 50, 3.0)
    assert gaps.limit_s(0.02) >= 9.0
    for _ in range(400):
        gaps = gaps.after(0.02)
    assert gaps.limit_s(0.02) < 1.0


@given(
    lengths=st.lists(st.floats(min_value=0, max_value=100), max_size=60),
    expected_s=st.floats(min_value=0, max_value=100),
)
def test_any_stream_has_a_limit_above_its_last_longest_gap(
    lengths: list[float], expected_s: float
) -> None:
    limit_s = gaps_of(*lengths).limit_s(expected_s)
    assert limit_s >= GAP_S_MIN
    if lengths:
        assert limit_s >= lengths[-1]
        assert gaps_of(*lengths).variance_s2 >= 0


def test_first_token_and_acceptance_follow_what_is_expected_of_the_worker() -> None:
    assert first_token_limit_s(0.05) == 2.0
    assert first_token_limit_s(3.0) == 12.0
    assert acceptance_limit_s(0.0) == ACCEPTANCE_S[0]
    assert acceptance_limit_s(1.0) == 1.0
    assert acceptance_limit_s(60.0) == ACCEPTANCE_S[1]
