"""The owner's side of a request that takes long: its body, and the events before its result."""

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A job's prompt (2 MiB at most), each character of which may take six bytes in JSON."""
_READ_BYTES: Final = 64 * 1024


class Follower:
    """A command that is told how its request goes.

    What is told waits here until the command takes it: its handler is never held up.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._more = trio.Event()
        self._last = False
        self.stopped = trio.Event()
        """Set once the command wants no more: it said so, or it is gone."""
        self.told = trio.Event()
        """Set once the last line was sent, or can't be."""

    def tell(self, event: Any) -> None:
        """Queue an event (JSON values)."""
        self._push({"event": event})

    def tell_last(self, reply: Mapping[str, Any]) -> None:
        """Queue the result."""
        self._last = True
        self._push(reply)

    def _push(self, line: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(line).encode() + b"\n")
        self._more.set()

    async def send(self) -> None:
        """Send what is queued, all that is due in one write; ends with the last line."""
        try:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                last, due = self._last, b"".join(self._lines)
                self._lines.clear()
                await self._stream.send_all(due)
                if last:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.stopped.set()
        finally:
            self.told.set()

    async def watch(self) -> None:
        """Notice that the command wants no more: whatever it sends means that, or its end."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.receive_some(_READ_BYTES)
        self.stopped.set()


StreamHandler = Callable[[bytes, Follower], Awaitable[Any]]
"""Takes a request's body, returns what JSON can hold, raises NodeError.

It looks at `Follower.stopped` and returns soon after."""


async def read_body(stream: trio.SocketStream, size: object) -> bytes | None:
    """So many bytes; None if the other end left, or wants to send too much."""
    if type(size) is not int or not 0 <= size <= BODY_BYTES_MAX:
        return None
    body = bytearray()
    while len(body) < size:
        part = await stream.receive_some(min(_READ_BYTES, size - len(body)))
        if not part:
            return None
        body += part
    return bytes(body)
