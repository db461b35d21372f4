"""Keeps out what must not come near the market: foreign web pages, strangers, floods.

A page of any site may make its visitor's browser send requests to loopback, under a name of its own
that it lets point there.  So the Host must be one that nobody else can let point here, an Origin
must be allowed by name, and a body must call itself JSON, which a page can't without being asked.
"""

import ipaddress
from collections.abc import Collection
from typing import Final

import structlog
import trio

from node.adapters.http.asgi import (
    HEADER_BYTES_MAX,
    JSON,
    App,
    Message,
    Receive,
    Scope,
    Send,
    header,
    respond,
)
from node.adapters.http.body import ClientGone
from node.adapters.http.errors import ApiError, busy
from node.adapters.http.port import Customer, Keys

log = structlog.get_logger("gateway")

LINGER_S: Final = 2.0
"""How long a body that is refused is still taken in, so that its sender reads why."""
OWNER: Final = Customer(key_id="")
OPEN_PATHS: Final = frozenset({"/healthz"})
"""Need no key."""


class Guard:
    """The outermost of the gateway's apps."""

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        hosts: Collection[str],
        origins: Collection[str],
        requests_max: int,
    ) -> None:
        """
        Args:
            app: What it guards; its scopes' `state` has the `customer`.
            keys: Who may ask.
            hosts: Names by which the gateway may be addressed, besides localhost and addresses.
            origins: Web origins whose pages may use it, such as ``https://chat.example``.
            requests_max: At once.
        """
        self._app = app
        self._keys = keys
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost"}
        self._origins = frozenset(origins)
        self._room = trio.CapacityLimiter(requests_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with why not."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        watched = _Watched(receive, send)
        holder = object()
        try:
            origin = self._check(scope)
            watched.headers = _cors(origin)
            if scope["method"] == "OPTIONS" and origin:
                await respond(watched.send, 204, b"", _PREFLIGHT)
                return
            try:
                self._room.acquire_on_behalf_of_nowait(holder)
            except trio.WouldBlock:
                raise busy("too many requests at once", code="busy") from None
            try:
                await self._app(scope, watched.receive, watched.send)
            finally:
                self._room.release_on_behalf_of(holder)
        except ApiError as error:
            await watched.refuse(error)
        except ClientGone:
            return
        except Exception:
            # A bug of ours.  Tracebacks have lines of code and no values: no prompt is logged.
            log.exception("request failed", path=scope["path"])
            await watched.refuse(
                ApiError(500, "internal error", code="internal_error", kind="server_error")
            )

    def _check(self, scope: Scope) -> str:
        """The web origin that the request comes from; empty for none.

        Raises:
            ApiError: It may not come in.
        """
        # h11 looks at the size of headers only while they are incomplete.
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES_MAX:
            raise ApiError(431, "the headers are too long", code="headers_too_large")
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:
            # RFC 9112, 6.1: an attempt at smuggling, or a body that won't end as its sender thinks.
            raise ApiError(
                400, "a body has a Content-Length or is chunked, not both", code="bad_request"
            )
        host = header(scope, b"host")
        if host is None or not self._is_ours(host):
            raise ApiError(
                403, "this gateway is not addressed by that Host; see gateway.hosts",
                code="host_not_allowed",
            )  # fmt: skip
        origin = ""
        if b"origin" in names:
            origin = header(scope, b"origin") or "null"
            if origin not in self._origins:
                raise ApiError(
                    403, "web pages of that Origin may not use this gateway; see gateway.origins",
                    code="origin_not_allowed",
                )  # fmt: skip
        if scope["method"] != "OPTIONS":
            scope["state"]["customer"] = self._customer(scope)
        return origin

    def _is_ours(self, host: str) -> bool:
        """Names could be made to point here by anybody; addresses can't."""
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _customer(self, scope: Scope) -> Customer:
        scheme, _, secret = (header(scope, b"authorization") or "").partition(" ")
        if not self._keys.needed or scope["path"] in OPEN_PATHS:
            return OWNER
        found = self._keys.find(secret.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise ApiError(
                401, "no valid API key: Authorization: Bearer …", code="invalid_api_key",
                kind="authentication_error", headers=((b"www-authenticate", b"Bearer"),),
            )  # fmt: skip
        return found


class _Watched:
    """A request's `receive` and `send`, which remember how far both are."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.taken = False
        """The request has been read to its end."""
        self.begun = False
        """The response has begun."""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        """To be added to the response."""

    async def receive(self) -> Message:
        """The next piece of the request."""
        message = await self._receive()
        self.taken = self.taken or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """The next piece of the response."""
        if not self.begun:
            self.begun = True
            message["headers"] = [*message["headers"], *self.headers]
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.begun:
            return  # the connection ends in the middle of it
        unread = not self.taken
        headers = (JSON, *error.headers)
        await respond(self.send, error.status, error.body(), headers, more=unread)
        if unread:
            # A connection that is closed with unread data is reset, and its sender reads nothing.
            with trio.move_on_after(LINGER_S):
                while not self.taken:
                    await self.receive()
            await self.send({"type": "http.response.body", "body": b""})


_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, idempotency-key"),
    (b"access-control-max-age", b"600"),
)


def _cors(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    """Never a wildcard: the one origin, which was allowed by name."""
    if not origin:
        return ()
    return ((b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin"))
