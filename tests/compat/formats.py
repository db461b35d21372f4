"""Formats and tools by the openai client: what workers can do of them, or how it is refused.

Runs in the environment of the openai client, as the drivers do.
"""

import json
from typing import Any

import openai
from pydantic import BaseModel, Field

from tests.compat.drive.driving import PROMPT, REFUSED, Target, drive, expect
from tests.compat.drive.openai_client import MESSAGES, client_of

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 12}},
            "required": ["word"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Word(BaseModel):
    """What `.parse` is to fill in; bounded, so that a very small model comes to its end."""

    word: str = Field(max_length=12)
    letters: int = Field(ge=0, le=20)


def json_object(target: Target) -> None:
    answer = client_of(target).chat.completions.create(
        model=target.model,
        messages=MESSAGES,
        max_tokens=60,
        response_format={"type": "json_object"},
    )
    content = answer.choices[0].message.content or ""
    expect(content.startswith("{"), content)


def parse(target: Target) -> None:
    answer = client_of(target).chat.completions.parse(
        model=target.model, messages=MESSAGES, max_tokens=200, response_format=Word
    )
    expect(isinstance(answer.choices[0].message.parsed, Word), answer)


def tools(target: Target) -> None:
    """A call that has to be made, and one that may be: either way its arguments fit."""
    asked: dict[str, Any] = {
        "model": target.model, "messages": MESSAGES, "max_tokens": 200, "tools": [TOOL], "seed": 7,
    }  # fmt: skip
    client = client_of(target)
    answer = client.chat.completions.create(tool_choice="required", **asked)
    [call] = answer.choices[0].message.tool_calls or [None]
    expect(call is not None and call.function.name == "look_up", answer)
    expect(answer.choices[0].finish_reason == "tool_calls", answer)
    arguments = json.loads(call.function.arguments)
    expect(list(arguments) == ["word"] and isinstance(arguments["word"], str), arguments)
    chunks = list(client.chat.completions.create(tool_choice="required", stream=True, **asked))
    deltas = [part for c in chunks if c.choices for part in c.choices[0].delta.tool_calls or ()]
    streamed = "".join(part.function.arguments or "" for part in deltas)
    expect(streamed == call.function.arguments, streamed)
    may = client.chat.completions.create(**asked).choices[0].message
    expect(may.content or may.tool_calls, may)


def embeddings(target: Target) -> str:
    try:
        client_of(target).embeddings.create(model=target.model, input=PROMPT)
    except openai.BadRequestError as error:
        expect((error.status_code, error.param) == (400, "input"), error.body)
        return REFUSED
    raise AssertionError("an embedding was sold")


if __name__ == "__main__":
    drive(
        "openai",
        {
            "response_format json_object": json_object,
            "a pydantic model, by .parse": parse,
            "tools, required and free, streamed": tools,
            "embeddings": embeddings,
        },
    )
