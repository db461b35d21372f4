"""The engine against a server that makes vectors and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from node.adapters.openai.engine import OpenAIEngine
from node.adapters.openai.http import Server as Address
from node.errors import PeerError, Unavailable
from node.protocol import embeddings
from node.protocol.chat import Chat, ChatMessage
from node.protocol.embeddings import TOKENS_MAX, Inputs
from node.protocol.statements import Skill, Tier
from node.roles.generation import GenerationRequest
from tests.adapters.openai.embedder import NAME, SPOILT, Embedder, running
from tests.adapters.openai.served import tiny
from tests.adapters.openai.server import Habits
from tests.adapters.openai.test_engine import selling

INPUTS = Inputs(texts=("What is a voucher?", "The worker is paid.", "Rain"))
CHAT = Chat(messages=(ChatMessage(role="user", content="What is a voucher?"),))


@asynccontextmanager
async def selling_vectors(embedder: Embedder) -> AsyncIterator[OpenAIEngine]:
    async with running(embedder) as url, trio.open_nursery() as nursery:
        engine = OpenAIEngine(Address.at(url), [tiny(NAME)], slots=2, queue_max=2)
        with trio.fail_after(60):
            await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


async def output_of(engine: OpenAIEngine, asked: Any) -> str:
    job = GenerationRequest(model=tiny().manifest.model_id, chat=asked, max_tokens=TOKENS_MAX)
    with trio.fail_after(30):
        async with engine.generate(job) as steps:
            made = [step async for step in steps]
    assert [step.finish for step in made] == [None] * (len(made) - 1) + ["stop"]
    return "".join(step.text for step in made)


async def test_vectors_are_sold_as_text_and_are_the_servers() -> None:
    embedder = Embedder()
    async with selling_vectors(embedder) as engine:
        (model,) = engine.models()
        assert (model.tier, model.continues) == (Tier.TEXT, False)
        assert model.skills == Skill.EMBEDDINGS | Skill.DIMENSIONS
        assert model.context == TOKENS_MAX
        assert 1 < model.rates.decode_tps <= 1e6
        vectors = embeddings.read(await output_of(engine, INPUTS), INPUTS)
        assert embedder.bodies[-1]["input"] == list(INPUTS.texts)
        for vector, text in zip(vectors, INPUTS.texts, strict=True):
            assert vector == pytest.approx(embedder.vector(text), abs=1e-6)
        short = replace(INPUTS, dimensions=16)
        assert len(embeddings.read(await output_of(engine, short), short)[0]) == 16


async def test_a_server_that_leaves_out_dimensions_is_not_asked_for_them() -> None:
    async with selling_vectors(Embedder(shortens=False)) as engine:
        assert engine.models()[0].skills == Skill.EMBEDDINGS
        with pytest.raises(PeerError):
            await output_of(engine, replace(INPUTS, dimensions=16))


async def test_vectors_and_text_are_not_asked_of_each_other() -> None:
    async with selling_vectors(Embedder()) as engine:
        with pytest.raises(PeerError):
            await output_of(engine, CHAT)
    async with selling(Habits(ids=False)) as (engine, _):
        assert not engine.models()[0].skills & Skill.EMBEDDINGS
        with pytest.raises(PeerError):
            await output_of(engine, INPUTS)


@pytest.mark.parametrize("spoilt", SPOILT)
async def test_what_is_no_list_of_vectors_fails_the_job(spoilt: str) -> None:
    embedder = Embedder()
    async with selling_vectors(embedder) as engine:
        embedder.spoilt = spoilt
        with pytest.raises(Unavailable, match="server"):
            await output_of(engine, INPUTS)
        embedder.spoilt = ""
        assert await output_of(engine, INPUTS)


async def test_a_server_that_makes_none_is_not_sold() -> None:
    async with selling_vectors(Embedder(spoilt="huge")) as engine:
        assert engine.models() == ()
