"""The openai client against the gateway."""

import asyncio
from typing import Any

import openai

from tests.compat.drive.driving import PROMPT, Target, drive, expect

MESSAGES: list[Any] = [{"role": "user", "content": PROMPT}]
BEST: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 40, "temperature": 0, "seed": 7}


def client_of(target: Target) -> openai.OpenAI:
    return openai.OpenAI(base_url=target.base_url, api_key="any", max_retries=0)


def models(target: Target) -> None:
    names = [each.id for each in client_of(target).models.list()]
    expect(target.model in names, names)
    expect(client_of(target).models.retrieve(target.model).id == target.model)


def whole(target: Target) -> str:
    answer = client_of(target).chat.completions.create(model=target.model, **BEST)
    text = answer.choices[0].message.content
    expect(text, answer)
    expect(answer.choices[0].finish_reason in ("stop", "length"), answer)
    usage = answer.usage
    expect(usage and usage.prompt_tokens and usage.completion_tokens, usage)
    assert usage is not None
    expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)
    return text or ""


def streamed(target: Target) -> None:
    chunks = list(
        client_of(target).chat.completions.create(
            model=target.model, stream=True, stream_options={"include_usage": True}, **BEST
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    expect(text == whole(target), text)
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    expect(reasons[-1] and not any(reasons[:-1]), reasons)
    expect(chunks[-1].usage and chunks[-1].usage.completion_tokens, chunks[-1])


def helper_stream(target: Target) -> None:
    with client_of(target).chat.completions.stream(model=target.model, **BEST) as stream:
        for _ in stream:
            pass
        text = stream.get_final_completion().choices[0].message.content
    expect(text == whole(target), text)


def asynchronous(target: Target) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=target.base_url, api_key="any", max_retries=0
        ) as client:

            async def one() -> str:
                answer = await client.chat.completions.create(model=target.model, **BEST)
                return answer.choices[0].message.content or ""

            async def other() -> str:
                stream = await client.chat.completions.create(
                    model=target.model, stream=True, **BEST
                )
                return "".join(
                    [c.choices[0].delta.content or "" async for c in stream if c.choices]
                )

            return list(await asyncio.gather(one(), other(), one(), other()))

    texts = asyncio.run(ask())
    expect(set(texts) == {whole(target)}, texts)


def completions(target: Target) -> None:
    client = client_of(target)
    asked: dict[str, Any] = {"prompt": "A voucher is", "max_tokens": 20, "temperature": 0}
    one = client.completions.create(model=target.model, **asked).choices[0].text
    parts = client.completions.create(model=target.model, stream=True, **asked)
    text = "".join(part.choices[0].text for part in parts if part.choices)
    expect(one and one == text, (one, text))


def parameters(target: Target) -> None:
    answer = client_of(target).chat.completions.create(
        model=target.model, messages=MESSAGES, max_tokens=12, n=2, seed=5, top_p=0.9,
        temperature=0.8, stop=["\n\n"], logprobs=True, top_logprobs=2, user="me",
    )  # fmt: skip
    expect(len(answer.choices) == 2, answer)
    told = answer.choices[0].logprobs
    expect(told and told.content and len(told.content[0].top_logprobs) == 2, told)


def errors(target: Target) -> None:
    client = client_of(target)
    try:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    except openai.NotFoundError as error:
        expect(error.code == "model_not_found", error.body)
    else:
        raise AssertionError("a model that nobody sells has answered")
    try:
        client.chat.completions.create(model=target.model, messages=MESSAGES, temperature=9)
    except openai.BadRequestError as error:
        expect(error.param == "temperature", error.body)
    else:
        raise AssertionError("a temperature of 9 was taken")


if __name__ == "__main__":
    drive(
        "openai",
        {
            "models": models,
            "chat": lambda target: whole(target) and None,
            "chat, streamed, with usage": streamed,
            "chat, by the stream helper": helper_stream,
            "chat, asynchronous, four at once": asynchronous,
            "completions, whole and streamed": completions,
            "n, seed, top_p, stop, logprobs": parameters,
            "errors as exceptions of their kind": errors,
        },
    )
