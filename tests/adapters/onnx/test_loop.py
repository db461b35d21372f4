"""The engine's loop, turn by turn and without a thread."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from node.adapters import model_folder
from node.adapters.onnx import loop as loops
from node.adapters.onnx.decoder import Cache, Decoder, Ints, load
from node.adapters.onnx.job import Job, Made
from node.adapters.onnx.loop import AHEAD_TOKENS, Drop, Happened, Loop, Submit, Taken
from node.adapters.onnx.past import PastDecoder
from node.errors import PeerError, Unavailable
from node.protocol.sampling import Sampling
from node.roles.generation import GenerationRequest

FOLDER = model_folder.load(model_folder.shipped())
MANIFEST = FOLDER.manifest


def text(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def job(prompt: int = 5, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "model": MANIFEST.model_id,
        "prompt_ids": tuple(range(10, 10 + prompt)),
        "max_tokens": 1000,
        "sampling": Sampling(temperature=0),
        "ignore_eos": True,
    }
    return Job(GenerationRequest(**(settings | changes)), MANIFEST, text)


class Watched:
    """A decoder that notes the shape of every run, and fails when told to."""

    def __init__(self, inner: Decoder[Any]) -> None:
        self._inner = inner
        self.spread_max, self.slices = inner.spread_max, inner.slices
        self.arrays, self.token_bytes = inner.arrays, inner.token_bytes
        self.begun = inner.begun
        self.runs: list[tuple[int, ...]] = []
        self.fail_next = False

    def forward(
        self, ids: Ints, cache: Cache, *, last: bool = False
    ) -> tuple[np.ndarray[Any, Any], Cache]:
        self.runs.append(ids.shape)
        if self.fail_next:
            self.fail_next = False
            raise Unavailable("the engine failed: out of memory")
        return self._inner.forward(ids, cache, last=last)


class Bench:
    """A loop whose turns a test takes one by one."""

    def __init__(
        self,
        *,
        slots: int = 4,
        tokens_per_s_max: float = 0.0,
        hand_over_s: float = 0.0,
        decoder: Decoder[Any] | None = None,
    ) -> None:
        self.decoder = Watched(decoder or load(FOLDER.graph, threads=1, context=MANIFEST.context))
        self.happened: list[Happened] = []
        self.hand_overs: list[int] = []
        self.loop = Loop(
            self.decoder,
            slots=slots,
            vocab=MANIFEST.vocab,
            tokens_per_s_max=tokens_per_s_max,
            deliver=self._deliver,
            hand_over_s=hand_over_s,
        )

    def _deliver(self, happened: Sequence[Happened]) -> None:
        self.happened.extend(happened)
        self.hand_overs.append(len(happened))

    def submit(self, *jobs: Job) -> None:
        for one in jobs:
            self.loop.tell(Submit(job=one))

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.loop.turn()

    def made(self, one: Job) -> list[int]:
        return [e.token for other, e in self.happened if other is one and isinstance(e, Made)]


def test_a_prompt_then_a_token_each_turn() -> None:
    bench, one = Bench(), job()
    bench.submit(one)
    bench.turns(4)
    # The first turn reads the prompt, which gives a token, and makes the next at once.
    assert bench.decoder.runs == [(1, 5), (1, 1), (1, 1), (1, 1), (1, 1)]
    assert len(bench.made(one)) == one.made == 5


def test_tokens_go_over_together_but_the_first_and_the_last_at_once() -> None:
    bench, one = Bench(hand_over_s=1e6), job(max_tokens=8)
    bench.submit(one)
    bench.turns(1)
    assert bench.hand_overs == [1, 7]  # undisturbed, it went on to the end
    assert len(bench.made(one)) == one.made == 8


def test_nothing_is_kept_back_while_the_loop_has_nothing_to_compute() -> None:
    bench, one = Bench(hand_over_s=1e6), job()
    bench.submit(one)
    while not one.paused:
        bench.turns(1)
    bench.loop.tell(Taken())  # or the next turn would wait for ever
    bench.turns(1)
    assert len(bench.made(one)) == one.made == AHEAD_TOKENS


def test_tokens_of_a_slow_loop_go_over_one_by_one() -> None:
    bench, one = Bench(hand_over_s=0.0001, tokens_per_s_max=200.0), job(max_tokens=4)
    bench.submit(one)
    while len(bench.made(one)) < 4:
        bench.turns(1)
    assert max(bench.hand_overs[1:]) == 1


def test_a_long_prompt_is_read_in_parts_between_the_tokens_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops, "CHUNK_TOKENS", 16)
    bench, short, long = Bench(), job(), job(prompt=60)
    bench.submit(short)
    bench.turns(1)
    bench.submit(long)
    bench.turns(4)
    assert [run for run in bench.decoder.runs if run[1] > 1] == [(1, 5), *[(1, 16)] * 3, (1, 12)]
    assert len(bench.made(short)) == 6  # one more in every turn
    assert len(bench.made(long)) == 2
    assert bench.decoder.runs[-1] == (2, 1)  # and now they share a batch


def test_prompts_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "CHUNK_TOKENS", 16)
    bench, long, short = Bench(), job(prompt=64), job(prompt=16)
    bench.submit(long, short)
    bench.turns(2)
    assert bench.made(short)
    assert not bench.made(long)


def test_chunks_shrink_with_the_vocabulary() -> None:
    bench = Bench(decoder=PastDecoder(FOLDER.graph, threads=1))
    wide = Loop(
        bench.decoder, slots=1, vocab=128_000, tokens_per_s_max=0.0, deliver=bench.happened.extend
    )
    wide.tell(Submit(job=job(prompt=256)))
    wide.turn()
    assert bench.decoder.runs == [(1, 131)]


def test_slots_are_a_limit_and_free_again() -> None:
    bench = Bench(slots=2)
    first, second, third = (job(max_tokens=n) for n in (3, 50, 50))
    bench.submit(first, second, third)
    bench.turns(2)
    assert not bench.made(third)
    bench.turns(6)
    assert len(bench.made(first)) == 3
    assert bench.made(third)


def test_a_dropped_job_is_gone_before_the_next_token() -> None:
    bench, one, other = Bench(), job(), job()
    bench.submit(one, other)
    bench.turns(3)
    count = one.made
    bench.loop.tell(Drop(job=one))
    bench.turns(3)
    assert one.made == count
    assert other.made > count
    bench.loop.tell(Drop(job=other))
    bench.submit(third := job())
    bench.turns(1)
    assert third.made


def test_a_reader_that_takes_nothing_pauses_its_job_alone() -> None:
    bench, slow, quick = Bench(), job(), job()
    bench.submit(slow, quick)
    for _ in range(AHEAD_TOKENS + 20):
        bench.turns(1)
        quick.taken = quick.made
    assert slow.made == AHEAD_TOKENS
    assert slow.paused
    assert quick.made > AHEAD_TOKENS
    slow.taken = slow.made
    bench.loop.tell(Taken())
    bench.turns(3)
    assert not slow.paused
    assert slow.made == AHEAD_TOKENS + 3


def test_a_pause_changes_nothing() -> None:
    bench, free, slow = Bench(), job(max_tokens=60), job(max_tokens=60)
    bench.submit(free)
    while free.made < 60:
        free.taken = free.made
        bench.turns(1)
    bench.submit(slow)
    while slow.made < 60:
        slow.taken = slow.made if slow.paused else slow.taken
        bench.turns(1)
    assert bench.made(slow) == bench.made(free)


def test_a_failure_ends_the_jobs_of_its_run_only() -> None:
    bench, one, other, later = Bench(), job(), job(), job()
    bench.submit(one)
    bench.turns(1)
    bench.submit(other)
    bench.decoder.fail_next = True
    bench.turns(1)  # the prompt of `other` fails, the step of `one` does not
    failed = [who for who, event in bench.happened if isinstance(event, Unavailable)]
    assert failed == [other]
    bench.decoder.fail_next = True
    bench.turns(1)
    assert [who for who, event in bench.happened if isinstance(event, Unavailable)] == [other, one]
    bench.submit(later)
    bench.turns(2)
    assert len(bench.made(later)) == 3


def test_a_tokenizer_that_fails_ends_its_job_only() -> None:
    def broken(_ids: Sequence[int]) -> str:
        raise PeerError("tokenizer: it can't be used")

    request = replace(job().request, stop=("x",))
    bench, bad, good = Bench(), Job(request, MANIFEST, broken), job()
    bench.submit(good, bad)
    bench.turns(4)
    assert [who for who, event in bench.happened if isinstance(event, Unavailable)] == [bad]
    assert len(bench.made(good)) == 5


def test_jobs_far_apart_in_length_are_computed_apart() -> None:
    bench, short, long = Bench(), job(prompt=4), job(prompt=900)
    bench.submit(long, short)
    bench.turns(8)
    assert bench.decoder.runs[-2:] == [(1, 1), (1, 1)]


def test_the_operators_limit_on_the_rate() -> None:
    import time

    bench, one = Bench(tokens_per_s_max=100.0), job(max_tokens=12)
    bench.submit(one)
    started = time.monotonic()
    while one.made < 12:
        bench.turns(1)
    assert time.monotonic() - started > 0.08  # ten steps of 10 ms, the first at once
