"""A request's prompt in tier text: messages as canonical JSON (protocol.md, "Prompts of text").

What is not on that page can't be asked for: a backend's parameters belong to its operator.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from node.errors import DecodeError
from node.protocol import limits, pieces
from node.protocol.pieces import CountTokens

Role = Literal["system", "user", "assistant"]
ROLES: Final[tuple[str, ...]] = get_args(Role)
MESSAGE_TOKENS: Final = 4
"""What a message counts besides its content: about what templates put around one."""
START_TOKENS: Final = 3
"""What the start of the answer counts."""
_BATCH: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation.

    Raises:
        DecodeError: Not a conversation that a request may carry.
    """

    messages: tuple[ChatMessage, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.messages) <= limits.CHAT_MESSAGES_MAX:
            raise DecodeError("chat: no messages, or too many")
        if any(message.role not in ROLES for message in self.messages):
            raise DecodeError(f"chat: a role that is none of {', '.join(ROLES)}")
        try:
            size = len(self.encode())
        except UnicodeEncodeError:
            raise DecodeError("chat: half a character") from None
        if size > limits.REQUEST_BYTES_MAX:
            raise DecodeError("chat: too long")

    def encode(self) -> bytes:
        """Canonical bytes: JSON, UTF-8, keys sorted, no white space, nothing escaped needlessly."""
        document: dict[str, Any] = {
            "messages": [{"content": m.content, "role": m.role} for m in self.messages]
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    def tokens(self, count: CountTokens, *, at_most: int = 2**32 - 1) -> int:
        """Prompt tokens: those of every message's content, cut into pieces, and a few for each.

        Args:
            count: The counting tokenizer.
            at_most: Counting ends soon after this is passed: a stranger may send much.

        Raises:
            PeerError: The tokenizer fails.
        """
        total = START_TOKENS + MESSAGE_TOKENS * len(self.messages)
        for message in self.messages:
            total += _tokens_of(message.content, count, at_most - total)
            if total > at_most:
                break
        return total


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
    if not isinstance(document, dict) or document.keys() != {"messages"}:
        raise DecodeError("chat: unknown keys")
    messages = document.get("messages")
    if not isinstance(messages, list) or len(messages) > limits.CHAT_MESSAGES_MAX:
        raise DecodeError("chat: no messages, or too many")
    return Chat(messages=tuple(map(_message, messages)))


def _message(document: Any) -> ChatMessage:
    if not isinstance(document, dict) or document.keys() != {"content", "role"}:
        raise DecodeError("chat: a message without content and role, or with more")
    role, content = document["role"], document["content"]
    if not isinstance(role, str) or not isinstance(content, str):
        raise DecodeError("chat: content or role is not text")
    return ChatMessage(role=role, content=content)


def text_tokens(text: str, count: CountTokens) -> int:
    """What a text counts, cut into pieces from its start.

    Raises:
        PeerError: The tokenizer fails.
    """
    return _tokens_of(text, count, 2**32 - 1)


def _tokens_of(text: str, count: CountTokens, at_most: int) -> int:
    cut, total = pieces.cut(text), 0
    if len(cut) > at_most:
        return len(cut)  # each counts one at least
    for at in range(0, len(cut), _BATCH):
        total += pieces.tokens_of(pieces.counted(cut[at : at + _BATCH], count))
        if total > at_most:
            break
    return total
