"""Formats at the gateway: OpenAI's own client gets what it asked for from workers of ids."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.conftest import Devnet
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me about a fox."}]


class Friend(BaseModel):
    name: str = Field(max_length=12)
    near: bool


class Animal(BaseModel):
    """An answer that even a very small model comes to the end of."""

    says: str = Field(max_length=30)
    kind: Literal["fox", "hen", "owl"]
    legs: int = Field(ge=0, le=8)
    friend: Friend | None


@pytest.fixture(scope="module")
def gateway(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with gateway_up(devnet.ready["client_home"], log) as running:
        yield running


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return next(iter(client.models.list())).id


def schema(of: dict[str, Any], **fields: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": of} | fields}


@pytest.mark.parametrize("seed", range(4))
def test_parse_gives_an_object_of_the_class(
    client: openai.OpenAI, model: str, devnet: Devnet, seed: int
) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Animal, seed=seed, max_tokens=200
    )
    [choice] = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Animal)
    assert list(json.loads(choice.message.content or "")) == ["says", "kind", "legs", "friend"]
    receipt = str(answer.x_receipt)  # type: ignore[attr-defined]
    assert devnet.node("receipts", "verify", receipt).code == 0


def test_a_stream_is_parsed_as_well_and_is_the_same_answer(
    client: openai.OpenAI, model: str
) -> None:
    asked: Any = {"model": model, "messages": MESSAGES, "response_format": Animal, "seed": 9}
    whole = client.chat.completions.parse(**asked)
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_a_json_object_is_begun_at_least(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=60
    )
    content = answer.choices[0].message.content or ""
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_several_answers_with_log_probabilities(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        response_format=schema({"enum": ["yes", "no", "perhaps"]}, strict=True),
        n=3,
        logprobs=True,
        top_logprobs=2,
    )
    for choice in answer.choices:
        assert json.loads(choice.message.content or "") in ("yes", "no", "perhaps")
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert all(len(each.top_logprobs) == 2 for each in choice.logprobs.content)


@pytest.mark.parametrize(
    "of",
    [
        {"type": "object", "not": {"type": "null"}},
        {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "(?=a)b"},
        {"$ref": "#"},
        {"type": "integer", "multipleOf": 99991},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}}] * 1200},
    ],
)
def test_a_schema_that_nobody_forces_is_named(
    client: openai.OpenAI, model: str, of: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=model, messages=MESSAGES, response_format=schema(of), max_tokens=20
        )
    assert caught.value.param == "response_format"
