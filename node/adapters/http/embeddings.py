"""Embeddings as OpenAI's clients ask for them and read them."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import orjson
import trio

from node.adapters.http.asgi import JSON, Send, respond
from node.adapters.http.errors import bad_field, unsupported
from node.adapters.http.fields import Fields, text_of
from node.adapters.http.port import Ask
from node.adapters.http.reading import parse, take_labels
from node.adapters.http.routing import read_models, read_routing
from node.adapters.http.runs import Run
from node.adapters.http.writing import Writer, by_whom, figures, once_over
from node.protocol import embeddings, limits
from node.protocol.embeddings import Inputs
from node.protocol.sampling import Sampling

JOBS_MAX: Final = 16
"""Jobs of one request, side by side."""
JOB_BYTES_MAX: Final = 32 * 1024
"""Text of one, unless it is a single one: its worker gives credit for so much."""
TEXTS_MAX: Final = JOBS_MAX * limits.INPUTS_MAX
BASE64: Final = "base64"


def read_embeddings(body: bytes) -> tuple[Ask, Writer]:
    """An ask from the body of `/v1/embeddings`, and what writes its answer.

    Raises:
        ApiError: A field is unknown, wrong, or asks for what nobody can do.
    """
    fields = Fields(parse(body))
    texts = _texts(fields)
    dimensions = fields.whole("dimensions", 1, limits.DIMENSIONS_MAX) or 0
    encoding = fields.choice("encoding_format", {"float": "float", BASE64: BASE64})
    models, sort = read_models(fields)
    routing = read_routing(fields, sort)
    take_labels(fields)
    fields.done()
    jobs = tuple(Inputs(texts=each, dimensions=dimensions) for each in _parted(texts))
    if len(jobs) > JOBS_MAX:
        raise bad_field("input", f"is more than {JOBS_MAX * JOB_BYTES_MAX} bytes in one request")
    ask = Ask(models=models, inputs=jobs, sampling=Sampling(), routing=routing)
    return ask, partial(_write, inputs=jobs, base64=encoding == BASE64)


def _texts(fields: Fields) -> tuple[str, ...]:
    value = fields.take("input")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise bad_field("input", "must be a text, or a list of texts")
    if len(value) > TEXTS_MAX:
        raise bad_field("input", f"at most {TEXTS_MAX} texts to one request")
    if any(type(each) in (int, list) for each in value):
        why = "token ids depend on a tokenizer that the client can't know: send text"
        raise unsupported("input", why)
    return tuple(_text(each, f"input[{n}]") for n, each in enumerate(value))


def _text(value: Any, path: str) -> str:
    text = text_of(value, path, limits.REQUEST_BYTES_MAX // 8)  # escapes and all, it fits a request
    if not text:
        raise bad_field(path, "must not be empty")
    return text


def _parted(texts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """In jobs of about equal cost, in order."""
    part: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if part and (len(part) == limits.INPUTS_MAX or size + length > JOB_BYTES_MAX):
            yield tuple(part)
            part, size = [], 0
        part.append(text)
        size += length
    yield tuple(part)


async def _write(
    run: Run,
    send: Send,
    *,
    created_s: int,  # noqa: ARG001
    inputs: tuple[Inputs, ...],
    base64: bool,
) -> None:
    """Send the vectors of all jobs as one list.

    Raises:
        ApiError: One of them has none.
    """
    await once_over(run)
    outputs = [choice.text for choice in run.choices]
    data = await trio.to_thread.run_sync(_data, outputs, inputs, base64)
    told = figures(run)
    usage = {key: told["usage"][key] for key in ("prompt_tokens", "cost", "cost_micro")}
    told["usage"] = usage | {"total_tokens": usage["prompt_tokens"]}
    body = {"object": "list", "data": data, **by_whom(run)} | told
    await respond(send, 200, await trio.to_thread.run_sync(orjson.dumps, body), (JSON,))


def _data(outputs: list[str], inputs: tuple[Inputs, ...], base64: bool) -> list[dict[str, Any]]:
    """As the protocol has them they are base64 already; `app.gateway_job` has checked them."""
    found: list[Any] = []
    for output, asked in zip(outputs, inputs, strict=True):
        found += output.split(embeddings.END) if base64 else embeddings.read(output, asked)
    return [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(found)]
