"""ASGI's types, and responses that are one piece."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER_BYTES_MAX: Final = 16 * 1024
"""All headers of a request."""
JSON = (b"content-type", b"application/json")


def header(scope: Scope, name: bytes) -> str | None:
    """A header's value, if it is there once.

    Args:
        scope: The request's.
        name: In lower case.
    """
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1").strip() if len(found) == 1 else None


async def respond(
    send: Send,
    status: int,
    body: bytes,
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,),
    *,
    more: bool = False,
) -> None:
    """Send a whole response; with `more`, leave its connection to the caller a little longer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": more})
