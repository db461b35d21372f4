"""Requests as they leave for a server: the fields that are listed here, and no others.

A buyer's request never decides which parameters a server gets, only the values of these.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from node.protocol.chat import Chat, ChatMessage, Toolbox, functions
from node.protocol.embeddings import Inputs
from node.protocol.formats import ANY_OBJECT
from node.protocol.sampling import Sampling

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
MODELS: Final = "/v1/models"
_SEED_MASK: Final = 2**31 - 1
"""Servers disagree about larger seeds."""
_CHOICE_STEP: Final = 1_000_003


def chat(
    name: str,
    asked: Chat,
    *,
    prefix: str = "",
    max_tokens: int,
    sampling: Sampling,
    ignore_eos: bool = False,
    format: str = "",
) -> bytes:
    """A conversation to be answered, or an answer to be gone on with.

    Args:
        name: The server's name of the model.
        asked: The conversation.
        prefix: Start of the answer.
        max_tokens: Most tokens, as the server counts them.
        sampling: Only what is not neutral is passed.
        ignore_eos: For servers that know the word.
        format: A JSON Schema that the answer has to fit; empty for none.
    """
    messages = [_message(each) for each in asked.messages]
    body: dict[str, Any] = {"model": name, "messages": messages}
    if asked.toolbox.tools:
        body |= _tools(asked.toolbox)
    if prefix:
        messages.append({"role": "assistant", "content": prefix})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if format:
        body["response_format"] = _format(format)
    return _encoded(body | _common(max_tokens, sampling, ignore_eos))


def _message(message: ChatMessage) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.calls
        ]
    if message.call_id:
        made["tool_call_id"] = message.call_id
    return made


def _tools(toolbox: Toolbox) -> dict[str, Any]:
    body: dict[str, Any] = {"tools": functions(toolbox.tools)}
    if toolbox.required and len(toolbox.tools) == 1:
        # More servers know how to force one than any.
        named = {"name": toolbox.tools[0].name}
        body["tool_choice"] = {"type": "function", "function": named}
    elif toolbox.required:
        body["tool_choice"] = "required"
    if not toolbox.parallel:
        body["parallel_tool_calls"] = False
    return body


def _format(format: str) -> dict[str, Any]:
    if format == ANY_OBJECT:
        return {"type": "json_object"}
    named = {"name": "answer", "strict": True, "schema": json.loads(format)}
    return {"type": "json_schema", "json_schema": named}


def completion(
    name: str,
    ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    ignore_eos: bool = False,
) -> bytes:
    """Token ids to be gone on with, by token ids.

    Args:
        name: The server's name of the model.
        ids: Prompt and output so far.
        max_tokens: Most new tokens.
        sampling: Only what is not neutral is passed.
        ignore_eos: For servers that know the word.
    """
    body: dict[str, Any] = {"model": name, "prompt": list(ids), "return_token_ids": True}
    return _encoded(body | _common(max_tokens, sampling, ignore_eos))


def text_completion(
    name: str, prompt: str, *, max_tokens: int, sampling: Sampling, ignore_eos: bool = False
) -> bytes:
    """A text to be gone on with.

    Args:
        name: The server's name of the model.
        prompt: It, and output so far.
        max_tokens: Most tokens, as the server counts them.
        sampling: Only what is not neutral is passed.
        ignore_eos: For servers that know the word.
    """
    body: dict[str, Any] = {"model": name, "prompt": prompt}
    return _encoded(body | _common(max_tokens, sampling, ignore_eos))


def embeddings(name: str, inputs: Inputs) -> bytes:
    """Texts to be made vectors.

    Args:
        name: The server's name of the model.
        inputs: They.
    """
    # As numbers: not every server knows another encoding.
    body: dict[str, Any] = {"model": name, "input": inputs.texts, "encoding_format": "float"}
    if inputs.dimensions:
        body["dimensions"] = inputs.dimensions
    return _encoded(body)


def _common(max_tokens: int, sampling: Sampling, ignore_eos: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        # Never left out: a server's own default would take its place.
        "top_p": sampling.top_p,
        "seed": seed_of(sampling),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.presence:
        body["presence_penalty"] = sampling.presence
    if sampling.frequency:
        body["frequency_penalty"] = sampling.frequency
    if sampling.repetition != 1.0:
        body["repetition_penalty"] = sampling.repetition
    if ignore_eos:
        body["ignore_eos"] = True
    return body


def seed_of(sampling: Sampling) -> int:
    """A seed that every server takes, another one for each choice."""
    return (sampling.seed + _CHOICE_STEP * sampling.choice) & _SEED_MASK


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
