"""Reads a request's body: no more of it than is allowed, and in no more time."""

from typing import Final

import trio

from node.adapters.http.asgi import Receive, Scope
from node.adapters.http.errors import ApiError

BODY_S: Final = 30.0
"""For a whole body, however small its pieces are."""


class ClientGone(Exception):
    """The connection ended before the request did."""


async def read_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """
    Raises:
        ApiError: 413 if it is too long, 408 if it takes too long.
        ClientGone: It ended in the middle.
    """
    check_length(scope, bytes_max)
    parts, size = [], 0
    with trio.move_on_after(BODY_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > bytes_max:
                raise too_long(bytes_max)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)
    raise ApiError(408, f"the body took longer than {BODY_S:g} s", code="request_timeout")


def check_length(scope: Scope, bytes_max: int) -> None:
    """Refuse what says itself that it is too long, before any of it is read.

    Raises:
        ApiError: 413.
    """
    for name, value in scope["headers"]:
        # h11 has checked that it is a number.
        if name == b"content-length" and int(value) > bytes_max:
            raise too_long(bytes_max)


def too_long(bytes_max: int) -> ApiError:
    """A body that is not read to its end."""
    return ApiError(413, f"the body has more than {bytes_max} bytes", code="request_too_large")
