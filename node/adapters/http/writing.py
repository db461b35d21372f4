"""Answers as OpenAI's clients read them: one object, or server-sent events while they grow.

The events are put together from parts that are made once: a token costs one JSON string and one
write, and what is due in one turn of the loop is one write for all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import orjson
import trio

from node.adapters.http.asgi import JSON, Send, respond
from node.adapters.http.errors import failed
from node.adapters.http.port import Ended, LastResort, Started, TokenText
from node.adapters.http.reading import Shape
from node.adapters.http.runs import Choice, Run
from node.protocol.tool_calls import CallPart
from node.units import MICRO_PER_UNIT

KEEP_ALIVE_S: Final = 10.0
"""After this much silence a stream gets a comment, so that nobody on the way closes it."""
KEEP_ALIVE: Final = b": waiting for a worker\n\n"
DONE: Final = b"data: [DONE]\n\n"
EVENTS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Writer(Protocol):
    """Sends a run's answer; raises ApiError where nothing was sent."""

    async def __call__(self, run: Run, send: Send, *, created_s: int) -> None:
        """Returns once all was sent."""
        ...


def writer(shape: Shape) -> Writer:
    """What writes answers of text."""
    return partial(write_events if shape.stream else write_whole, shape=shape)


async def once_over(run: Run) -> None:
    """Wait for all answers of a run.

    Raises:
        ApiError: There is none, or one of them was not brought to its end.
    """
    while not run.over:
        await run.changed.wait()
    _check(run)


async def write_whole(run: Run, send: Send, *, shape: Shape, created_s: int) -> None:
    """Send the answers as one object, once all of them have ended.

    Raises:
        ApiError: There is none, or one of them was not brought to its end.
    """
    await once_over(run)
    body = _head(run, shape, created_s, "chat.completion" if shape.chat else "text_completion")
    for choice in run.choices:
        body |= _mark(choice)
    body["choices"] = [
        {
            "index": index,
            **_content(choice, shape),
            "logprobs": _logprobs(choice.tokens, shape, 0) if shape.logprobs else None,
            "finish_reason": _ended(choice).finish,
        }
        for index, choice in enumerate(run.choices)
    ]
    await respond(send, 200, orjson.dumps(body | figures(run)), (JSON,))


async def write_events(run: Run, send: Send, *, shape: Shape, created_s: int) -> None:
    """Send the answers as they grow.

    The status is only sent with the first text, or when it has been waited for long: until then a
    failure is an ordinary error.

    Raises:
        ApiError: There is no answer, and nothing was sent yet.
    """
    with trio.move_on_after(KEEP_ALIVE_S):
        while not run.begun:
            await run.changed.wait()
    if run.over and not any(choice.pieces for choice in run.choices):
        _check(run)
    await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
    stream = _Stream(run, shape, created_s)
    if not run.begun:
        await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
    while not (run.over or (run.begun and run.error)):
        due = stream.due()
        if due:
            await send({"type": "http.response.body", "body": due, "more_body": True})
        elif not await run.changed.wait_at_most(KEEP_ALIVE_S):
            await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
    await send({"type": "http.response.body", "body": stream.due() + stream.end()})


def figures(run: Run) -> dict[str, Any]:
    """Counts and cost of a run that is over, and where its proof is."""
    ended = [_ended(choice) for choice in run.choices]
    tokens_in, tokens_out = sum(e.tokens_in for e in ended), sum(e.tokens_out for e in ended)
    micro = sum(e.cost_micro for e in ended)
    body: dict[str, Any] = {
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": sum(e.tokens_cached for e in ended)},
            "cost": micro / MICRO_PER_UNIT,
            "cost_micro": micro,
        },
        "x_receipt": ended[0].receipt,
    }
    if len(ended) > 1:
        body["x_receipts"] = [each.receipt for each in ended]
    return body


def _check(run: Run) -> None:
    if run.error is not None:
        raise run.error
    for choice in run.choices:
        if _ended(choice).failure:
            raise failed(_ended(choice).failure)


def _ended(choice: Choice) -> Ended:
    assert choice.ended is not None
    return choice.ended


def by_whom(run: Run) -> dict[str, str]:
    """Which model and which worker answered, of several the first."""
    return {"model": _begun(run).model, "provider": _begun(run).provider}


def _begun(run: Run) -> Started:
    return next(choice.begun for choice in run.choices if choice.begun is not None)


def _head(run: Run, shape: Shape, created_s: int, kind: str) -> dict[str, Any]:
    """What every object of an answer begins with."""
    prefix = "chatcmpl-" if shape.chat else "cmpl-"
    return {
        "id": prefix + _begun(run).job_id,
        "object": kind,
        "created": created_s,
        **by_whom(run),
    }


def _mark(choice: Choice) -> dict[str, Any]:
    """What no worker of the market gave says so."""
    started = choice.begun
    if started is None or started.last_resort is None:
        return {}
    resort = started.last_resort
    told = {"after_tokens": resort.after_tokens, "reason": resort.reason}
    return {"model": started.model, "provider": started.provider, "x_upstream": told}


def _content(choice: Choice, shape: Shape) -> dict[str, Any]:
    if not shape.chat:
        return {"text": choice.text}
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if calls := choice.calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [_call(choice, each, indexed=False) for each in calls]
    return {"message": message}


