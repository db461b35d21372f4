"""What jobs leave to later ones: found, bounded, private, and the same to the last bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from node.adapters import model_folder
from node.adapters.onnx import loop as loops
from node.adapters.onnx.decoder import Cache, Decoder, Ints, load
from node.adapters.onnx.job import Job, Made
from node.adapters.onnx.loop import Drop, Happened, Loop, Submit
from node.adapters.onnx.past import PastDecoder
from node.adapters.onnx.prefixes import Prefixes
from node.protocol.prefixes import BLOCK_TOKENS
from node.protocol.sampling import Sampling
from node.roles.generation import GenerationRequest

FOLDER = model_folder.load(model_folder.shipped())
MANIFEST = FOLDER.manifest
ANNA, BERT = b"a" * 20, b"b" * 20
MB = 10**6


def in_place() -> Decoder[Any]:
    return load(FOLDER.graph, threads=1, context=MANIFEST.context)


def as_exported() -> Decoder[Any]:
    return PastDecoder(FOLDER.graph, threads=1)


@dataclass
class Told:
    """A decoder that keeps the last row of every run's logits."""

    inner: Decoder[Any]
    rows: list[np.ndarray[Any, Any]] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(
        self, ids: Ints, cache: Cache, *, last: bool = False
    ) -> tuple[np.ndarray[Any, Any], Cache]:
        self.fresh.append(ids.size)
        logits, after = self.inner.forward(ids, cache, last=last)
        self.rows.append(logits[0, -1].copy())
        return logits, after


class Bench:
    """A loop whose jobs a test runs one after the other."""

    def __init__(self, decoder: Decoder[Any], *, bytes_max: int = 64 * MB) -> None:
        self.decoder = Told(decoder)
        self.prefixes = Prefixes(decoder, bytes_max=bytes_max)
        self.happened: list[Happened] = []
        told: Any = self.decoder
        self.loop = Loop(
            told,
            slots=4,
            vocab=MANIFEST.vocab,
            tokens_per_s_max=0.0,
            deliver=self.happened.extend,
            prefixes=self.prefixes,
            hand_over_s=0.0,
        )

    def run(self, *jobs: Job) -> list[tuple[int, ...]]:
        """Each one's ids, together from beginning to end."""
        for one in jobs:
            self.loop.tell(Submit(job=one))
        while not all(ended(one, self.happened) for one in jobs):
            self.loop.turn()
            for one in jobs:
                one.taken = one.made
        return [made(one, self.happened) for one in jobs]


def made(one: Job, happened: Sequence[Happened]) -> tuple[int, ...]:
    return tuple(e.token for other, e in happened if other is one and isinstance(e, Made))


def ended(one: Job, happened: Sequence[Happened]) -> bool:
    events = [e for other, e in happened if other is one]
    return bool(events) and not (isinstance(events[-1], Made) and events[-1].finish is None)


def ids(seed: int, count: int) -> tuple[int, ...]:
    drawn = np.random.default_rng(seed).integers(5, MANIFEST.vocab, size=count)
    return tuple(int(each) for each in drawn)


def job(prompt: Sequence[int], *, owner: bytes = ANNA, seed: int = 1, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "model": MANIFEST.model_id,
        "prompt_ids": tuple(prompt),
        "max_tokens": 12,
        "sampling": Sampling(temperature=2.0, seed=seed),
        "ignore_eos": True,
        "owner": owner,
    }
    return Job(GenerationRequest(**(settings | changes)), MANIFEST, lambda _ids: "")


decoders = pytest.mark.parametrize("make", [in_place, as_exported])


