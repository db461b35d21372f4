"""Server-sent events, as completions come: bytes in, the data of each event out."""

from typing import Final

from node.errors import Unavailable

EVENT_BYTES_MAX: Final = 1024 * 1024
"""One event, or a line without an end."""
DONE: Final = b"[DONE]"


class Events:
    """Cuts a stream into events.  Comments, other fields, events without data are passed over."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def push(self, part: bytes) -> list[bytes]:
        """The data of the events that are complete now.

        Raises:
            Unavailable: An event is too large.
        """
        self._buffer += part
        if len(self._buffer) > EVENT_BYTES_MAX:
            raise Unavailable("the server sends an event that is too large")
        found = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            if line:
                self._field(line)
            elif self._data:
                found.append(self._take())
        return found

    def rest(self) -> list[bytes]:
        """The last event, where the stream ended without the empty line after it."""
        if self._buffer:
            self._field(bytes(self._buffer).removesuffix(b"\r"))
            self._buffer.clear()
        return [self._take()] if self._data else []

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return  # a comment, an event's name or id, a time to wait
        self._data.append(value.removeprefix(b" "))
        self._size += len(value)
        if self._size > EVENT_BYTES_MAX:
            raise Unavailable("the server sends an event that is too large")

    def _take(self) -> bytes:
        data = b"\n".join(self._data)
        self._data, self._size = [], 0
        return data