def _call(choice: Choice, part: CallPart, *, indexed: bool = True) -> dict[str, Any]:
    """A call, or with an index a part of one."""
    made: dict[str, Any] = {"index": part.index} if indexed else {}
    function = {"arguments": part.arguments}
    if part.name:
        assert choice.begun is not None, "who has no worker writes nothing"
        # The same whoever asks again, and whoever goes on with the answer.
        made |= {"id": f"call_{choice.begun.job_id}_{part.index}", "type": "function"}
        function = {"name": part.name} | function
    return made | {"function": function}


@dataclass(slots=True)
class _Reading:
    """How much of a choice a stream has sent."""

    pieces: int = 0
    tokens: int = 0
    chars: int = 0


class _Stream:
    """One connection's way through a run."""

    def __init__(self, run: Run, shape: Shape, created_s: int) -> None:
        self._run = run
        self._shape = shape
        self._created_s = created_s
        self._read = [_Reading() for _ in run.choices]
        self._opening = b""
        self._mark: LastResort | None = None
        """What that opening tells of."""

    def due(self) -> bytes:
        """Events of what was added since the last call."""
        return b"".join(
            self._events(index, choice, self._read[index])
            for index, choice in enumerate(self._run.choices)
            if len(choice.pieces) > self._read[index].pieces
            or len(choice.tokens) > self._read[index].tokens
        )

    def end(self) -> bytes:
        """The last events of a run that is over."""
        run = self._run
        broken = [c.ended.failure for c in run.choices if c.ended is not None and c.ended.failure]
        error = run.error or (failed(broken[0]) if broken else None)
        if error is not None:
            return b"data: " + error.body() + b"\n\n" + DONE
        last = _head(run, self._shape, self._created_s, self._kind)
        told, events = figures(run), []
        for index, choice in enumerate(run.choices):
            empty: dict[str, Any] = {"delta": {}} if self._shape.chat else {"text": ""}
            end = {"index": index, **empty, "logprobs": None}
            finish = [end | {"finish_reason": _ended(choice).finish}]
            proof = {"x_receipt": _ended(choice).receipt}
            events.append(self._head(choice) | {"choices": finish} | proof)
        if self._shape.usage:
            events.append(last | {"choices": []} | told)
        return b"".join(b"data: %b\n\n" % orjson.dumps(each) for each in events) + DONE

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._shape.chat else "text_completion"

    def _head(self, choice: Choice) -> dict[str, Any]:
        """What an event of this choice begins with."""
        return _head(self._run, self._shape, self._created_s, self._kind) | _mark(choice)

    def _events(self, index: int, choice: Choice, read: _Reading) -> bytes:
        """One event for all text and one for each call; usually there is text alone."""
        parts = list(_merged(choice.pieces[read.pieces :])) or [""]
        return b"".join(self._event(index, choice, read, part) for part in parts)

    def _event(self, index: int, choice: Choice, read: _Reading, part: str | CallPart) -> bytes:
        mark = None if choice.begun is None else choice.begun.last_resort
        if not self._opening or mark is not self._mark:
            head, self._mark = self._head(choice), mark
            self._opening = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":'
        first = read.pieces == read.tokens == 0
        tokens = choice.tokens[read.tokens :]
        told = b"null"
        if self._shape.logprobs:
            told = orjson.dumps(_logprobs(tokens, self._shape, read.chars))
        read.pieces, read.tokens = len(choice.pieces), len(choice.tokens)
        read.chars += len(part)
        return b'%b%d,%b,"logprobs":%b,"finish_reason":null}]}\n\n' % (
            self._opening, index, self._piece(choice, part, first=first), told,
        )  # fmt: skip

    def _piece(self, choice: Choice, part: str | CallPart, *, first: bool) -> bytes:
        if not self._shape.chat:
            return b'"text":' + orjson.dumps(part)
        role = b'"role":"assistant",' if first else b""
        if isinstance(part, str):
            return b'"delta":{%b"content":%b}' % (role, orjson.dumps(part))
        return b'"delta":{%b"tool_calls":%b}' % (role, orjson.dumps([_call(choice, part)]))


def _merged(pieces: list[str | CallPart]) -> Iterator[str | CallPart]:
    """Neighbours that are of one text, or of one call, become one."""
    waiting: str | CallPart = ""
    for piece in pieces:
        if isinstance(waiting, str) and isinstance(piece, str):
            waiting += piece
        elif (
            isinstance(waiting, CallPart)
            and isinstance(piece, CallPart)
            and waiting.index == piece.index
        ):
            waiting = waiting.and_then(piece)
        else:
            if waiting:
                yield waiting
            waiting = piece
    if waiting:
        yield waiting


def _logprobs(tokens: list[TokenText], shape: Shape, offset: int) -> dict[str, Any]:
    """As chat completions, or as completions, have them.

    Args:
        tokens: Whose.
        shape: Which of both.
        offset: Characters of the answer before them.
    """
    if shape.chat:
        return {
            "content": [
                {
                    **_token(each.text, each.logprob),
                    "top_logprobs": [_token(*pair) for pair in each.top],
                }
                for each in tokens
            ],
            "refusal": None,
        }
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each.text)
    return {
        "tokens": [each.text for each in tokens],
        "token_logprobs": [_finite(each.logprob) for each in tokens],
        "top_logprobs": [{text: _finite(value) for text, value in each.top} for each in tokens],
        "text_offset": offsets,
    }


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": _finite(logprob),
        "bytes": list(text.encode()),
    }


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI has -9999 for what is as good as impossible."""
    return logprob if math.isfinite(logprob) else -9999.0