@decoders
def test_the_turns_of_a_conversation_are_the_same_to_the_last_bit(
    make: Callable[[], Decoder[Any]],
) -> None:
    with_cache, without = Bench(make()), Bench(make(), bytes_max=0)
    history: tuple[int, ...] = ()
    for turn in range(8):
        history += ids(turn, 1 + 37 * turn % 90)
        one, other = job(history, seed=turn), job(history, seed=turn)
        with_cache.decoder.rows.clear()
        without.decoder.rows.clear()
        [cached], [plain] = with_cache.run(one), without.run(other)
        assert cached == plain
        # The runs that drew a token: the last of the prompt's, and one for each after it.
        drawn = len(plain)
        for mine, theirs in zip(
            with_cache.decoder.rows[-drawn:], without.decoder.rows[-drawn:], strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        assert other.tokens_cached == 0
        assert one.tokens_cached % BLOCK_TOKENS == 0
        history += cached
    assert one.tokens_cached > len(history) // 2


@decoders
def test_many_prompts_draw_the_same_ids_with_and_without(make: Callable[[], Decoder[Any]]) -> None:
    with_cache, without = Bench(make()), Bench(make(), bytes_max=0)
    shared = ids(1, 300)
    hits = 0
    for number in range(40):
        prompt = shared[: 7 * number + 1] + ids(number, 1 + 13 * number % 60)
        one, other = job(prompt, seed=number), job(prompt, seed=number)
        assert with_cache.run(one) == without.run(other)
        hits += one.tokens_cached > 0
    assert hits > 25


def test_only_what_is_not_known_is_computed() -> None:
    bench = Bench(in_place())
    prompt = ids(3, 200)
    bench.run(job(prompt))
    bench.decoder.fresh.clear()
    again = job((*prompt, *ids(4, 30)), max_tokens=1)
    bench.run(again)
    assert again.tokens_cached == 192
    assert bench.decoder.fresh == [230 - 192]


def test_the_same_prompt_again_still_has_something_to_compute() -> None:
    bench = Bench(in_place())
    prompt = ids(3, 4 * BLOCK_TOKENS + 1)
    bench.run(job(prompt, max_tokens=1))
    for count in (4 * BLOCK_TOKENS, 4 * BLOCK_TOKENS + 1):
        again = job(prompt[:count], max_tokens=1)
        bench.run(again)
        assert again.tokens_cached == 3 * BLOCK_TOKENS
    longer = job((*prompt, 7), max_tokens=1)
    bench.run(longer)
    assert longer.tokens_cached == 4 * BLOCK_TOKENS


@decoders
def test_what_was_written_is_read_again(make: Callable[[], Decoder[Any]]) -> None:
    bench = Bench(make())
    prompt = ids(5, BLOCK_TOKENS + 5)
    [answer] = bench.run(job(prompt, max_tokens=70))
    second, third = (job((*prompt, *answer, *range(5, 5 + n))) for n in (3, 20))
    bench.run(second)
    bench.run(third)
    assert second.tokens_cached == BLOCK_TOKENS
    assert third.tokens_cached == 3 * BLOCK_TOKENS


def test_nobody_finds_what_another_client_left() -> None:
    bench = Bench(in_place())
    prompt = ids(6, 300)
    bench.run(job(prompt, owner=ANNA))
    foreign, own, nobody = job(prompt, owner=BERT), job(prompt, owner=ANNA), job(prompt, owner=b"")
    bench.run(foreign)
    bench.run(own)
    bench.run(nobody)
    assert (foreign.tokens_cached, own.tokens_cached, nobody.tokens_cached) == (0, 288, 0)


def test_nothing_is_kept_of_nobodys_jobs() -> None:
    bench = Bench(in_place())
    bench.run(job(ids(6, 300), owner=b""))
    assert len(bench.prefixes) == 0


def test_memory_is_bounded_and_the_longest_unused_goes_first() -> None:
    decoder = in_place()
    room = 10 * Prefixes(decoder, bytes_max=1).block_bytes
    bench = Bench(decoder, bytes_max=room)
    first, second, third = (ids(seed, 4 * BLOCK_TOKENS + 3) for seed in (1, 2, 3))
    for prompt in (first, second, first, third):
        bench.run(job(prompt, max_tokens=1))
        assert len(bench.prefixes) * bench.prefixes.block_bytes <= room
    again = [job(prompt, max_tokens=1) for prompt in (first, third, second)]
    found = [bench.run(one) and one.tokens_cached for one in again]
    # Of the second one the beginning is left: its end went first.
    assert found == [4 * BLOCK_TOKENS, 4 * BLOCK_TOKENS, 2 * BLOCK_TOKENS]


def test_a_prompt_too_long_for_the_memory_leaves_its_beginning() -> None:
    decoder = in_place()
    bench = Bench(decoder, bytes_max=3 * Prefixes(decoder, bytes_max=1).block_bytes)
    prompt = ids(1, 300)
    bench.run(job(prompt, max_tokens=1))
    again = job(prompt, max_tokens=1)
    bench.run(again)
    assert again.tokens_cached == 3 * BLOCK_TOKENS


def test_a_job_cannot_change_what_another_one_took() -> None:
    bench, plain = Bench(in_place()), Bench(in_place(), bytes_max=0)
    prompt = ids(8, 100)
    bench.run(job(prompt, max_tokens=1))
    # Both go on from the same blocks, at the same time, each its own way.
    rivals = [job((*prompt[:96], *ids(seed, 20)), seed=seed, max_tokens=60) for seed in (1, 2)]
    alone = [
        job(one.request.prompt_ids, seed=seed, max_tokens=60) for seed, one in enumerate(rivals, 1)
    ]
    together = bench.run(*rivals)
    assert [one.tokens_cached for one in rivals] == [96, 96]
    assert together == [plain.run(one)[0] for one in alone]
    again = job(prompt, max_tokens=30)
    assert bench.run(again) == plain.run(job(prompt, max_tokens=30))


def test_a_client_that_leaves_finds_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "CHUNK_TOKENS", 64)
    bench = Bench(in_place())
    prompt = ids(9, 300)
    gone = job(prompt)
    bench.loop.tell(Submit(job=gone))
    bench.loop.turn()
    bench.loop.turn()
    bench.loop.tell(Drop(job=gone))
    back = job(prompt)
    bench.run(back)
    assert back.tokens_cached == 128


def test_a_continuation_counts_its_prefix_as_prompt() -> None:
    bench = Bench(in_place())
    prompt = ids(2, 50)
    [whole] = bench.run(job(prompt, max_tokens=60))
    for cached in (32, 64):  # what the one has read of the prefix, the other finds
        rest = job(prompt, prefix_ids=whole[:40], max_tokens=20)
        assert bench.run(rest) == [whole[40:]]
        assert rest.tokens_cached == cached


def test_no_run_reads_one_token_alone() -> None:
    bench = Bench(as_exported())
    for count in range(BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS):
        bench.decoder.fresh.clear()
        bench.run(job(ids(1, count), max_tokens=1))
        assert min(bench.decoder.fresh) > 1


@decoders
def test_cut_and_pasted_is_as_before(make: Callable[[], Decoder[Any]]) -> None:
    decoder = make()
    prompt = np.array([ids(1, 70)])
    _, cache = decoder.forward(prompt[:, :66], decoder.begun(), last=True)
    blocks = cache.cut(0, 64)
    assert len(blocks) == 2
    assert sum(array.nbytes for array in blocks[0]) == 32 * decoder.token_bytes
    logits, _ = decoder.forward(prompt[:, 66:], cache, last=True)
    wanted = logits[0, -1].copy()
    again = decoder.begun(blocks)
    assert (again.length, again.shortest) == (64, 64)
    found, _ = decoder.forward(prompt[:, 64:], again, last=True)
    np.testing.assert_array_equal(found[0, -1], wanted)
