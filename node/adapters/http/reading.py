"""From a request's body to an ask: every field is known, in its range, and does what it says.

What no worker of the market can do is refused with the field's name, never left out in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from node.adapters.http.errors import ApiError, bad_field, unsupported
from node.adapters.http.fields import Fields, name_of, text_of
from node.adapters.http.port import Ask
from node.adapters.http.routing import read_models, read_routing
from node.adapters.http.schemas import read_format
from node.adapters.http.tools import read_call_id, read_calls, read_tools
from node.protocol import limits
from node.protocol.chat import ChatMessage
from node.protocol.sampling import PENALTY_MAX, REPETITION_MAX, Sampling

ANSWERS_MAX: Final = 16
MESSAGES_MAX: Final = 4096
PARTS_MAX: Final = 256
MAX_TOKENS: Final = 2**31 - 1
TEMPERATURE_MAX: Final = 2.0
"""As OpenAI has it; workers would take more."""
TOP_P_MIN: Final = 1e-6
COMPLETION_LOGPROBS_MAX: Final = 5
BRACKETS_MAX: Final = 262_144
"""Objects and lists in a body: 64 bytes of memory each, for 2 on the wire."""
ROLES: Final[Mapping[str, str]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the answer is wanted."""

    chat: bool
    stream: bool
    usage: bool
    """A stream ends with a chunk of figures."""
    logprobs: bool


def parse(body: bytes) -> Any:
    """
    Raises:
        ApiError: Not JSON, or built to use up memory.
    """
    if body.count(b"[") + body.count(b"{") > BRACKETS_MAX:
        raise ApiError(400, "the body has too many lists and objects", code="invalid_json")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error.msg}", code="invalid_json") from error


def read_chat(body: bytes) -> tuple[Ask, Shape]:
    """An ask from the body of `/v1/chat/completions`.

    Raises:
        ApiError: A field is unknown, wrong, or asks for what nobody can do.
    """
    fields = Fields(parse(body))
    messages = fields.list_of("messages", MESSAGES_MAX, _message)
    if not messages:
        raise bad_field("messages", "must have at least one message")
    told = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, limits.LOGPROBS_MAX)
    if top is not None and not told:
        raise bad_field("top_logprobs", "needs logprobs to be true")
    limit = _max_tokens(fields)
    format, toolbox = read_format(fields), read_tools(fields)
    _refuse_chat_extras(fields)
    ask, shape = _common(fields, chat=True, limit=limit, logprobs=(top or 0) if told else None)
    fields.done()
    made: Ask = ask(messages=messages, format=format, toolbox=toolbox)
    if (made.format or toolbox.tools) and made.ignore_eos:
        raise bad_field("ignore_eos", "an answer with a response_format or a call ends with it")
    if made.format and toolbox.tools:
        raise unsupported("response_format", "not together with tools that may be called")
    return _checked(made), shape


def read_completion(body: bytes) -> tuple[Ask, Shape]:
    """An ask from the body of `/v1/completions`.

    Raises:
        ApiError: A field is unknown, wrong, or asks for what nobody can do.
    """
    fields = Fields(parse(body))
    prompts = _prompts(fields)
    top = fields.whole("logprobs", 0, COMPLETION_LOGPROBS_MAX)
    limit = fields.whole("max_tokens", 1, MAX_TOKENS)
    fields.only("suffix", "", why="no model of the market fills in a middle")
    fields.only("echo", False, why="the prompt is not repeated")
    fields.only("best_of", 1, why="answers can't be compared; ask for n")
    ask, shape = _common(fields, chat=False, limit=limit, logprobs=top)
    fields.done()
    return _checked(ask(prompts=prompts)), shape


def _checked(ask: Ask) -> Ask:
    if ask.answers > ANSWERS_MAX:
        raise bad_field("n", f"at most {ANSWERS_MAX} answers to one request")
    return ask


def _common(
    fields: Fields, *, chat: bool, limit: int | None, logprobs: int | None
) -> tuple[Any, Shape]:
    """A function that makes the ask once messages or prompts are known; and the shape."""
    models, sort = read_models(fields)
    stream = fields.flag("stream")
    shape = Shape(
        chat=chat, stream=stream, usage=_usage(fields, stream=stream), logprobs=logprobs is not None
    )
    values: dict[str, Any] = {
        "models": models,
        "choices": fields.whole("n", 1, ANSWERS_MAX) or 1,
        "sampling": _sampling(fields, logprobs),
        "max_tokens": limit,
        "stops": _stops(fields),
        "ignore_eos": fields.flag("ignore_eos"),
        "seed": _seed(fields),
        "routing": read_routing(fields, sort),
    }
    take_labels(fields)
    return lambda **more: Ask(**values, **more), shape


def _sampling(fields: Fields, logprobs: int | None) -> Sampling:
    def number(name: str, low: float, high: float, default: float) -> float:
        value = fields.number(name, low, high, default)
        assert value is not None
        return value

    top_k = fields.whole("top_k", 0, 2**32 - 1)
    return Sampling(
        temperature=number("temperature", 0.0, TEMPERATURE_MAX, 1.0),
        top_p=max(number("top_p", 0.0, 1.0, 1.0), TOP_P_MIN),
        top_k=top_k or 0,
        presence=number("presence_penalty", -PENALTY_MAX, PENALTY_MAX, 0.0),
        frequency=number("frequency_penalty", -PENALTY_MAX, PENALTY_MAX, 0.0),
        repetition=number("repetition_penalty", TOP_P_MIN, REPETITION_MAX, 1.0),
        logprobs=logprobs,
    )


