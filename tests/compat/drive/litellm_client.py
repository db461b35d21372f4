"""The LiteLLM client against the gateway."""

import asyncio
from typing import Any

import litellm  # type: ignore[import-not-found]

from tests.compat.drive.driving import PROMPT, Target, drive, expect


def asked(target: Target) -> dict[str, Any]:
    return {
        "model": f"openai/{target.model}",
        "api_base": target.base_url,
        "api_key": "any",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 40,
        "temperature": 0,
        "seed": 7,
    }


def completion(target: Target) -> str:
    answer = litellm.completion(**asked(target))
    text: str = answer.choices[0].message.content
    expect(text, answer)
    expect(answer.usage.completion_tokens, answer.usage)
    return text


def streamed(target: Target) -> None:
    chunks = list(litellm.completion(stream=True, **asked(target)))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    expect(text == completion(target), text)


def asynchronous(target: Target) -> None:
    async def ask() -> Any:
        return await litellm.acompletion(**asked(target))

    expect(asyncio.run(ask()).choices[0].message.content == completion(target))


def text_completion(target: Target) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{target.model}", api_base=target.base_url, api_key="any",
        prompt="A voucher is", max_tokens=20,
    )  # fmt: skip
    expect(answer.choices[0].text, answer)


def errors(target: Target) -> None:
    try:
        litellm.completion(**(asked(target) | {"model": "openai/gpt-9"}))
    except litellm.NotFoundError:
        return
    raise AssertionError("a model that nobody sells has answered")


if __name__ == "__main__":
    drive(
        "litellm",
        {
            "completion": lambda target: completion(target) and None,
            "completion, streamed": streamed,
            "acompletion": asynchronous,
            "text_completion": text_completion,
            "an unknown model is its NotFoundError": errors,
        },
    )
