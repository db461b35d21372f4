"""How a model is given tools: natively, or by a format that makes its answer a call.

A model whose chat template knows tools, and a server that does, is shown them as it was trained to,
and writes a call where it wants one.  Every other model is told of them in words, and its answer is
made to fit "a call" or, where it may choose, "a call, or an answer".
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from node.errors import UsageError
from node.protocol import formats, tool_calls
from node.protocol.chat import NO_TOOLS, ChatMessage, Tool, Toolbox, parameters_of
from node.protocol.formats import FormatError
from node.protocol.tool_calls import CallReader

ANSWER: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"content": {"type": "string"}},
    "required": ["content"],
    "additionalProperties": False,
}
CONSTANTS: Final = frozenset({"const", "enum", "default", "examples"})
MUST: Final = "Answer with one call of a tool, as JSON:"
MAY: Final = (
    'Answer with JSON: {"content": …} with your answer, or one call of a tool, if it is needed:'
)
CALL: Final = '{"name": …, "arguments": {…}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A conversation with tools as a model is to be asked."""

    messages: tuple[ChatMessage, ...]
    toolbox: Toolbox
    """What is left to be shown natively."""
    format: str
    whole: bool
    """Calls come as the whole answer, made so by the format; else within its text."""

    def reader(self) -> CallReader:
        """For the answer."""
        return CallReader(whole=self.whole)


def shown(
    messages: tuple[ChatMessage, ...], toolbox: Toolbox, *, native: bool, forces: bool
) -> Shown:
    """How to ask a model.

    Args:
        messages: The conversation.
        toolbox: What the model may call.
        native: It can be shown tools, and results of calls.
        forces: A call that has to be comes about by itself where tools are shown natively.

    Raises:
        UsageError: The schemas of the tools are none that could be forced.
    """
    by_format = bool(toolbox.tools) and (not native or (toolbox.required and not forces))
    format = _format(toolbox) if by_format else ""
    if native:
        left = replace(toolbox, required=False) if by_format else toolbox
        return Shown(messages=messages, toolbox=left, format=format, whole=by_format)
    told = tuple(map(_in_words, messages))
    if toolbox.tools:
        told = _told(_words(toolbox), told)
    return Shown(messages=told, toolbox=NO_TOOLS, format=format, whole=by_format)


def _format(toolbox: Toolbox) -> str:
    calls: list[dict[str, Any]] = []
    defs: dict[str, Any] = {}
    for tool in toolbox.tools:
        defs |= _lifted(tool)
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.name},
                    "arguments": {"$ref": f"#/$defs/{tool.name}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    options = calls if toolbox.required else [dict(ANSWER), *calls]
    schema = options[0] if len(options) == 1 else {"anyOf": options}
    try:
        return formats.written(schema | {"$defs": defs})
    except FormatError as error:
        raise UsageError(f"a call of these tools can't be forced: {error}") from error


def _lifted(tool: Tool) -> Iterator[tuple[str, Any]]:
    """A tool's schema and those that it refers to, under names that no other tool's have."""
    parameters = parameters_of(tool)
    named = {
        f"{tool.name}.{name}": schema
        for place in ("$defs", "definitions")
        for name, schema in _table(parameters.pop(place, None)).items()
    }
    for name, schema in {tool.name: parameters, **named}.items():
        yield name, _pointing(schema, tool.name)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _pointing(schema: Any, tool: str) -> Any:
    """A schema whose references lead to where `_lifted` puts what they mean."""
    if isinstance(schema, list):
        return [_pointing(each, tool) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            made[key] = _moved(value, tool)
        elif key == "properties" and isinstance(value, dict):  # any name may stand there
            made[key] = {name: _pointing(each, tool) for name, each in value.items()}
        else:
            made[key] = value if key in CONSTANTS else _pointing(value, tool)
    return made


def _moved(ref: str, tool: str) -> str:
    for place in ("#/$defs/", "#/definitions/"):
        if ref.startswith(place):
            return f"#/$defs/{tool}.{ref.removeprefix(place)}"
    return f"#/$defs/{tool}" if ref == "#" else ref


def _words(toolbox: Toolbox) -> str:
    """What a model that was not made for tools is told of them."""
    lines = [MUST if toolbox.required else MAY, CALL, "The tools:"]
    for tool in toolbox.tools:
        known = {"name": tool.name, "description": tool.description}
        lines.append(json.dumps(known | {"parameters": parameters_of(tool)}, ensure_ascii=False))
    return "\n".join(lines)


def _told(words: str, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """With some words before all, in the one system message that every template takes."""
    first = messages[0]
    if first.role != "system":
        return (ChatMessage(role="system", content=words), *messages)
    return (replace(first, content=f"{words}\n\n{first.content}"), *messages[1:])


def _in_words(message: ChatMessage) -> ChatMessage:
    """A message for a model that knows neither calls nor results."""
    if message.role == "tool":
        content = f"<tool_response>\n{message.content}\n</tool_response>"
        return ChatMessage(role="user", content=content)
    if message.calls:
        calls = (tool_calls.written(call.name, call.arguments) for call in message.calls)
        content = "\n".join(filter(None, (message.content, *calls)))
        return ChatMessage(role="assistant", content=content)
    return message
