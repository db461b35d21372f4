"""One completion of a server, event by event."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.adapters.openai import http, replies
from node.adapters.openai.events import DONE, Events
from node.adapters.openai.http import Server
from node.adapters.openai.replies import Delta
from node.errors import Unavailable

FIRST_S: Final = 120.0
"""For the head of the response and the first event: a long prompt, or a queue of the server's."""
NEXT_S: Final = 60.0
STREAM_BYTES_MAX: Final = 256 * 1024 * 1024
"""A whole completion with all that is around its text."""
MEDIA_TYPE: Final = "text/event-stream"


@asynccontextmanager
async def streamed(
    server: Server,
    path: str,
    body: bytes,
    *,
    first_s: float = FIRST_S,
    next_s: float = NEXT_S,
) -> AsyncIterator[AsyncIterator[Delta]]:
    """A completion as it is written; leaving the context closes the connection, which ends it.

    The iterator ends with the stream; whether a finish was told, the reader sees.

    Raises:
        Refusal: The server won't.
        Unavailable: It can't be reached, is too slow, or sends something else.
    """
    async with http.sent(server, "POST", path, body, within_s=first_s) as response:
        if response.media_type != MEDIA_TYPE:
            raise Unavailable(
                f"the server sends {response.media_type[:60] or 'no type'}, no events"
            )
        yield _deltas(response, first_s, next_s)


async def _deltas(response: http.Response, first_s: float, next_s: float) -> AsyncIterator[Delta]:
    # Comments keep a connection open, and buy no time.
    events, size, due_s = Events(), 0, trio.current_time() + first_s
    while part := await response.next_bytes(within_s=max(0.0, due_s - trio.current_time())):
        size += len(part)
        if size > STREAM_BYTES_MAX:
            raise Unavailable("the server sends a completion without end")
        found = events.push(part)
        for data in found:
            if data.strip() == DONE:
                return
            yield replies.read(replies.read_json(data))
        due_s = trio.current_time() + next_s if found else due_s
    for data in events.rest():
        if data.strip() != DONE:
            yield replies.read(replies.read_json(data))
