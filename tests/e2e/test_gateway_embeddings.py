"""Embeddings with OpenAI's own client: a server of vectors behind a worker, on a devnet."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from devnet.network import Devnet, Options, up
from node.adapters import model_folder
from node.protocol.statements import Skill
from node.protocol.transcript_verify import verify
from tests.adapters.openai.embedder import NAME, Embedder
from tests.adapters.openai.process import EMBEDDER, backend_up
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
TEXTS = [
    "The client pays the worker with a voucher.",
    "A voucher pays the worker for its client.",
    "Rain fell over the green hills all night.",
]


@pytest.fixture(scope="module")
def net() -> Iterator[Devnet]:
    """One worker that sells a server with `/v1/embeddings` alone."""
    tokenizer = model_folder.shipped() / "tokenizer.json"
    with backend_up(module=EMBEDDER) as server:
        settings = {
            "engine.kind": "openai",
            "engine.url": server.url,
            "engine.models": (f"{NAME}={tokenizer}",),
        }
        with up(Options(workers=1, worker_settings=settings)) as running:
            yield running


@pytest.fixture(scope="module")
def gateway(net: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with gateway_up(str(net.client_home), log) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0) as made:
        yield made


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_texts_that_say_the_same_are_near_each_other(client: openai.OpenAI) -> None:
    answer: Any = client.embeddings.create(model=NAME, input=TEXTS)
    first, second, other = (each.embedding for each in answer.data)
    assert cosine(first, second) > cosine(first, other) + 0.2
    assert answer.model == NAME
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3 * 4
    assert answer.usage.cost_micro > 0
    assert first == pytest.approx(Embedder().vector(TEXTS[0]), abs=1e-6)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_one_text_in_either_encoding(
    client: openai.OpenAI, gateway: Gateway, encoding: Any
) -> None:
    plain: Any = client.embeddings.create(model=NAME, input=TEXTS[0])  # asks for base64 by itself
    [told] = httpx.post(
        f"{gateway.base_url}/embeddings",
        json={"model": NAME, "input": TEXTS[0], "encoding_format": encoding},
    ).json()["data"]
    assert isinstance(told["embedding"], str if encoding == "base64" else list)
    named: Any = client.embeddings.create(model=NAME, input=TEXTS[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(named.data[0].embedding)


def test_fewer_dimensions_where_the_server_makes_them(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=NAME, input=TEXTS, dimensions=32)
    assert {len(each.embedding) for each in answer.data} == {32}


def test_many_texts_are_bought_as_several_jobs(client: openai.OpenAI) -> None:
    texts = [f"{TEXTS[n % 3]} Number {n}." for n in range(150)]
    answer: Any = client.embeddings.create(model=NAME, input=texts)
    assert [each.index for each in answer.data] == list(range(150))
    assert len(answer.x_receipts) == 3
    last = client.embeddings.create(model=NAME, input=texts[-1]).data[0].embedding
    assert answer.data[-1].embedding == pytest.approx(last, abs=1e-6)


def test_a_receipt_proves_them(client: openai.OpenAI, net: Devnet) -> None:
    answer: Any = client.embeddings.create(model=NAME, input=TEXTS)
    path = Path(answer.x_receipt)
    report = verify(path.read_bytes())
    assert report.passed
    assert report.sealed is not None
    [segment] = report.sealed.transcript.segments
    assert segment.receipt is not None
    terms, receipt = segment.terms.statement, segment.receipt.statement
    assert terms.skills == Skill.EMBEDDINGS | Skill.DIMENSIONS
    assert terms.price_out == 0
    assert receipt.tokens_in == answer.usage.prompt_tokens
    assert receipt.amount == answer.usage.cost_micro > 0


def test_it_is_listed_as_what_it_is(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    told: Any = model
    assert set(told.supported_parameters) == {"encoding_format", "dimensions"}
    assert told.pricing["completion"] == "0"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": "x", "extra_body": {"stream": True}}, "stream"),
    ],
)
def test_what_is_refused(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=NAME, **fields)
    assert caught.value.param == param


def test_it_answers_no_conversation(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="makes embeddings"):
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hi"}])
