"""The sampling function: its vectors, its distribution, and what re-checking makes of it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from node.protocol.drawing import History, best, choose, gumbel, log_softmax, margin
from node.protocol.frames import SamplingFields
from node.protocol.sampling import Sampling
from tests.vectors import sampling as vectors

VECTORS = json.loads(Path(vectors.PATH).read_text(encoding="utf-8"))
ROW = np.array([1.0, 3.0, 2.0, 3.0, -1.0], dtype=np.float32)

rows = arrays.arrays(
    np.float32, st.integers(2, 60), elements=st.floats(-30, 30, width=32, allow_nan=False)
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    presence=st.sampled_from([-1.0, 0.0, 0.5]),
    frequency=st.sampled_from([0.0, 0.7]),
    repetition=st.sampled_from([0.8, 1.0, 1.3]),
    seed=st.integers(0, 2**64 - 1),
    choice=st.integers(0, 5),
)


def reference_gumbel(token: int, sampling: Sampling, position: int) -> float:
    """docs/protocol-sampling.md again, in Python's own integers."""
    import hashlib

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    message = sampling.seed.to_bytes(8, "big") + sampling.choice.to_bytes(4, "big")
    message += position.to_bytes(4, "big")
    key = hashlib.blake2b(message, digest_size=16, person=b"gpunode-sampling").digest()
    a, b = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
    x = mix(mix((token * 0x9E3779B97F4A7C15 + a) % 2**64) ^ b)
    return -math.log(-math.log(((x >> 12) + 0.5) * 2.0**-52))


def reference_choose(
    row: list[float], case: Sampling, position: int, history: Any, allowed: Any = None
) -> int:
    """The page's steps, one id at a time."""
    prompt, output = history
    z = {token: value for token, value in enumerate(row) if allowed is None or token in allowed}
    for token in set(prompt) | set(output):
        if token in z and case.repetition != 1.0:
            z[token] = z[token] / case.repetition if z[token] > 0 else z[token] * case.repetition
    for token in set(output):
        if token in z and (case.presence or case.frequency):
            z[token] -= case.presence + case.frequency * output.count(token)
    if case.temperature == 0:
        return max(z, key=lambda token: (z[token], -token))
    s = {token: value / case.temperature for token, value in z.items()}
    order = sorted(s, key=lambda token: (-s[token], token))
    if 0 < case.top_k < len(order):
        order = order[: case.top_k]
    if case.top_p < 1:
        weights = [math.exp(s[token] - s[order[0]]) for token in order]
        before = [math.fsum(weights[:at]) for at in range(len(order))]
        wanted = case.top_p * math.fsum(weights)
        order = [t for t, b in zip(order, before, strict=True) if b < wanted or t == order[0]]
    return max(order, key=lambda t: (s[t] + reference_gumbel(t, case, position), -t))


@settings(max_examples=150, deadline=None)
@given(rows, samplings, st.integers(0, 5000), st.lists(st.integers(0, 70), max_size=12), st.data())
def test_the_page_and_the_code_agree(
    row: Any, case: Sampling, position: int, output: list[int], data: Any
) -> None:
    prompt = data.draw(st.lists(st.integers(0, 70), max_size=5))
    some = st.sets(st.integers(0, len(row) - 1), min_size=1)
    allowed = data.draw(st.none() | some.map(lambda ids: np.array(sorted(ids))))
    history = History(prompt, output)
    wanted = reference_choose([float(v) for v in row], case, position, (prompt, output), allowed)
    given_ = {"sampling": case, "position": position, "history": history, "allowed": allowed}
    got = choose(row, **given_)
    if got != wanted:  # only where two scores differ in the last place
        assert margin(row, wanted, **given_, slack=1e-9) < 1e-9
    assert margin(row, got, **given_) == 0.0
    for token in set(range(len(row))) - set(range(len(row)) if allowed is None else allowed):
        assert margin(row, token, **given_, slack=5.0) == math.inf


@pytest.mark.parametrize("case", VECTORS["choose"], ids=lambda case: str(case["name"]))
def test_vectors(case: dict[str, Any]) -> None:
    sampling = Sampling.of(SamplingFields(**case["sampling"]), seed=int(case["seed"]))
    row = np.array([float(text) for text in case["logits"]], dtype=np.float32)
    history = History(case["prompt"], case["output"])
    position = case["position"]
    allowed = None if case["allowed"] is None else np.array(case["allowed"])
    token = choose(row, sampling=sampling, position=position, history=history, allowed=allowed)
    assert token == case["token"]
    noise = gumbel(np.arange(len(row)), sampling=sampling, position=position)
    np.testing.assert_allclose(noise, [float(text) for text in case["noise"]], rtol=1e-12)


def test_the_vector_file_is_what_the_script_makes() -> None:
    assert Path(vectors.PATH).read_text(encoding="utf-8") == vectors.text(), (
        "run python -m tests.vectors.sampling"
    )


def test_greedy_takes_the_lowest_of_the_best() -> None:
    assert choose(ROW, sampling=Sampling(temperature=0), position=0) == 1


