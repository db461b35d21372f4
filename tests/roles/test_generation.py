"""The contract of the engine port, on a scripted engine and on the real one."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from node.adapters import model_folder
from node.adapters.onnx import OnnxEngine, OnnxModel
from node.adapters.text import ChatText
from node.errors import PeerError, Unavailable
from node.protocol.sampling import Sampling
from node.protocol.stops import Decode
from node.roles.generation import Engine, GenerationRequest, TokenStep
from tests.roles import scripted_engine

GREEDY = Sampling(temperature=0)
SLOTS, QUEUE = 2, 2


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An engine that runs, and what fits its model."""

    engine: Engine
    decode: Decode
    prompt: tuple[int, ...]
    other_prompt: tuple[int, ...]

    def request(self, **changes: Any) -> GenerationRequest:
        model = self.engine.models()[0].manifest.model_id
        base = GenerationRequest(
            model=model, prompt_ids=self.prompt, max_tokens=24, sampling=GREEDY, ignore_eos=True
        )
        return replace(base, **changes)

    async def run(self, **changes: Any) -> TokenStep:
        """All of a job in one step."""
        async with self.engine.generate(self.request(**changes)) as steps:
            return joined([step async for step in steps])


def joined(steps: list[TokenStep]) -> TokenStep:
    assert all(step.finish is None for step in steps[:-1])
    return TokenStep(
        ids=sum((step.ids for step in steps), ()),
        logprobs=sum((step.logprobs for step in steps), ()),
        finish=steps[-1].finish,
        stop=steps[-1].stop,
    )


def onnx_subject() -> Subject:
    folder = model_folder.load(model_folder.shipped())
    text = ChatText.of(folder.client_files())
    model = OnnxModel(manifest=folder.manifest, graph=folder.graph, decode=text.decode)
    return Subject(
        engine=OnnxEngine([model], slots=SLOTS, queue_max=QUEUE),
        decode=text.decode,
        prompt=text.render([{"role": "user", "content": "What is a voucher?"}]),
        other_prompt=text.render([{"role": "user", "content": "How do I start a worker? " * 20}]),
    )


def scripted_subject() -> Subject:
    return Subject(
        engine=scripted_engine.ScriptedEngine(slots=SLOTS, queue_max=QUEUE),
        decode=scripted_engine.decode,
        prompt=(1, 2, 3),
        other_prompt=tuple(range(1, 20)),
    )