def _max_tokens(fields: Fields) -> int | None:
    old = fields.whole("max_tokens", 1, MAX_TOKENS)
    new = fields.whole("max_completion_tokens", 1, MAX_TOKENS)
    if None not in (old, new) and old != new:
        raise bad_field("max_tokens", "differs from max_completion_tokens")
    return old or new


def _stops(fields: Fields) -> tuple[str, ...]:
    def stop(value: Any, path: str) -> str:
        text = name_of(value, path)
        if len(text.encode()) > limits.STOP_BYTES_MAX:
            raise bad_field(path, f"must have at most {limits.STOP_BYTES_MAX} bytes")
        return text

    value = fields.take("stop")
    if value is None:
        return ()
    listed = Fields({"stop": value if isinstance(value, list) else [value]})
    return listed.list_of("stop", limits.STOPS_MAX, stop) or ()


def _seed(fields: Fields) -> int | None:
    seed = fields.whole("seed", -(2**63), 2**64 - 1)
    return None if seed is None else seed % 2**64


def _usage(fields: Fields, *, stream: bool) -> bool:
    options = fields.object("stream_options")
    wanted = False
    if options is not None:
        if not stream:
            raise bad_field("stream_options", "needs stream to be true")
        wanted = options.flag("include_usage")
        options.only("include_obfuscation", False, why="nothing is padded here")
        options.done()
    figures = fields.object("usage")  # OpenRouter's way of asking for the same
    if figures is not None:
        wanted = figures.flag("include") or wanted
        figures.done()
    return wanted


def take_labels(fields: Fields) -> None:
    """Labels of the client's own, and fields of which only values that ask for nothing will do.

    Raises:
        ApiError: One asks for something.
    """
    for name in ("user", "safety_identifier", "prompt_cache_key", "metadata"):
        fields.ignore(name)
    fields.only("store", False, why="nothing is stored at a worker")
    fields.only("service_tier", "auto", "default", why="there are no tiers; see provider.sort")
    fields.only("logit_bias", {}, why="no worker can bias tokens")
    fields.only("min_p", 0, 0.0, why="no worker samples by min_p; use top_p")
    fields.only("top_a", 0, 0.0, why="no worker samples by top_a; use top_p")


def _refuse_chat_extras(fields: Fields) -> None:
    """What OpenAI's models can do and no model that is sold here can."""
    fields.only("modalities", ["text"], why="text is all that is sold")
    fields.only("reasoning_effort", "none", why="no worker can set how long a model thinks")


def _message(value: Any, path: str) -> ChatMessage:
    fields = Fields(value, path)
    role = fields.take("role")
    if not isinstance(role, str) or role not in ROLES:
        raise bad_field(fields.name("role"), f"must be one of {', '.join(ROLES)}")
    calls = read_calls(fields) if role == "assistant" else ()
    call_id = read_call_id(fields) if role == "tool" else ""
    content = _content(fields, needed=not calls)
    # What clients send back of an answer that they were given.
    fields.only("refusal", "", why="refusals are not sent on")
    fields.only("annotations", [], why="annotations are not sent on")
    fields.done()
    return ChatMessage(role=ROLES[role], content=content, calls=calls, call_id=call_id)


def _content(fields: Fields, *, needed: bool) -> str:
    value = fields.take("content")
    path = fields.name("content")
    if isinstance(value, list):
        listed = Fields({"content": value}, path.rpartition(".")[0])
        return "".join(listed.list_of("content", PARTS_MAX, _part) or ())
    if value is None and needed:
        raise bad_field(path, "must be text, or a list of texts")
    return "" if value is None else text_of(value, path)


def _part(value: Any, path: str) -> str:
    fields = Fields(value, path)
    kind = fields.take("type")
    if kind != "text":
        raise unsupported(fields.name("type"), "text is all that is sold")
    text = fields.text("text")
    if text is None:
        raise bad_field(fields.name("text"), "is missing")
    fields.done()
    return text


def _prompts(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    """One prompt, or several: texts, or ids."""
    value = fields.take("prompt")
    if isinstance(value, str):
        found: tuple[str | tuple[int, ...], ...] = (text_of(value, "prompt"),)
    elif isinstance(value, list) and value and all(type(each) is int for each in value):
        found = (_ids(value, "prompt"),)
    elif isinstance(value, list) and value:
        if len(value) > ANSWERS_MAX:
            raise bad_field("prompt", f"at most {ANSWERS_MAX} prompts to one request")
        found = tuple(_prompt(each, f"prompt[{n}]") for n, each in enumerate(value))
    else:
        raise bad_field("prompt", "must be a text, a list of token ids, or a list of either")
    if not all(found):
        raise bad_field("prompt", "must not be empty")
    return found


def _prompt(value: Any, path: str) -> str | tuple[int, ...]:
    if isinstance(value, list) and all(type(each) is int for each in value):
        return _ids(value, path)
    return text_of(value, path)


def _ids(value: list[int], path: str) -> tuple[int, ...]:
    if len(value) > limits.REQUEST_BYTES_MAX // 4:
        raise bad_field(path, "is too long")
    if not all(0 <= each < 2**32 for each in value):
        raise bad_field(path, "has a number that is no token id")
    return tuple(value)
