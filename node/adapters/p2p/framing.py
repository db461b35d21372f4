"""Frames on a libp2p stream: buffered reads, and the library's errors turned into ours."""

import trio
from libp2p.network.stream.net_stream import NetStream

from node.adapters.p2p.patches import GuardedStream, GuardedYamux
from node.errors import DecodeError, SessionLost
from node.protocol import codec
from node.protocol.frames import Frame

READ_BYTES_MAX = 64 * 1024


class WireStream:
    """A stream of the session protocol.  Whatever goes wrong below leaves it as `SessionLost`.

    Whatever: the library documents no errors, and raises what its parts raise.
    """

    def __init__(self, stream: NetStream) -> None:
        muxed, conn = stream.muxed_stream, stream.muxed_conn
        assert isinstance(muxed, GuardedStream)
        assert isinstance(conn, GuardedYamux)
        self._net, self._muxed, self._conn = stream, muxed, conn
        # The connection forgets its buffers when it ends; what they hold has arrived all the same.
        self._buffer = conn.stream_buffers.get(muxed.stream_id, bytearray())

    def shares_connection(self, other: "WireStream") -> bool:
        """Whether aborting one ends the other too."""
        return self._conn is other._conn

    @property
    def peer_id(self) -> bytes:
        """The peer's PeerID, as Noise proved it."""
        return self._conn.peer_id.to_bytes()

    async def read(self) -> bytes:
        """What there is, at least one byte.

        Raises:
            SessionLost: The end, clean or not, once everything that came before has been read.
        """
        try:
            data = await self._muxed.read(READ_BYTES_MAX)
        except Exception as error:
            data = bytes(self._buffer)
            self._buffer.clear()
            if not data:
                raise SessionLost("the connection was lost") from error
        if not data:
            raise SessionLost("the connection was closed by the peer")
        return data

    async def write(self, data: bytes) -> None:
        """Write all of it; a write once begun can't be cancelled.

        Raises:
            SessionLost: The connection is gone, or takes nothing any more.
        """
        try:
            await self._muxed.write(data)
        except Exception as error:
            # The library waits five seconds for room in a stream's window, and says so in words.
            full = "window" in str(error)
            reason = "the peer takes no more data" if full else "the connection was lost"
            raise SessionLost(reason) from error

    async def close(self) -> None:
        """Say that nothing more will be written.  What was written still arrives."""
        try:
            await self._muxed.close()
        except Exception as error:
            raise SessionLost("the connection was lost") from error

    async def discard(self) -> None:
        """Drop the stream and the library's record of it; data under way may be lost."""
        with trio.move_on_after(1, shield=True):
            await self._net.reset()

    def abort(self) -> None:
        """Cut the whole connection, at once: for a peer that is frozen or hostile."""
        self._conn.abort()


def printable(text: str) -> str:
    """A peer's words as they may be logged and shown: no control characters."""
    return "".join(each if each.isprintable() else "?" for each in text)


class FrameReader:
    """Splits a stream into frames.  Holds at most one frame and one read."""

    def __init__(self, stream: WireStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._fault: DecodeError | None = None

    async def frames(self) -> list[tuple[Frame, int]]:
        """The next frames, at least one, each with its size on the wire.

        Raises:
            DecodeError: Not a frame; those before it have been returned.
            SessionLost: The end of the stream.
        """
        while not (frames := self._split(1024)):
            self._buffer += await self._stream.read()
        return frames

    async def frame(self) -> tuple[Frame, int]:
        """The next frame alone.

        Raises:
            DecodeError: Not a frame.
            SessionLost: The end of the stream.
        """
        while not (frames := self._split(1)):
            self._buffer += await self._stream.read()
        return frames[0]

    def _split(self, count_max: int) -> list[tuple[Frame, int]]:
        if self._fault is not None:
            raise self._fault
        frames: list[tuple[Frame, int]] = []
        start, end = 0, len(self._buffer)
        try:
            while len(frames) < count_max and end - start >= codec.LENGTH_SIZE:
                body = start + codec.LENGTH_SIZE
                size = codec.unpack_length(self._buffer[start:body])
                if end - body < size:
                    break
                frame = codec.decode_frame(bytes(self._buffer[body : body + size]))
                frames.append((frame, codec.LENGTH_SIZE + size))
                start = body + size
        except DecodeError as error:
            if not frames:
                raise
            self._fault = error
        del self._buffer[:start]
        return frames
