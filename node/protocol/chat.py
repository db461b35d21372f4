"""A request's prompt in tier text: messages as canonical JSON (protocol.md, "Prompts of text").

What is not on that page can't be asked for: a backend's parameters belong to its operator.
"""

import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, get_args

from node.errors import DecodeError
from node.protocol import limits, pieces
from node.protocol.json_depth import is_shallow
from node.protocol.pieces import CountTokens

Role = Literal["system", "user", "assistant", "tool"]
ROLES: Final[tuple[str, ...]] = get_args(Role)
MESSAGE_TOKENS: Final = 4
"""What a message counts besides its content, as do a call and a tool: about what templates put
around one."""
START_TOKENS: Final = 3
"""What the start of the answer counts."""
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Of a tool."""
CALL_ID: Final = re.compile(r"[!-~]{1,64}")
NO_PARAMETERS: Final = '{"type":"object","properties":{},"additionalProperties":false}'
REQUIRED: Final = "required"
TOOL_KEYS: Final = frozenset({"name", "description", "parameters"})
CALL_KEYS: Final = frozenset({"id", "name", "arguments"})
_BATCH: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that the model may ask its reader to do."""

    name: str
    description: str = ""
    parameters: str = ""
    """A JSON Schema of its arguments, as text: its order counts.  Empty: there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """What an answer may call."""

    tools: tuple[Tool, ...] = ()
    required: bool = False
    """The answer has to be a call."""
    parallel: bool = True
    """It may be several."""


NO_TOOLS: Final = Toolbox()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a tool in an earlier answer."""

    id: str
    name: str
    arguments: str
    """JSON as the model wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str
    calls: tuple[Call, ...] = ()
    """Of the assistant."""
    call_id: str = ""
    """Of a tool: which call the content is the result of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation, and the tools that its answer may call.

    Raises:
        DecodeError: Not a conversation that a request may carry.
    """

    messages: tuple[ChatMessage, ...]
    toolbox: Toolbox = NO_TOOLS

    def __post_init__(self) -> None:
        if not 1 <= len(self.messages) <= limits.CHAT_MESSAGES_MAX:
            raise DecodeError("chat: no messages, or too many")
        try:
            for message in self.messages:
                _check_message(message)
            _check_tools(self.toolbox)
            size = len(self.encode())
        except UnicodeEncodeError:
            raise DecodeError("chat: half a character") from None
        if size > limits.REQUEST_BYTES_MAX:
            raise DecodeError("chat: too long")

    def encode(self) -> bytes:
        """Canonical bytes: JSON, UTF-8, keys sorted, no white space, nothing escaped needlessly."""
        document: dict[str, Any] = {"messages": [_message_out(each) for each in self.messages]}
        if self.toolbox.tools:
            document["tools"] = [
                {"name": t.name, "description": t.description, "parameters": t.parameters}
                for t in self.toolbox.tools
            ]
        if self.toolbox.required:
            document["tool_choice"] = REQUIRED
        if not self.toolbox.parallel:
            document["parallel_tool_calls"] = False
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    def tokens(self, count: CountTokens, *, at_most: int = 2**32 - 1) -> int:
        """Prompt tokens: those of contents, calls and tools, cut into pieces, and a few for each.

        Args:
            count: The counting tokenizer.
            at_most: Counting ends soon after this is passed: a stranger may send much.

        Raises:
            PeerError: The tokenizer fails.
        """
        calls = [call for message in self.messages for call in message.calls]
        total = START_TOKENS
        tools = self.toolbox.tools
        total += MESSAGE_TOKENS * (len(self.messages) + len(calls) + len(tools))
        texts = chain(
            (message.content for message in self.messages),
            (text for call in calls for text in (call.name, call.arguments)),
            (text for t in tools for text in (t.name, t.description, t.parameters)),
        )
        for text in texts:
            total += text_tokens(text, count, at_most=at_most - total)
            if total > at_most:
                break
        return total


def with_tools(messages: tuple[ChatMessage, ...], toolbox: Toolbox) -> bool:
    """Whether a model has to be shown tools, or calls of them."""
    return bool(toolbox.tools) or any(each.calls or each.call_id for each in messages)


def decode(data: bytes) -> Chat:
    """A conversation from its canonical bytes; no other bytes are accepted.

    Raises:
        DecodeError: Not JSON, not canonical, or something in it is not allowed.
    """
    if len(data) > limits.REQUEST_BYTES_MAX:
        raise DecodeError("chat: too long")
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DecodeError("chat: not JSON") from error
    chat = _chat(document)
    if chat.encode() != data:
        raise DecodeError("chat: not canonical")
    return chat


def _chat(document: Any) -> Chat:
    known = {"messages", "tools", "tool_choice", "parallel_tool_calls"}
    if not isinstance(document, dict) or not document.keys() <= known:
        raise DecodeError("chat: unknown keys")
    messages = document.get("messages")
    if not isinstance(messages, list) or len(messages) > limits.CHAT_MESSAGES_MAX:
        raise DecodeError("chat: no messages, or too many")
    tools = document.get("tools", [])
    if not isinstance(tools, list) or len(tools) > limits.TOOLS_MAX:
        raise DecodeError("chat: tools that are no list, or too many")
    if document.get("tool_choice", REQUIRED) != REQUIRED:
        raise DecodeError("chat: a choice of tools that is unknown")
    if document.get("parallel_tool_calls", False) is not False:
        raise DecodeError("chat: parallel calls are not asked for")
    return Chat(
        messages=tuple(map(_message_in, messages)),
        toolbox=Toolbox(
            tools=tuple(Tool(**_texts(each, TOOL_KEYS)) for each in tools),
            required="tool_choice" in document,
            parallel="parallel_tool_calls" not in document,
        ),
    )


def _message_in(document: Any) -> ChatMessage:
    if not isinstance(document, dict):
        raise DecodeError("chat: a message that is no object")
    fields = dict(document)
    calls = fields.pop("tool_calls", [])
    if not isinstance(calls, list) or len(calls) > limits.TOOL_CALLS_MAX:
        raise DecodeError("chat: calls that are no list, or too many")
    call_id = fields.pop("tool_call_id", "")
    if not isinstance(call_id, str):
        raise DecodeError("chat: the id of a call is no text")
    return ChatMessage(
        **_texts(fields, {"content", "role"}),
        calls=tuple(Call(**_texts(each, CALL_KEYS)) for each in calls),
        call_id=call_id,
    )


def _texts(document: Any, keys: AbstractSet[str]) -> dict[str, str]:
    """An object of exactly these keys, all of them texts."""
    if not isinstance(document, dict) or document.keys() != keys:
        raise DecodeError(f"chat: an object without {', '.join(sorted(keys))}, or with more")
    if not all(isinstance(value, str) for value in document.values()):
        raise DecodeError(f"chat: {', '.join(sorted(keys))} must be text")
    return document


def _message_out(message: ChatMessage) -> dict[str, Any]:
    document: dict[str, Any] = {"content": message.content, "role": message.role}
    if message.calls:
        document["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments}
            for call in message.calls
        ]
    if message.call_id:
        document["tool_call_id"] = message.call_id
    return document


def _check_message(message: ChatMessage) -> None:
    if message.role not in ROLES:
        raise DecodeError(f"chat: a role that is none of {', '.join(ROLES)}")
    if bool(message.call_id) != (message.role == "tool"):
        raise DecodeError("chat: a tool's message, and no other, has the id of a call")
    if message.calls and message.role != "assistant":
        raise DecodeError("chat: calls that are not the assistant's")
    if len(message.calls) > limits.TOOL_CALLS_MAX:
        raise DecodeError("chat: too many calls in a message")
    for call in message.calls:
        if not NAME.fullmatch(call.name):
            raise DecodeError("chat: the name of a call is none")
    ids = [call.id for call in message.calls] + ([message.call_id] if message.call_id else [])
    if not all(CALL_ID.fullmatch(each) for each in ids):
        raise DecodeError("chat: the id of a call is none")


def _check_tools(toolbox: Toolbox) -> None:
    if len(toolbox.tools) > limits.TOOLS_MAX:
        raise DecodeError("chat: too many tools")
    if not toolbox.tools and (toolbox.required or not toolbox.parallel):
        raise DecodeError("chat: a choice among no tools")
    if len({tool.name for tool in toolbox.tools}) < len(toolbox.tools):
        raise DecodeError("chat: two tools of one name")
    for tool in toolbox.tools:
        if not NAME.fullmatch(tool.name):
            raise DecodeError("chat: the name of a tool is none")
        if tool.parameters and not is_schema(tool.parameters):
            raise DecodeError("chat: the parameters of a tool are no schema")


def is_schema(text: str) -> bool:
    """Whether a tool may have this for its parameters: an object that others can read too."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and is_shallow(document)


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: that there are none, where it has none."""
    made: dict[str, Any] = json.loads(tool.parameters or NO_PARAMETERS)
    return made


def functions(tools: tuple[Tool, ...]) -> list[dict[str, Any]]:
    """Tools as chat templates and OpenAI's servers have them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": parameters_of(tool),
            },
        }
        for tool in tools
    ]


def text_tokens(text: str, count: CountTokens, *, at_most: int = 2**32 - 1) -> int:
    """What a text counts, cut into pieces from its start; `at_most` as for `Chat.tokens`.

    Raises:
        PeerError: The tokenizer fails.
    """
    cut, total = pieces.cut(text), 0
    if len(cut) > at_most:
        return len(cut)  # each counts one at least
    for at in range(0, len(cut), _BATCH):
        total += pieces.tokens_of(pieces.counted(cut[at : at + _BATCH], count))
        if total > at_most:
            break
    return total