def test_a_value_that_is_no_number_is_never_chosen() -> None:
    row = np.array([np.nan, 0.5, np.nan], dtype=np.float32)
    for temperature in (0.0, 1.0):
        assert choose(row, sampling=Sampling(temperature=temperature), position=3) == 1


def test_what_a_format_forbids_is_never_chosen_even_where_nothing_else_is_a_number() -> None:
    row = np.array([np.nan, 0.5, -np.inf], dtype=np.float32)
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature)
        assert choose(row, sampling=sampling, position=3, allowed=np.array([2])) == 2
        assert choose(row, sampling=sampling, position=3, allowed=np.array([0, 2])) in (0, 2)


def test_half_precision_logits_are_taken_as_they_are() -> None:
    row = ROW.astype(np.float16)
    assert choose(row, sampling=Sampling(temperature=0), position=0) == 1


def test_frequencies_are_those_of_the_softmax() -> None:
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    drawn = [choose(row, sampling=Sampling(seed=7), position=at) for at in range(4000)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_noise_is_gumbel() -> None:
    noise = gumbel(np.arange(200_000), sampling=Sampling(seed=1), position=0)
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.03


def test_every_part_of_the_key_matters() -> None:
    ids = np.arange(8)
    base = gumbel(ids, sampling=Sampling(seed=1), position=0)
    others = [
        gumbel(ids, sampling=Sampling(seed=2), position=0),
        gumbel(ids, sampling=Sampling(seed=1, choice=1), position=0),
        gumbel(ids, sampling=Sampling(seed=1), position=1),
    ]
    assert all((base != other).all() for other in others)


@settings(max_examples=60, deadline=None)
@given(rows, samplings, st.integers(0, 500))
def test_another_token_has_a_positive_margin(row: Any, case: Sampling, position: int) -> None:
    history = History([], [])
    right = choose(row, sampling=case, position=position, history=history)
    for token in range(len(row)):
        gap = margin(row, token, sampling=case, position=position, history=history)
        assert gap >= 0
        equal = case.temperature == 0 and row[token] == row[right]
        assert token == right or equal or gap > 0


@settings(max_examples=100, deadline=None)
@given(rows, samplings, st.integers(0, 500), st.integers(0, 2**31))
def test_small_differences_of_logits_give_small_margins(
    row: Any, case: Sampling, position: int, noise_seed: int
) -> None:
    drift = np.random.default_rng(noise_seed).uniform(-1e-5, 1e-5, len(row))
    theirs = (row + drift).astype(np.float32)
    token = choose(theirs, sampling=case, position=position, history=History())
    gap = margin(row, token, sampling=case, position=position, history=History(), slack=1e-3)
    assert gap <= 1e-3


def test_a_token_outside_of_the_filters_or_the_vocabulary_is_infinitely_wrong() -> None:
    case = Sampling(top_k=2, seed=3)
    assert margin(ROW, 0, sampling=case, position=0) == math.inf
    assert margin(ROW, 5, sampling=case, position=0) == math.inf
    assert margin(ROW, -1, sampling=case, position=0) == math.inf


def test_penalties_need_what_was_written() -> None:
    with pytest.raises(ValueError, match="history"):
        choose(ROW, sampling=Sampling(presence=1.0), position=0)


def test_history_grows() -> None:
    case = Sampling(temperature=0, frequency=0.75)
    history = History([1], [])
    drawn = []
    for position in range(4):
        drawn.append(choose(ROW, sampling=case, position=position, history=history))
        history.push(drawn[-1])
    assert drawn == [1, 3, 1, 3]  # the prompt's 1 is not penalised; each use costs 0.75


def test_log_softmax_and_the_best() -> None:
    logprobs = log_softmax(ROW)
    assert math.isclose(float(np.exp(logprobs).sum()), 1.0)
    assert (logprobs <= 0).all()
    assert [token for token, _ in best(logprobs, 3)] == [1, 3, 2]
    assert len(best(logprobs, 20)) == len(ROW)
    assert best(logprobs, 0) == ()


def test_top_p_beyond_the_first_few_hundred() -> None:
    row = np.zeros(5000, dtype=np.float32)  # as flat as can be: top-p keeps half of all
    drawn = {choose(row, sampling=Sampling(top_p=0.5, seed=s), position=0) for s in range(60)}
    assert max(drawn) < 2500
    assert max(drawn) > 300


@pytest.mark.parametrize(
    "row",
    [
        [0.5, np.nan, 2.0],
        [np.nan, -np.inf, -1.0],
        [3.4028234663852886e38, np.inf, 0.0],
        [-np.inf, -np.inf, -np.inf],
        [1.0, 1.0, 0.0],
    ],
)
def test_the_best_token_is_the_same_however_it_is_found(row: list[float]) -> None:
    """Temperature 0 looks at the logits as they are, where no value of theirs forbids that."""
    logits = np.array(row, dtype=np.float32)
    finite = np.where(np.isnan(logits), -np.inf, logits)
    wanted = int(np.clip(finite, -np.finfo(np.float32).max, np.finfo(np.float32).max).argmax())
    assert choose(logits, sampling=Sampling(temperature=0), position=0) == wanted
