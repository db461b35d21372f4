"""A model's tokenizer and chat template.  Both may come from a peer, so both are bounded."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

from node.errors import PeerError
from node.protocol.manifest import FileRole
from node.protocol.tool_calls import OPEN

if TYPE_CHECKING:
    from node.adapters.text.template import ChatTemplate

TOKENIZER_BYTES_MAX: Final = 48 * 1024 * 1024
CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024
TEXT_CHARS_MAX: Final = 2 * 1024 * 1024
MESSAGES_MAX: Final = 4096
SPECIAL_CHARS_MAX: Final = 256
COUNTED_MAX: Final = 16_384
"""Short texts whose number of tokens is remembered; and how long such a text is:"""
COUNTED_CHARS: Final = 32


class Message(TypedDict):
    """One message of a conversation, as templates have it."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


class ChatText:
    """Renders conversations into ids and turns ids into text.

    Its methods compute for up to some hundred milliseconds on long texts: call them in a thread
    where that matters.
    """

    def __init__(self, *, tokenizer: bytes, template: str = "", special: Mapping[str, str]) -> None:
        """
        Args:
            tokenizer: A tokenizer.json.
            template: The chat template; empty if the model has none.
            special: `bos_token`, `eos_token` and the like, as the template knows them.

        Raises:
            PeerError: The tokenizer can't be used, or something is too long.
        """
        if len(tokenizer) > TOKENIZER_BYTES_MAX:
            raise PeerError("the tokenizer is too large")
        self._tokenizer = _tokenizer(tokenizer)
        self._template = template
        self._special = dict(special)
        self._renderer: ChatTemplate | None = None
        """Once it was needed: a worker renders nothing."""
        self._counted: dict[str, int] = {}

    @classmethod
    def of(cls, files: Mapping[FileRole, bytes]) -> "ChatText":
        """From the files that a client fetches.

        Raises:
            PeerError: There is no tokenizer, or a file can't be used.
        """
        if FileRole.TOKENIZER not in files:
            raise PeerError("the model has no tokenizer")
        config = _config(files.get(FileRole.TOKENIZER_CONFIG, b"{}"))
        template = _template(config)
        if FileRole.CHAT_TEMPLATE in files:
            template = _decoded(files[FileRole.CHAT_TEMPLATE])
        return cls(tokenizer=files[FileRole.TOKENIZER], template=template, special=_special(config))

    @property
    def vocab(self) -> int:
        """Ids are below this, as far as the tokenizer knows."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def has_template(self) -> bool:
        """Whether `render` can be used."""
        return bool(self._template)

    @property
    def knows_tools(self) -> bool:
        """Whether the template shows tools, and the model was taught to call them as we read it."""
        return bool(re.search(r"\btools\b", self._template)) and OPEN in self._template

    def text(
        self,
        messages: Sequence[Message],
        *,
        continues: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """A conversation as the model reads it, before it becomes ids.

        Args:
            messages: In order.
            continues: The last message is an answer that the model goes on writing.
            tools: What may be called, as OpenAI has it; for a template that `knows_tools`.

        Raises:
            PeerError: The template fails or refuses, or the conversation is too long.
        """
        if not self._template:
            raise PeerError("the model has no chat template")
        chars = sum(map(_chars, messages)) + (len(json.dumps(tools)) if tools else 0)
        if len(messages) > MESSAGES_MAX or chars > TEXT_CHARS_MAX:
            raise PeerError("the conversation is too long")
        shown = self._rendered(
            chars=chars,
            messages=[dict(message) for message in messages],
            add_generation_prompt=not continues,
            **({"tools": [dict(tool) for tool in tools]} if tools else {}),
        )
        if not continues:
            return shown
        last = messages[-1]["content"].strip()
        end = shown.rfind(last)
        if not last or end < 0:
            raise PeerError("the chat template does not show the answer to go on with")
        return shown[: end + len(last)]

    def _rendered(self, *, chars: int, **variables: Any) -> str:
        if self._renderer is None:
            from node.adapters.text.template import ChatTemplate

            self._renderer = ChatTemplate(self._template)
        return self._renderer.render(chars=chars, **variables, **self._special)

    def render(
        self,
        messages: Sequence[Message],
        *,
        continues: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[int, ...]:
        """Ids of a conversation, with the start of the answer; see `text`."""
        return self.encode(self.text(messages, continues=continues, tools=tools))

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Ids of a text.

        Args:
            text: What to encode.
            special: Add what the tokenizer puts around a text (a start token, say); a rendered
                conversation has it already.

        Raises:
            PeerError: Too long, or the tokenizer fails.
        """
        if len(text) > TEXT_CHARS_MAX:
            raise PeerError("the text is too long")
        return tuple(_guarded(self._tokenizer.encode, text, add_special_tokens=special).ids)

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many ids each of some texts has by itself: `protocol.pieces.CountTokens`.

        Raises:
            PeerError: Too long, or the tokenizer fails.
        """
        return [self._count(text) for text in texts]

    def _count(self, text: str) -> int:
        """Streams come in pieces of a word or so, and most are words that came before."""
        if len(text) > COUNTED_CHARS:
            return len(self.encode(text))
        count = self._counted.get(text)
        if count is None:
            if len(self._counted) >= COUNTED_MAX:
                self._counted.clear()
            count = self._counted[text] = len(self.encode(text))
        return count

    def decode(self, ids: Sequence[int]) -> str:
        """Text of some ids, without special tokens; an id that is not known has none.

        Raises:
            PeerError: The tokenizer fails.
        """
        return str(_guarded(self._tokenizer.decode, list(ids), skip_special_tokens=True))

    def token(self, token: int) -> str:
        """The tokenizer's own name of one id, for logprobs; its text, where that shows."""
        return self.decode((token,)) or str(self._tokenizer.id_to_token(token) or "")


def _chars(message: Message) -> int:
    calls = message.get("tool_calls")
    return len(message["role"]) + len(message["content"]) + (len(json.dumps(calls)) if calls else 0)


def _tokenizer(data: bytes) -> Any:
    from tokenizers import Tokenizer

    tokenizer = _guarded(Tokenizer.from_buffer, data)
    # A file may ask for either; both would change what is counted.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _guarded(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call into the tokenizer's library; whatever it fails with is the tokenizer's fault."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise PeerError(f"tokenizer: {str(error)[:200]}") from error
    except BaseException as error:
        # A panic of the Rust side is no Exception, and KeyboardInterrupt must pass.
        if type(error).__name__ != "PanicException":
            raise
        raise PeerError("tokenizer: it can't be used") from error


def _config(data: bytes) -> dict[str, Any]:
    if len(data) > CONFIG_BYTES_MAX:
        raise PeerError("the tokenizer's config is too large")
    try:
        config = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise PeerError("the tokenizer's config is not JSON") from error
    if not isinstance(config, dict):
        raise PeerError("the tokenizer's config is not a table")
    return config


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PeerError("the chat template is not UTF-8") from error


def _template(config: Mapping[str, Any]) -> str:
    """The template of a config: text, or a list of named ones of which `default` is meant."""
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default") or ""
    if not isinstance(found, str):
        raise PeerError("the chat template is not text")
    return found


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """Named tokens: a text, or a table with `content`."""
    special = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str) and len(value) <= SPECIAL_CHARS_MAX:
            special[name] = value
    return special
