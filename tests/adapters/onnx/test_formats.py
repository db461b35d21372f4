"""Formats in the engine: answers fit at any temperature, are continued, and disturb nobody."""

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import trio

from node.adapters import model_folder
from node.adapters.grammar import Grammars
from node.adapters.onnx import OnnxEngine, OnnxModel
from node.adapters.text import ChatText
from node.adapters.text.chat import Message
from node.errors import PeerError, Unavailable
from node.protocol.logprobs import TokenLogprob
from node.protocol.manifest import FileRole
from node.protocol.sampling import Sampling
from node.protocol.statements import Skill
from node.roles.generation import GenerationRequest

FOLDER = model_folder.load(model_folder.shipped())
FILES = FOLDER.client_files()
TEXT = ChatText.of(FILES)
GRAMMARS = Grammars(
    FILES[FileRole.TOKENIZER], vocab=FOLDER.manifest.vocab, eos_ids=FOLDER.manifest.eos_ids
)
MODEL = OnnxModel(
    manifest=FOLDER.manifest, graph=FOLDER.graph, decode=TEXT.decode, grammar=GRAMMARS.start
)
PROMPT = TEXT.render((Message(role="user", content="Tell me about a fox."),))
FORMAT = json.dumps(
    {
        "type": "object",
        "properties": {
            "animal": {"enum": ["fox", "hen", "owl"]},
            "says": {"type": "string", "maxLength": 40},
            "legs": {"type": "integer", "minimum": 0, "maximum": 8},
            "friends": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["animal", "says", "legs", "friends"],
        "additionalProperties": False,
    }
)


def request(seed: int, **fields: Any) -> GenerationRequest:
    asked = GenerationRequest(
        model=FOLDER.manifest.model_id,
        prompt_ids=PROMPT,
        max_tokens=200,
        sampling=Sampling(temperature=1.0, seed=seed),
        format=FORMAT,
    )
    return replace(asked, **fields)


@asynccontextmanager
async def running(model: OnnxModel = MODEL, slots: int = 4) -> AsyncIterator[OnnxEngine]:
    engine = OnnxEngine([model], slots=slots, queue_max=64)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()


async def made(engine: OnnxEngine, asked: GenerationRequest) -> tuple[tuple[int, ...], str]:
    """Ids and finish of one job."""
    ids: tuple[int, ...] = ()
    finish = ""
    async with engine.generate(asked) as steps:
        async for step in steps:
            ids += step.ids
            finish = step.finish or finish
    return ids, finish


async def all_made(
    engine: OnnxEngine, asked: list[GenerationRequest]
) -> list[tuple[tuple[int, ...], str]]:
    """The same of several at once, in their order."""
    results: dict[int, tuple[tuple[int, ...], str]] = {}

    async def one(number: int) -> None:
        results[number] = await made(engine, asked[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(asked)):
            nursery.start_soon(one, number)
    return [results[number] for number in range(len(asked))]


def check(ids: tuple[int, ...], finish: str) -> None:
    assert finish == "stop"
    assert ids[-1] in FOLDER.manifest.eos_ids
    answer = json.loads(TEXT.decode(ids))
    assert list(answer) == ["animal", "says", "legs", "friends"]
    assert answer["animal"] in ("fox", "hen", "owl")
    assert len(answer["says"]) <= 40
    assert 0 <= answer["legs"] <= 8
    assert len(answer["friends"]) <= 3
    assert all(isinstance(each, bool) for each in answer["friends"])


async def test_it_says_that_it_can() -> None:
    async with running() as engine:
        assert engine.models()[0].skills == Skill.JSON | Skill.SCHEMA
    async with running(replace(MODEL, grammar=None)) as engine:
        assert engine.models()[0].skills == 0
        with pytest.raises(PeerError, match="format"):
            await made(engine, request(1))


async def test_answers_of_twenty_seeds_fit_and_a_batch_changes_none() -> None:
    async with running() as engine:
        alone = [await made(engine, request(seed)) for seed in range(20)]
        assert len(set(alone)) == 20
        for ids, finish in alone:
            check(ids, finish)
        plain = request(99, format="", max_tokens=40)
        undisturbed = await made(engine, plain)
        mixed = await all_made(engine, [plain, *(request(seed) for seed in range(6)), plain])
        assert mixed == [undisturbed, *alone[:6], undisturbed]


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=0.0),
    Sampling(temperature=1.5, top_k=5, top_p=0.8, presence=0.5, repetition=1.2, seed=4),
])  # fmt: skip
async def test_other_samplings_fit_as_well(sampling: Sampling) -> None:
    async with running() as engine:
        check(*await made(engine, request(0, sampling=sampling)))


async def test_from_any_prefix_it_goes_on_with_the_same_ids() -> None:
    async with running() as engine:
        whole, _ = await made(engine, request(3))
        cuts = range(1, len(whole), max(1, len(whole) // 7))
        rest = await all_made(
            engine,
            [request(3, prefix_ids=whole[:cut], max_tokens=200 - cut) for cut in cuts],
        )
        assert [ids for ids, _ in rest] == [whole[cut:] for cut in cuts]
        with pytest.raises(PeerError, match="prefix"):
            await made(engine, request(3, prefix_ids=PROMPT[:3]))


async def test_the_limit_and_log_probabilities_are_as_ever() -> None:
    async with running() as engine:
        ids, finish = await made(engine, request(5, max_tokens=7))
        assert (len(ids), finish) == (7, "length")
        told: list[TokenLogprob] = []
        asked = request(5, sampling=Sampling(temperature=1.0, seed=5, logprobs=2), max_tokens=7)
        async with engine.generate(asked) as steps:
            async for step in steps:
                told += step.logprobs
        assert len(told) == 7
        # Under the model itself, which would rather have told a story.
        assert told[0].chosen < told[0].top[0][1]


async def test_a_format_that_leads_nowhere_ends_its_own_job() -> None:
    class Stuck:
        def allowed(self) -> Any:
            raise Unavailable("nothing may follow")

        def push(self, token: int) -> None: ...

    def start(format: str, prefix: Any) -> Any:
        return Stuck() if format == "stuck" else GRAMMARS.start(format, prefix)

    async with running(replace(MODEL, grammar=start)) as engine:
        with pytest.raises(Unavailable, match="nothing may follow"):
            await made(engine, request(1, format="stuck"))
        check(*await made(engine, request(1)))


async def test_a_format_that_takes_too_long_is_given_up_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.adapters.onnx.engine.GRAMMAR_S", 0.3)
    done = threading.Event()

    def start(format: str, prefix: Any) -> Any:
        if format == "slow":
            done.wait(20)
        return GRAMMARS.start(FORMAT, prefix)

    async with running(replace(MODEL, grammar=start)) as engine:
        async with trio.open_nursery() as nursery:

            async def slow() -> None:
                with pytest.raises(Unavailable, match="too long"):
                    await made(engine, request(1, format="slow"))

            nursery.start_soon(slow)
            check(*await made(engine, request(2)))
        done.set()


def test_ids_that_are_allowed_are_those_that_numpy_sorts() -> None:
    ids = GRAMMARS.start(FORMAT).allowed()
    assert ids.dtype == np.int64
    assert (np.diff(ids) > 0).all()
