"""Streams of the library's own protocols, read in big pieces and no faster than allowed."""

from typing import Any

import trio
from libp2p.network.stream.net_stream import NetStream

from node.adapters.p2p.budget import Bucket

READ_BYTES_MAX = 16 * 1024


class ThrottledStream:
    """Stands in for a stream whose handler reads byte by byte and as fast as the peer writes."""

    def __init__(self, stream: NetStream, bucket: Bucket) -> None:
        """
        Args:
            bucket: Bytes that may be read; shared by all streams of one peer or protocol.
        """
        self._stream, self._bucket = stream, bucket
        self._unread = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes; raises what the stream raises."""
        if not self._unread:
            data = await self._stream.read(READ_BYTES_MAX)
            await trio.sleep(self._bucket.take(len(data), trio.current_time()))
            self._unread += data
        taken = bytes(self._unread if n is None else self._unread[:n])
        del self._unread[: len(taken)]
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
