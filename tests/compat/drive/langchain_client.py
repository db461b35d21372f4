"""langchain-openai against the gateway."""

import asyncio
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]

from tests.compat.drive.driving import PROMPT, Target, drive, expect


def chat_of(target: Target, **more: Any) -> Any:
    return ChatOpenAI(
        base_url=target.base_url, api_key="any", model=target.model, temperature=0, seed=7,
        max_tokens=40, max_retries=0, **more,
    )  # fmt: skip


def invoke(target: Target) -> None:
    answer = chat_of(target).invoke(PROMPT)
    expect(answer.content, answer)
    expect(answer.usage_metadata["output_tokens"], answer.usage_metadata)
    expect(answer.response_metadata["finish_reason"] in ("stop", "length"), answer)


def stream(target: Target) -> None:
    parts = list(chat_of(target, stream_usage=True).stream(PROMPT))
    text = "".join(part.content for part in parts)
    expect(text == chat_of(target).invoke(PROMPT).content, text)
    expect(any(part.usage_metadata for part in parts), parts[-1])


def conversation(target: Target) -> None:
    asked = [SystemMessage("Answer in one sentence."), HumanMessage(PROMPT)]
    expect(chat_of(target).invoke(asked).content)


def asynchronous(target: Target) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        parts = [part async for part in chat_of(target).astream(PROMPT)]
        return await chat_of(target).ainvoke(PROMPT), parts

    whole, parts = asyncio.run(ask())
    expect(whole.content == "".join(part.content for part in parts), whole)


if __name__ == "__main__":
    drive(
        "langchain-openai",
        {
            "invoke": invoke,
            "stream": stream,
            "invoke with a system message": conversation,
            "ainvoke and astream": asynchronous,
        },
    )
