"""The gateway as its users meet it: OpenAI's own client, on a devnet of real processes."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.conftest import Devnet
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
PROMPT = "What is a voucher?"
LONG = {"ignore_eos": True}


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


def messages() -> list[Any]:
    return [{"role": "user", "content": PROMPT}]


def active_jobs(devnet: Devnet) -> int:
    """Running at all workers together."""
    return sum(
        devnet.node("status", "--json", home=worker["home"]).json["jobs"]["active"]
        for worker in devnet.ready["workers"]
    )


def test_the_models_say_who_sees_the_prompt(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert model.object == "model"
    assert "sees its prompt" in model.x_privacy  # type: ignore[attr-defined]
    assert model.pricing["prompt"].startswith("0.000")  # type: ignore[attr-defined]


def test_a_whole_answer_is_paid_and_proven(
    client: openai.OpenAI, model: str, gateway: Gateway, devnet: Devnet
) -> None:
    answer = client.chat.completions.create(model=model, messages=messages(), max_tokens=30)
    [choice] = answer.choices
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 30
    assert answer.usage.cost > 0  # type: ignore[attr-defined]
    receipt = str(answer.x_receipt)  # type: ignore[attr-defined]
    assert devnet.node("receipts", "verify", receipt).code == 0
    told = httpx.get(f"{gateway.base_url}/generation", params={"id": answer.id}).json()["data"]
    assert told["tokens_completion"] == answer.usage.completion_tokens
    assert told["total_cost_micro"] == answer.usage.cost_micro  # type: ignore[attr-defined]
    assert told["provider_name"] == answer.provider  # type: ignore[attr-defined]


def test_a_stream_is_the_same_answer(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": messages(), "max_tokens": 30, "seed": 7}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_asynchronous_client(gateway: Gateway, model: str) -> None:
    import asyncio

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="any") as client:

            async def one() -> str:
                stream = await client.chat.completions.create(
                    model=model, messages=messages(), max_tokens=20, stream=True
                )
                return "".join(
                    [c.choices[0].delta.content or "" async for c in stream if c.choices]
                )

            return list(await asyncio.gather(*(one() for _ in range(8))))

    assert all(asyncio.run(ask()))


def test_completions_choices_and_logprobs(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(
        model=model, prompt=["A voucher is", "A worker is"], n=2, max_tokens=8, logprobs=2, seed=1
    )
    assert len(answer.choices) == 4
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert len(told.tokens) == len(told.token_logprobs)
    chat = client.chat.completions.create(
        model=model, messages=messages(), max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert all(len(token.top_logprobs) == 3 for token in logprobs.content)


def test_a_stop_ends_the_answer_before_it(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=messages(), max_tokens=60, temperature=0, stop=[" signed"]
    )
    content = answer.choices[0].message.content
    assert content is not None
    assert " signed" not in content
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]},
            "tools[0].function.x",
        ),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"temperature": 5}, "temperature"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"max_tokens": 1_000_000}, "max_tokens"),
        ({"extra_body": {"provider": {"only": ["nobody"]}}}, "provider"),
    ],
)
def test_what_nobody_can_do_is_named(
    client: openai.OpenAI, model: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=messages(), **fields)
    assert caught.value.param == param


def test_an_unknown_model_and_embeddings(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody sells"):
        client.chat.completions.create(model="gpt-9", messages=messages())
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        client.embeddings.create(model=model, input="x")  # it sells token ids


def test_another_model_will_do(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model="gpt-9", messages=messages(), max_tokens=5, extra_body={"models": [model]}
    )
    assert answer.model == model


def test_nobody_within_the_limits_is_503_and_a_short_wait(
    client: openai.OpenAI, model: str
) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model=model,
            messages=messages(),
            extra_body={"provider": {"max_price": {"completion": 0.000001}}},
        )
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


def test_the_buyer_says_which_worker(client: openai.OpenAI, model: str, devnet: Devnet) -> None:
    for worker in devnet.ready["workers"]:
        for wish in ({"only": [worker["address"]]}, {"order": [worker["peer_id"]]}):
            answer = client.chat.completions.create(
                model=model, messages=messages(), max_tokens=3, extra_body={"provider": wish}
            )
            assert answer.provider == worker["address"]  # type: ignore[attr-defined]
    url = f"{client.base_url}models/{model}/endpoints"
    endpoints = httpx.get(url).json()["data"]["endpoints"]
    assert {each["provider_name"] for each in endpoints} == {
        worker["address"] for worker in devnet.ready["workers"]
    }
    assert all(each["latency_ms"]["p50"] > 0 for each in endpoints)


def test_a_retry_is_billed_once(client: openai.OpenAI, model: str, devnet: Devnet) -> None:
    def bought() -> int:
        return len(devnet.node("receipts", "list", "--last", "1000", "--json").json)

    asked: dict[str, Any] = {"model": model, "messages": messages(), "max_tokens": 5, "seed": 4}
    before = bought()
    answers = [
        client.chat.completions.create(**asked, extra_headers={"Idempotency-Key": "once"})
        for _ in range(3)
    ]
    assert len({answer.id for answer in answers}) == 1
    assert bought() == before + 1
    first = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked, extra_headers={"x-stainless-retry-count": "1"})
    assert first.id == again.id
    repeated = client.chat.completions.create(**asked)
    assert repeated.id != first.id
    assert bought() == before + 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_slot(
    client: openai.OpenAI, model: str, devnet: Devnet, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": model, "messages": messages(), "max_tokens": 1500}
    if stream:
        answer = client.chat.completions.create(**asked, stream=True, extra_body=LONG)
        next(iter(answer))
        answer.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.7).chat.completions.create(**asked, extra_body=LONG)
    left_s = time.monotonic()
    while active_jobs(devnet):
        assert time.monotonic() - left_s < 20, "the engine goes on"
    newest = devnet.node("receipts", "list", "--json").json[0]
    assert 0 <= newest["tokens_out"] < 1500


def test_other_commands_of_the_home_ask_the_gateway(
    devnet: Devnet, client: openai.OpenAI, model: str
) -> None:
    status = devnet.node("status", "--json")
    assert status.code == 0, status.err
    assert status.json["running"]
    assert status.json["gateway"]["requests"] == 0
    assert status.json["models"][0]["name"] == model
    wallet = devnet.node("wallet", "show", "--json")
    assert wallet.code == 0, wallet.err
    assert devnet.node("gateway", "--port", "0").code == 75


def test_pages_and_foreign_hosts_are_turned_away(gateway: Gateway) -> None:
    with httpx.Client(base_url=gateway.base_url) as http:
        assert http.get("/models", headers={"host": "evil.example"}).status_code == 403
        assert http.get("/models", headers={"origin": "https://evil.example"}).status_code == 403
        big = http.post("/chat/completions", json={"messages": "x" * 5 * 1024 * 1024})
        assert (big.status_code, big.json()["error"]["code"]) == (413, "request_too_large")


def test_nothing_of_a_prompt_is_logged(client: openai.OpenAI, model: str, gateway: Gateway) -> None:
    canary = "canary-7f3a"
    asked: list[Any] = [{"role": "user", "content": canary}]
    client.chat.completions.create(model=model, messages=asked, max_tokens=3)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=asked, temperature=9)
    assert canary not in gateway.log.read_text()
