"""Formats and tools at the gateway: OpenAI's own client gets what it asked for."""

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


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Bern", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}


class Weather(BaseModel):
    """Says the weather."""

    city: Literal["Bern", "Rome"]
    days: int = Field(ge=1, le=9)


def check_weather(arguments: str) -> None:
    made = json.loads(arguments)
    assert made["city"] in ("Bern", "Rome")
    assert 1 <= made["days"] <= 9


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "clock"}),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}),
    ],
)
def test_a_call_that_is_forced(
    client: openai.OpenAI, model: str, devnet: Devnet, choice: Any, names: set[str]
) -> None:
    for seed in range(3):
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, tools=[WEATHER, CLOCK], tool_choice=choice, seed=seed
        )
        [made] = answer.choices
        assert made.finish_reason == "tool_calls"
        assert made.message.content is None
        assert made.message.tool_calls is not None
        [call] = made.message.tool_calls
        assert call.type == "function"
        assert call.function.name in names
        if call.function.name == "weather":
            check_weather(call.function.arguments)
        else:
            assert call.function.arguments == "{}"
    receipt = str(answer.x_receipt)  # type: ignore[attr-defined]
    assert devnet.node("receipts", "verify", receipt).code == 0


def test_a_stream_of_a_call_is_the_same_call(client: openai.OpenAI, model: str) -> None:
    asked: Any = {
        "model": model, "messages": MESSAGES, "tools": [WEATHER], "tool_choice": "required",
        "seed": 3,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert whole is not None
    parts: list[Any] = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            parts += choice.delta.tool_calls or []
            assert not choice.delta.content
            finish = choice.finish_reason
    assert finish == "tool_calls"
    assert parts[0].function is not None
    assert parts[0].function.name == "weather"
    assert not any(part.id for part in parts[1:])
    arguments = "".join(part.function.arguments or "" for part in parts if part.function)
    assert arguments == whole[0].function.arguments


def test_the_client_parses_the_arguments(client: openai.OpenAI, model: str) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, tools=[tool], tool_choice="required"
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert isinstance(calls[0].function.parsed_arguments, Weather)


def test_a_model_that_may_choose_answers_or_calls(client: openai.OpenAI, model: str) -> None:
    for seed in range(6):
        answer = client.chat.completions.create(
            model=model, messages=MESSAGES, tools=[WEATHER, CLOCK], seed=seed, max_tokens=80
        )
        [made] = answer.choices
        if made.message.tool_calls:
            assert made.finish_reason in ("tool_calls", "length")
            assert made.message.tool_calls[0].type == "function"
            assert made.message.tool_calls[0].function.name in ("weather", "clock")
        else:
            assert made.finish_reason in ("stop", "length")
            assert '{"content"' not in (made.message.content or "")


def test_the_result_of_a_call_goes_back(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[WEATHER], tool_choice="required"
    )
    called = first.choices[0].message
    assert called.tool_calls is not None
    talk = [
        *MESSAGES,
        called,
        {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "hot"},
    ]
    answer = client.chat.completions.create(
        model=model, messages=talk, tools=[WEATHER], tool_choice="none", max_tokens=20
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, "tools[0].function.name"),
        ({"tools": [WEATHER], "tool_choice": "never"}, "tool_choice"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]},
            "tools",
        ),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_tools_that_nobody_can_call_are_named(
    client: openai.OpenAI, model: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=20, **fields)
    assert caught.value.param == param
