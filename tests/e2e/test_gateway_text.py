"""Formats and tools in tier text: a worker's server forces them, the gateway reads calls back."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from devnet.network import Devnet, Options, up
from node.adapters import model_folder
from tests.adapters.openai.process import backend_up
from tests.adapters.openai.server import NAME
from tests.e2e.gateway_process import gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
MESSAGES: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Weather(BaseModel):
    """An answer that even a very small model comes to the end of."""

    sky: Literal["blue", "grey"]
    degrees: int = Field(ge=-50, le=50)


@pytest.fixture(scope="module")
def net() -> Iterator[Devnet]:
    """One worker that sells a server which shows no ids, but forces formats and calls."""
    with backend_up("--text", "--forces") as server:
        settings = {
            "engine.kind": "openai",
            "engine.url": server.url,
            "engine.models": (f"{NAME}={model_folder.shipped()}",),
        }
        with up(Options(workers=1, worker_settings=settings)) as running:
            yield running


@pytest.fixture(scope="module")
def client(net: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with (
        gateway_up(str(net.client_home), log) as gateway,
        openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return next(iter(client.models.list())).id


def test_parse_gives_an_object_of_the_class(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Weather, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_the_server_is_a_call_of_the_answer(
    client: openai.OpenAI, model: str, stream: bool
) -> None:
    asked: Any = {
        "model": model, "messages": MESSAGES, "tools": [WEATHER], "tool_choice": "required",
    }  # fmt: skip
    if stream:
        with client.chat.completions.stream(**asked) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")


def test_results_go_back_and_text_comes(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[WEATHER], tool_choice="required"
    )
    called = first.choices[0].message
    assert called.tool_calls is not None
    result: Any = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "It is hot."}
    talk: list[Any] = [*MESSAGES, called, result]
    answer = client.chat.completions.create(
        model=model, messages=talk, tools=[WEATHER], max_tokens=20
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert first.usage is not None
    assert answer.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_receipt_proves_a_call(client: openai.OpenAI, model: str, net: Devnet) -> None:
    from node.protocol.transcript_verify import verify

    answer: Any = client.chat.completions.create(
        model=model, messages=MESSAGES, tools=[WEATHER], tool_choice="required"
    )
    with open(answer.x_receipt, "rb") as file:
        report = verify(file.read())
    assert report.passed
    assert report.sealed is not None
    [segment] = report.sealed.transcript.segments
    assert segment.receipt is not None
    assert segment.receipt.statement.tokens_out == answer.usage.completion_tokens
    assert segment.terms.statement.skills == 7
