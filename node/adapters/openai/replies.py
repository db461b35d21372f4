"""What a server says in an event of a completion, or in a whole one: read, bounded, not trusted."""

import json
from dataclasses import dataclass
from typing import Any, Final

from node.errors import Unavailable
from node.protocol import limits, tool_calls
from node.protocol.chat import NAME

IDS_MAX: Final = 65_536
"""Token ids in one event."""
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the server counted."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallDelta:
    """What one event adds to a call of a tool."""

    index: int
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one event adds to the first choice."""

    text: str = ""
    """Visible text.  Reasoning is none."""
    calls: tuple[CallDelta, ...] = ()
    hidden: bool = False
    """There was something else than visible text."""
    ids: tuple[int, ...] | None = None
    """Token ids; None where the server tells none."""
    prompt_ids: tuple[int, ...] | None = None
    finish: str | None = None
    logprobs: bool = False
    """Log probabilities came with it."""
    usage: Usage | None = None


def read_json(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Unavailable: It is none.
    """
    try:
        document = json.loads(data.decode())  # of bytes the module looks for their encoding
    except (ValueError, RecursionError) as error:
        raise Unavailable("the server sends something that is not JSON") from error
    if not isinstance(document, dict):
        raise Unavailable("the server sends JSON that is no object")
    return document


def read(document: dict[str, Any]) -> Delta:
    """The delta of an event of either route; an empty one if there is no choice in it.

    Raises:
        Unavailable: The server reports an error, or what it sends is of no known form.
    """
    if document.get("error"):
        raise Unavailable(f"the server failed: {_short(document['error'])}")
    usage = _usage(document.get("usage"))
    choices = document.get("choices") or []
    if not isinstance(choices, list):
        raise Unavailable("the server sends choices that are no list")
    choice = next((each for each in choices if _index(each) == 0), None)
    if choice is None:
        return Delta(usage=usage)
    part = choice.get("delta") or choice.get("message") or {}
    if not isinstance(part, dict):
        raise Unavailable("the server sends a delta that is no object")
    text = choice.get("text") if "text" in choice else part.get("content")
    finish = choice.get("finish_reason")
    return Delta(
        text=text if isinstance(text, str) else "",
        calls=_calls(part.get("tool_calls")),
        hidden=any(part.get(key) for key in ("reasoning", "reasoning_content", "refusal")),
        ids=_ids(choice.get("token_ids")),
        prompt_ids=_ids(choice.get("prompt_token_ids", document.get("prompt_token_ids"))),
        finish=finish if isinstance(finish, str) and finish else None,
        logprobs=bool(choice.get("logprobs")),
        usage=usage,
    )


def model_names(document: dict[str, Any]) -> dict[str, int | None]:
    """What `/v1/models` lists: names, and the context where it is told.

    Raises:
        Unavailable: It is no such list.
    """
    items = document.get("data")
    if not isinstance(items, list):
        raise Unavailable("the server lists no models")
    found: dict[str, int | None] = {}
    for item in items[:1024]:
        if isinstance(item, dict) and isinstance(item.get("id"), str) and len(item["id"]) <= 256:
            context = item.get("max_model_len")
            whole = type(context) is int and 0 < context < 2**31
            found[item["id"]] = context if whole else None
    return found


def vectors(document: dict[str, Any], count: int) -> list[list[float]]:
    """What `/v1/embeddings` answers, in the order of its inputs.

    Raises:
        Unavailable: It is not one vector for each of `count` inputs.
    """
    if document.get("error"):
        raise Unavailable(f"the server failed: {_short(document['error'])}")
    items = document.get("data")
    if not isinstance(items, list) or len(items) != count:
        raise Unavailable(f"the server sends no list of {count} vectors")
    found: dict[int, list[float]] = {}
    for number, item in enumerate(items):
        index = item.get("index", number) if isinstance(item, dict) else None
        vector = item.get("embedding") if isinstance(item, dict) else None
        if type(index) is not int or not isinstance(vector, list):
            raise Unavailable("the server sends a vector of no known form")
        if any(type(each) not in (int, float) for each in vector):
            raise Unavailable("the server sends a vector with something that is no number")
        found[index] = vector
    if found.keys() != set(range(count)):
        raise Unavailable("the server sends vectors of other inputs")
    return [found[index] for index in range(count)]