@pytest.fixture(params=[scripted_subject, onnx_subject], ids=["scripted", "onnx"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    made: Subject = request.param()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.engine.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_it_says_what_it_runs(subject: Subject) -> None:
    model = subject.engine.models()[0]
    assert model.slots == SLOTS
    assert model.context == model.manifest.context
    assert model.rates.decode_tps > 0
    load = subject.engine.load()
    assert (load.active, load.queued, load.slots, load.queue_max) == (0, 0, SLOTS, QUEUE)


async def test_length(subject: Subject) -> None:
    made = await subject.run(max_tokens=7)
    assert (len(made.ids), made.finish, made.stop) == (7, "length", None)
    assert made.logprobs == ()


async def test_the_context_is_a_limit_too(subject: Subject) -> None:
    context = subject.engine.models()[0].context
    long = (subject.prompt * context)[: context - 3]
    made = await subject.run(prompt_ids=long, max_tokens=50)
    assert (len(made.ids), made.finish) == (3, "length")


async def test_greedy_and_seeded_answers_repeat(subject: Subject) -> None:
    for sampling in (GREEDY, Sampling(seed=3), Sampling(seed=3, choice=1, top_p=0.9, top_k=20)):
        first, second = [await subject.run(sampling=sampling) for _ in range(2)]
        assert first.ids == second.ids


async def test_seed_and_choice_matter(subject: Subject) -> None:
    hot = Sampling(temperature=6.0, seed=1)  # the small model is very sure of itself
    variants = [hot, replace(hot, seed=2), replace(hot, choice=1)]
    assert len({(await subject.run(sampling=one)).ids for one in variants}) == 3


@pytest.mark.parametrize("seam", [1, 9, 23])
async def test_another_engine_goes_on_with_the_same_ids(subject: Subject, seam: int) -> None:
    sampling = Sampling(temperature=4.0, seed=11, presence=0.5, repetition=1.1)
    whole = await subject.run(sampling=sampling)
    rest = await subject.run(sampling=sampling, prefix_ids=whole.ids[:seam], max_tokens=24 - seam)
    assert whole.ids[:seam] + rest.ids == whole.ids


async def test_a_job_among_others_is_as_alone(subject: Subject) -> None:
    wanted = [
        {"sampling": Sampling(temperature=4.0, seed=seed), "prompt_ids": prompt, "max_tokens": n}
        for seed, prompt, n in (
            (1, subject.prompt, 24), (2, subject.other_prompt, 12), (3, subject.prompt, 5),
            (4, subject.other_prompt, 20),
        )
    ]  # fmt: skip
    alone = [(await subject.run(**one)).ids for one in wanted]
    together: dict[int, tuple[int, ...]] = {}

    async def put(at: int, one: dict[str, Any]) -> None:
        together[at] = (await subject.run(**one)).ids

    async with trio.open_nursery() as nursery:
        for at, one in enumerate(wanted):
            nursery.start_soon(put, at, one)
    assert [together[at] for at in range(len(wanted))] == alone


async def test_stop_string(subject: Subject) -> None:
    free = await subject.run()
    text = subject.decode(free.ids)
    stop = text[6:9]
    made = await subject.run(stop=("nowhere to be found", stop))
    assert (made.finish, made.stop) == ("stop", stop)
    assert made.ids == free.ids[: len(made.ids)]
    assert stop in subject.decode(made.ids)
    assert stop not in subject.decode(made.ids[:-1])


async def test_a_stop_string_across_the_seam(subject: Subject) -> None:
    free = await subject.run()
    seam = next(n for n in range(2, 20) if subject.decode(free.ids[:n]).strip())
    before = len(subject.decode(free.ids[:seam]))
    stop = subject.decode(free.ids)[before - 1 : before + 2]
    rest = await subject.run(prefix_ids=free.ids[:seam], stop=(stop,))
    assert (rest.finish, rest.stop) == ("stop", stop)
    assert stop in subject.decode(free.ids[:seam] + rest.ids)


async def test_end_token(subject: Subject) -> None:
    eos = subject.engine.models()[0].manifest.eos_ids
    for seed in range(200):
        made = await subject.run(
            sampling=Sampling(temperature=1.0, seed=seed), ignore_eos=False, max_tokens=200
        )
        if made.finish == "stop":
            break
    assert made.finish == "stop"
    assert made.stop is None
    assert made.ids[-1] in eos
    assert not set(made.ids[:-1]) & set(eos)


async def test_logprobs(subject: Subject) -> None:
    made = await subject.run(sampling=Sampling(temperature=0, logprobs=3), max_tokens=6)
    assert len(made.logprobs) == len(made.ids) == 6
    for token, told in zip(made.ids, made.logprobs, strict=True):
        assert [len(told.top), told.top[0][0]] == [3, token]
        assert told.top[0][1] == told.chosen <= 0
        assert math.fsum(math.exp(value) for _, value in told.top) <= 1 + 1e-6
        assert list(told.top) == sorted(told.top, key=lambda pair: -pair[1])


async def test_the_iterator_ends_after_the_last_step(subject: Subject) -> None:
    async with subject.engine.generate(subject.request(max_tokens=3)) as steps:
        made = [step async for step in steps]
        assert made[-1].finish == "length"
        assert [step async for step in steps] == []


async def test_leaving_frees_the_slot(subject: Subject) -> None:
    for _ in range(SLOTS * 3):
        async with subject.engine.generate(subject.request(max_tokens=10_000)) as steps:
            async for step in steps:
                assert step.ids
                break
    assert subject.engine.load().active == 0
    assert len((await subject.run(max_tokens=4)).ids) == 4


async def test_cancelling_frees_the_slot(subject: Subject) -> None:
    for _ in range(SLOTS * 3):
        with trio.move_on_after(5) as scope:
            async with subject.engine.generate(subject.request(max_tokens=10_000)) as steps:
                async for _step in steps:
                    scope.cancel()
    assert subject.engine.load().active == 0
    assert len((await subject.run(max_tokens=4)).ids) == 4


async def test_the_queue_is_bounded(subject: Subject) -> None:
    started = trio.Event()
    open_jobs = 0

    async def hold() -> None:
        nonlocal open_jobs
        async with subject.engine.generate(subject.request(max_tokens=10_000)):
            open_jobs += 1
            if open_jobs == SLOTS + QUEUE:
                started.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(SLOTS + QUEUE):
            nursery.start_soon(hold)
        with trio.fail_after(10):
            await started.wait()
        load = subject.engine.load()
        assert (load.active, load.queued) == (SLOTS, QUEUE)
        with pytest.raises(Unavailable):
            async with subject.engine.generate(subject.request()):
                pass
        nursery.cancel_scope.cancel()
    assert subject.engine.load().active == 0
    assert (await subject.run(max_tokens=2)).finish == "length"


async def test_a_reader_that_takes_nothing_holds_up_nobody_else(subject: Subject) -> None:
    wanted = (await subject.run(max_tokens=200)).ids
    async with subject.engine.generate(subject.request(max_tokens=200)) as slow:
        assert (await subject.run(max_tokens=200)).ids == wanted
        assert joined([step async for step in slow]).ids == wanted


@pytest.mark.parametrize(
    "bad",
    [
        {"model": bytes(32)},
        {"prompt_ids": ()},
        {"prompt_ids": (2**31,)},
        {"prompt_ids": (-1,)},
        {"prefix_ids": (2**31,)},
        {"prompt_ids": (1,) * 5000},
        {"max_tokens": 0},
    ],
    ids=str,
)
async def test_impossible_requests(subject: Subject, bad: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        async with subject.engine.generate(subject.request(**bad)):
            pass
    assert subject.engine.load().active == 0
