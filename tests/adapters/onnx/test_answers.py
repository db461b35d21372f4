"""Answers are read while nobody waits: what the next turn finds, and what nobody pays for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from node.adapters.onnx import answers, inplace
from node.adapters.onnx.decoder import Decoder
from node.adapters.onnx.inplace import InPlaceCache
from node.adapters.onnx.job import Job
from node.adapters.onnx.loop import Drop, Submit, Taken
from node.adapters.onnx.prefixes import Prefixes
from node.errors import Unavailable
from node.protocol.prefixes import BLOCK_TOKENS
from tests.adapters.onnx.test_prefixes import Bench, as_exported, decoders, ids, in_place, job, made

IDLE_TURNS = 40
"""More than any of these answers has blocks."""


def idle(bench: Bench, *jobs: Job) -> None:
    """The jobs are over, and for a while no other comes."""
    for one in jobs:
        bench.loop.tell(Drop(job=one))
    bench.loop.tell(Submit(job=(waker := job(ids(99, 2), owner=b"", max_tokens=1))))
    for _ in range(IDLE_TURNS):
        if not bench.loop._answers.waiting and made(waker, bench.happened):
            return
        bench.loop.turn()
    raise AssertionError("there is always more to read")


@decoders
def test_a_conversation_is_the_same_to_the_last_bit(make: Callable[[], Decoder[Any]]) -> None:
    with_cache, without = Bench(make()), Bench(make(), bytes_max=0)
    history: tuple[int, ...] = ()
    for turn in range(8):
        before = len(history)
        history += ids(turn, 2 + 37 * turn % 90)
        one, other = job(history, seed=turn, max_tokens=50), job(history, seed=turn, max_tokens=50)
        with_cache.decoder.rows.clear()
        without.decoder.rows.clear()
        [cached], [plain] = with_cache.run(one), without.run(other)
        assert cached == plain
        for mine, theirs in zip(
            with_cache.decoder.rows[-50:], without.decoder.rows[-50:], strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        # Whole blocks of everything before this question, the last answer included.
        assert one.tokens_cached == before // BLOCK_TOKENS * BLOCK_TOKENS
        history += cached
        idle(with_cache, one)
        idle(without, other)


def test_only_the_answer_is_read_and_in_blocks() -> None:
    bench = Bench(in_place())
    one = job(ids(1, 100), max_tokens=60)
    bench.run(one)
    bench.decoder.fresh.clear()
    idle(bench, one)
    assert sorted(bench.decoder.fresh) == [2, BLOCK_TOKENS, BLOCK_TOKENS]  # 2: the waker's
    assert len(bench.prefixes) == 160 // BLOCK_TOKENS


def test_whoever_comes_waits_for_one_block_at_most() -> None:
    bench = Bench(in_place())
    one, other = job(ids(1, 40), max_tokens=200), job(ids(2, 40), max_tokens=1)
    bench.run(one)
    bench.loop.tell(Drop(job=one))
    bench.loop.turn()
    bench.loop.turn()
    bench.decoder.fresh.clear()
    bench.loop.tell(Submit(job=other))
    bench.loop.turn()
    assert made(other, bench.happened)
    assert bench.decoder.fresh == [40]
    again = job((*ids(1, 40), *made(one, bench.happened), 7), max_tokens=1)
    idle(bench, other)
    bench.run(again)
    assert again.tokens_cached == 224


def test_nothing_is_read_while_a_job_runs() -> None:
    bench = Bench(in_place())
    one, runs = job(ids(1, 40), max_tokens=100), job(ids(2, 40), max_tokens=50)
    bench.run(one)
    bench.loop.tell(Drop(job=one))
    bench.decoder.fresh.clear()
    bench.run(runs)
    assert set(bench.decoder.fresh) == {40, 1}


def test_what_was_made_is_told_before_an_answer_is_read() -> None:
    bench = Bench(in_place())
    bench.loop._hand_over_s = 3600.0
    one, slow = job(ids(1, 40), max_tokens=60), job(ids(2, 40), max_tokens=500)
    bench.run(one)
    bench.loop.tell(Submit(job=slow))
    while not slow.paused:  # its reader takes nothing
        bench.loop.turn()
    bench.loop.tell(Drop(job=one))
    bench.loop.turn()
    assert len(made(slow, bench.happened)) == slow.made


def test_the_next_turn_may_come_first() -> None:
    bench = Bench(in_place())
    one = job(ids(1, 40), max_tokens=60)
    [answer] = bench.run(one)
    bench.loop.tell(Drop(job=one))
    following = job((*ids(1, 40), *answer, *ids(3, 40)), max_tokens=1)
    bench.run(following)
    assert following.tokens_cached == BLOCK_TOKENS
    bench.decoder.fresh.clear()
    idle(bench, following)
    assert bench.decoder.fresh == [2]


def test_what_was_forgotten_is_not_read_again() -> None:
    decoder = in_place()
    bench = Bench(decoder, bytes_max=6 * Prefixes(decoder, bytes_max=1).block_bytes)
    first, second = job(ids(1, 130), max_tokens=40), job(ids(2, 180), max_tokens=1)
    bench.run(first)
    bench.run(second)
    bench.decoder.fresh.clear()
    idle(bench, first, second)
    assert bench.decoder.fresh == [2]


def test_no_more_is_read_than_there_is_room_for() -> None:
    decoder = in_place()
    bench = Bench(decoder, bytes_max=3 * Prefixes(decoder, bytes_max=1).block_bytes)
    one = job(ids(1, 70), max_tokens=100)
    bench.run(one)
    bench.decoder.fresh.clear()
    idle(bench, one)
    assert sorted(bench.decoder.fresh) == [2, BLOCK_TOKENS]
    assert len(bench.prefixes) == 3


@pytest.mark.parametrize("bytes_max", [0, 64_000_000])
def test_nobodys_answers_are_not_read(bytes_max: int) -> None:
    bench = Bench(as_exported(), bytes_max=bytes_max)
    one = job(ids(1, 40), max_tokens=60, owner=b"" if bytes_max else b"a" * 20)
    bench.run(one)
    bench.decoder.fresh.clear()
    idle(bench, one)
    assert bench.decoder.fresh == [2]


def test_the_oldest_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWERS_MAX", 3)
    bench = Bench(in_place())
    jobs = [job(ids(seed, 40), max_tokens=30, seed=seed) for seed in range(5)]
    for one in jobs:
        bench.run(one)
    idle(bench, *jobs)
    found = []
    for one in jobs:
        again = job((*one.request.prompt_ids, *made(one, bench.happened), 7), max_tokens=1)
        bench.run(again)
        found.append(again.tokens_cached)
    assert found == [32, 32, 64, 64, 64]


def test_what_fills_no_block_takes_nobodys_place() -> None:
    bench = Bench(in_place())
    one = job(ids(1, 100), max_tokens=60)
    bench.run(one)
    bench.loop.tell(Drop(job=one))
    for seed in range(answers.ANSWERS_MAX):
        small = job(ids(seed, 2), max_tokens=1, owner=b"b" * 20)
        bench.run(small)
        bench.loop.tell(Drop(job=small))
    idle(bench)
    again = job((*ids(1, 100), *made(one, bench.happened), 7, 8, 9), max_tokens=1)
    bench.run(again)
    assert again.tokens_cached == 160


@pytest.mark.parametrize("fails", ["begun", "cut"])
def test_without_memory_it_is_left_to_the_next_turn(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(in_place())
    one = job(ids(1, 40), max_tokens=60)
    bench.run(one)

    def begun(*_: Any, **__: Any) -> Any:
        raise Unavailable("the engine has no memory for the prompt")

    def cut(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as short:
        if fails == "begun":
            short.setattr(bench.decoder.inner, "begun", begun)
        else:
            short.setattr(InPlaceCache, "cut", cut)
        bench.loop.tell(Drop(job=one))
        for _ in range(IDLE_TURNS):
            bench.loop.tell(Taken())
            bench.loop.turn()
        assert not bench.loop._answers.waiting
    again = job((*ids(1, 40), *made(one, bench.happened), 7), max_tokens=1)
    bench.run(again)
    assert again.tokens_cached == 32


def test_a_job_that_there_is_no_memory_for_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(in_place())

    def blank(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(inplace, "_blank", blank)
        failed = job(ids(1, 40))
        bench.run(failed)
        assert isinstance(bench.happened[-1][1], Unavailable)
    assert len(bench.run(job(ids(1, 40), max_tokens=5))[0]) == 5


def test_a_failure_is_the_end_of_that_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(in_place())
    jobs = [job(ids(seed, 40), max_tokens=30, seed=seed) for seed in range(2)]
    bench.run(*jobs)
    whole, failed = bench.decoder.inner.forward, [False]

    def forward(batch: Any, cache: Any, *, last: bool = False) -> Any:
        if batch.size == BLOCK_TOKENS and not failed[0]:
            failed[0] = True
            raise Unavailable("the engine failed: out of memory")
        return whole(batch, cache, last=last)

    monkeypatch.setattr(bench.decoder.inner, "forward", forward)
    idle(bench, *jobs)
    assert failed == [True]
    found = []
    for one in jobs:
        again = job((*one.request.prompt_ids, *made(one, bench.happened), 7), max_tokens=1)
        bench.run(again)
        found.append(again.tokens_cached)
    assert found == [32, 64]
