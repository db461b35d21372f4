"""What is where, and the way of a request that buys answers."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, Final

import orjson
import trio
from starlette.routing import Route, Router

from node.adapters.http.asgi import JSON, App, Receive, Scope, Send, header, respond
from node.adapters.http.body import check_length, read_body
from node.adapters.http.embeddings import read_embeddings
from node.adapters.http.errors import ApiError, bad_field, not_found
from node.adapters.http.fields import LABEL_CHARS_MAX
from node.adapters.http.port import Ask, Desk
from node.adapters.http.reading import Shape, read_chat, read_completion
from node.adapters.http.runs import Identity, Runs
from node.adapters.http.writing import Writer, writer

ID_PREFIXES: Final = ("chatcmpl-", "cmpl-", "gen-")
JSON_TYPE: Final = "application/json"

Reader = Callable[[bytes], tuple[Ask, Writer]]


class Answers:
    """A raw ASGI app that buys: no framework stands between a token and its connection."""

    def __init__(self, runs: Runs, read: Reader, *, body_bytes_max: int) -> None:
        self._runs = runs
        self._read = read
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its body to the last byte of its answer."""
        body = await json_body(scope, receive, self._body_bytes_max)
        ask, write = self._read(body)
        run = self._runs.open(ask, _identity(scope, body))
        created_s = int(time.time())
        failure: ApiError | None = None
        try:
            with run.read():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_watch_leaving, receive, nursery.cancel_scope)
                    try:
                        await write(run, send, created_s=created_s)
                    except ApiError as error:  # raised again outside, where no group wraps it
                        failure = error
                    nursery.cancel_scope.cancel()
        finally:
            self._runs.leave(run)
        if failure is not None:
            raise failure


async def _watch_leaving(receive: Receive, answering: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()


async def json_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """The body of a request that says that it is JSON.

    Raises:
        ApiError: It does not, or is too long or too slow.
        ClientGone: It ended in the middle.
    """
    kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    check_length(scope, bytes_max)
    if kind != JSON_TYPE:
        raise ApiError(415, f"Content-Type must be {JSON_TYPE}", code="unsupported_media_type")
    return await read_body(scope, receive, bytes_max)


def _identity(scope: Scope, body: bytes) -> Identity:
    key = header(scope, b"idempotency-key") or ""
    if len(key) > LABEL_CHARS_MAX:
        raise bad_field("Idempotency-Key", "is too long")
    retries = header(scope, b"x-stainless-retry-count") or "0"
    return Identity(
        customer=scope["state"]["customer"],
        digest=hashlib.sha256(scope["path"].encode() + b"\0" + body).digest(),
        key=key,
        again=retries.isdecimal() and retries.strip("0") != "",
    )


def routes(desk: Desk, runs: Runs, *, body_bytes_max: int) -> App:
    """The gateway's app, unguarded.

    Args:
        desk: The market.
        runs: Carries what is bought.
        body_bytes_max: Longest body.
    """

    async def models(_scope: Scope, _receive: Receive, send: Send) -> None:
        await _send_json(send, {"object": "list", "data": await desk.models()})

    async def model(scope: Scope, _receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        found = [each for each in await desk.models() if name in (each["id"], each["x_model_id"])]
        if not found:
            raise not_found(f"nobody sells {name[:LABEL_CHARS_MAX]}", code="model_not_found")
        await _send_json(send, found[0])

    async def endpoints(scope: Scope, _receive: Receive, send: Send) -> None:
        await _send_json(send, {"data": await desk.endpoints(scope["path_params"]["name"])})

    async def generation(scope: Scope, _receive: Receive, send: Send) -> None:
        await _send_json(send, {"data": await desk.generation(_wanted_job(scope))})

    async def health(_scope: Scope, _receive: Receive, send: Send) -> None:
        await _send_json(send, {"status": "ok"})

    def answers(read: Reader) -> Answers:
        return Answers(runs, read, body_bytes_max=body_bytes_max)

    table: list[tuple[str, str, App]] = [
        ("GET", "/healthz", health),
        ("GET", "/v1/models", models),
        ("GET", "/v1/models/{name:path}/endpoints", endpoints),
        ("GET", "/v1/models/{name:path}", model),
        ("GET", "/v1/generation", generation),
        ("POST", "/v1/chat/completions", answers(_of_text(read_chat))),
        ("POST", "/v1/completions", answers(_of_text(read_completion))),
        ("POST", "/v1/embeddings", answers(read_embeddings)),
    ]
    return Router(
        [Route(path, _Only(method, app)) for method, path, app in table],
        redirect_slashes=False,
        default=_nothing,
    )


def _of_text(read: Callable[[bytes], tuple[Ask, Shape]]) -> Reader:
    def reader(body: bytes) -> tuple[Ask, Writer]:
        ask, shape = read(body)
        return ask, writer(shape)

    return reader


class _Only:
    """Lets one method through.  A class, since Starlette wraps functions in its own machinery."""

    def __init__(self, method: str, app: App) -> None:
        self._method = method
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != self._method:
            raise ApiError(
                405, f"{scope['path']} takes {self._method}", code="method_not_allowed",
                headers=((b"allow", self._method.encode()),),
            )  # fmt: skip
        await self._app(scope, receive, send)


async def _nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise not_found(f"there is no {scope['path'][:LABEL_CHARS_MAX]}")


def _wanted_job(scope: Scope) -> str:
    from urllib.parse import parse_qs

    try:
        query = parse_qs(scope["query_string"].decode(), max_num_fields=8)
    except ValueError:
        query = {}
    given: str = query.get("id", [""])[0]
    for prefix in ID_PREFIXES:
        given = given.removeprefix(prefix)
    if len(given) != 32 or given.strip("0123456789abcdef"):
        raise bad_field("id", "must be the id of an answer")
    return given


async def _send_json(send: Send, document: Any) -> None:
    await respond(send, 200, orjson.dumps(document), (JSON,))