class CallText:
    """Writes what a server says of calls as text, as models themselves write them."""

    def __init__(self) -> None:
        self._index = -1
        """Of the last call."""
        self._open = False
        """It has not ended."""
        self._bare = True
        """It has no arguments yet."""
        self._written = False
        """There was text, or a call, before."""

    def push(self, delta: Delta) -> str:
        """The text of an event.

        Raises:
            Unavailable: A call has no name, or goes on after its end.
        """
        text = delta.text
        if self._open:  # behind a call servers send white space; text would be rare
            text = f"{self.rest()}\n{text}" if text.strip() else ""
        self._written = self._written or bool(text)
        for call in delta.calls:
            if call.name and not (call.index == self._index and self._bare):
                text += self._next(call)
            elif call.index != self._index or not self._open:
                raise Unavailable("the server goes on with a call that is not the last")
            text += call.arguments
            self._bare = self._bare and not call.arguments
        return text

    def rest(self) -> str:
        """What ends the call that is open."""
        if not self._open:
            return ""
        self._open = False
        return ("{}" if self._bare else "") + tool_calls.CLOSED

    def _next(self, call: CallDelta) -> str:
        if not NAME.fullmatch(call.name):
            raise Unavailable("the server names a tool as none could be")
        text = self.rest() + ("\n" if self._written else "")
        self._index, self._open, self._bare, self._written = call.index, True, True, True
        return text + tool_calls.opened(call.name)


class Surrogates:
    """Joins characters that a server cut in two, and replaces what is none.

    JSON may name half a character (an escape of a surrogate), and servers that cut text by tokens
    send halves in two events.
    """

    def __init__(self) -> None:
        self._half = ""

    def push(self, text: str) -> str:
        """Text whose characters are whole; half a one at the end waits."""
        text = self._half + text
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return _whole(text)

    def rest(self) -> str:
        """What waited."""
        half, self._half = self._half, ""
        return _whole(half)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _index(choice: object) -> int | None:
    if not isinstance(choice, dict):
        raise Unavailable("the server sends a choice that is no object")
    index = choice.get("index", 0)
    return index if isinstance(index, int) else None


def _calls(value: object) -> tuple[CallDelta, ...]:
    if not value:
        return ()
    if not isinstance(value, list) or len(value) > limits.TOOL_CALLS_MAX:
        raise Unavailable("the server sends calls that are no list, or too many")
    return tuple(_call(number, each) for number, each in enumerate(value))


def _call(number: int, value: object) -> CallDelta:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict):
        raise Unavailable("the server sends a call of no known form")
    index = value.get("index", number)  # a whole answer has none
    name, arguments = function.get("name") or "", function.get("arguments") or ""
    if isinstance(arguments, dict):  # some servers send the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    if type(index) is not int or not isinstance(name, str) or not isinstance(arguments, str):
        raise Unavailable("the server sends a call of no known form")
    return CallDelta(index=index, name=name, arguments=arguments)


def _ids(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > IDS_MAX:
        raise Unavailable("the server sends token ids that are no list, or too many")
    if any(type(each) is not int or not 0 <= each < 2**32 for each in value):
        raise Unavailable("the server sends a token id that is none")
    return tuple(value)


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    counts = value.get("prompt_tokens"), value.get("completion_tokens")
    if any(type(each) is not int or not 0 <= each < 2**32 for each in counts):
        return None
    prompt, completion = counts
    assert isinstance(prompt, int)
    assert isinstance(completion, int)
    return Usage(prompt=prompt, completion=completion)


def _short(error: object) -> str:
    said = error.get("message") if isinstance(error, dict) else error
    return "".join(char if char.isprintable() else " " for char in str(said))[:200]
