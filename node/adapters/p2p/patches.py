"""What py-libp2p 0.8.1 leaves open or loses, closed in one place.

Each class here leans on private attributes of that exact version; `test_patches.py` fails when one
of them changes.  `install` sets the few module globals that can't be reached by subclassing.
"""

import logging
from types import ModuleType
from typing import Any

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.io import msgio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network import swarm
from libp2p.network.connection import swarm_connection
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.tcp import tcp

from node.adapters.p2p import lean

YAMUX = TProtocol(yamux.PROTOCOL_ID)
INBOUND_STREAMS_MAX = 64
STREAM_BURST_MAX = 128
STREAMS_PER_S = 64.0
"""How many streams a peer may open on a connection: at once, in a burst, and over time."""
WRITE_STALL_S = 10.0
"""A write that TCP does not take for this long ends the connection."""
CLOSE_STALL_S = 1.0
_TCP_READ_BYTES = 64 * 1024


class ConnectionAbused(trio.TooSlowError):
    """The peer ignored a window or a limit.

    `handle_incoming` swallows every error of a frame and goes on, except for `TooSlowError`, on
    which it cleans up and closes; hence the base class.
    """


class GuardedStream(yamux.YamuxStream):
    """A stream whose receive window is enforced, and credited half a window at a time."""

    @property
    def recv_window(self) -> int:
        """Bytes that the peer may still send."""
        return self._recv_window

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        # The library notices a negative window, logs it, and forgives.
        if value < 0:
            raise ConnectionAbused("the peer ignored a stream's window")
        self._recv_window = value

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        # The library answers each read with a frame, which costs as much as the read.  It also
        # lets windows grow to 16 MiB; one of 256 KiB is enough for all jobs of a peer.
        self._pending_recv_release += bytes_read
        if self._pending_recv_release >= yamux.DEFAULT_WINDOW_SIZE // 2:
            released, self._pending_recv_release = self._pending_recv_release, 0
            self.recv_window += released
            await self.send_window_update(released)


class _Streams(dict[int, yamux.YamuxStream]):
    """The streams of a connection; refuses what a flood would add."""

    def __init__(self) -> None:
        super().__init__()
        self._opened = 0.0
        self._opened_at = trio.current_time()

    def __setitem__(self, stream_id: int, stream: yamux.YamuxStream) -> None:
        if not stream.is_initiator:
            self._admit()
        super().__setitem__(stream_id, stream)

    def _admit(self) -> None:
        inbound = sum(1 for stream in self.values() if not stream.is_initiator)
        now = trio.current_time()
        self._opened = max(0.0, self._opened - (now - self._opened_at) * STREAMS_PER_S) + 1
        self._opened_at = now
        if inbound >= INBOUND_STREAMS_MAX or self._opened > STREAM_BURST_MAX:
            raise ConnectionAbused("the peer opened too many streams")


class GuardedYamux(yamux.Yamux):
    """Yamux whose writes can't be torn by cancellation and can't hang for ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.streams = _Streams()
        self._stall_s = WRITE_STALL_S

    async def _write_frame(self, data: bytes) -> None:
        # A cancelled, half-written frame corrupts the whole connection: nothing but the stall
        # deadline may interrupt it, and that one closes the connection.
        if self.event_closed.is_set():
            raise ConnectionClosedError("the connection is closed", transport="tcp")
        deadline = trio.current_time() + self._stall_s
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            async with self._write_lock:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            self.abort()
            raise ConnectionClosedError("a write stalled", transport="tcp")
        await trio.lowlevel.checkpoint()

    async def close(self, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        """Say goodbye and close; a peer that does not take the goodbye in time is cut off."""
        self._stall_s = min(self._stall_s, CLOSE_STALL_S)
        await super().close(error_code)

    def abort(self) -> None:
        """Close the socket at once; whoever reads, writes or waits on the connection ends.

        `close` says goodbye first, and waits for ever on a peer that takes no bytes.
        """
        socket_of(self.secured_conn).close()


def socket_of(secured: Any) -> trio.socket.SocketType:
    """The TCP socket below a Noise session."""
    stream = secured.conn.read_writer.read_write_closer.stream
    assert isinstance(stream, TrioTCPStream)
    return stream.stream.socket


class GuardedMuxer(MuxerMultistream):
    """Makes guarded connections; the library makes its own Yamux whatever class it is given."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Negotiate the muxer and wrap a secured connection."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = GuardedYamux(conn, peer_id, is_initiator=conn.is_initiator)
        return self._annotate_connection(muxed, conn, protocol)


class BufferedTcpStream(TrioTCPStream):
    """Reads what TCP has instead of the two bytes asked for: a fifth less CPU per message."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._unread = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes; empty at the end."""
        if n == 0:
            return b""
        if not self._unread:
            async with self.read_lock:
                data = await self._receive()
            if n is None or len(data) <= n:
                return data
            self._unread += data
        taken = bytes(self._unread if n is None else self._unread[:n])
        del self._unread[: len(taken)]
        return taken

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(_TCP_READ_BYTES))
        except trio.BrokenResourceError as error:
            raise ConnectionClosedError("reset by the peer", transport="tcp") from error
        except trio.ClosedResourceError:
            return b""


async def read_exactly(reader: Any, n: int) -> bytes:
    """Exactly `n` bytes, in however many pieces they come: the library gives up after 100."""
    buffer = bytearray()
    while len(buffer) < n:
        piece = await reader.read(n - len(buffer))
        if not piece:
            raise IncompleteReadError(
                f"connection closed after {len(buffer)} of {n} bytes",
                expected_bytes=n,
                received_bytes=len(buffer),
            )
        buffer += piece
    return bytes(buffer)


_LOG = logging.getLogger("libp2p")
REPLACED: tuple[tuple[ModuleType, str, Any], ...] = (
    (yamux, "YamuxStream", GuardedStream),
    (yamux, "read_exactly", read_exactly),
    (msgio, "read_exactly", read_exactly),
    (tcp, "TrioTCPStream", BufferedTcpStream),
    (tcp, "DNSResolver", lean.SystemResolver),
    # A dial waits this long after it has succeeded, in case another address is quicker.
    (swarm, "_HAPPY_EYEBALLS_DELAY", 0.0),
    # It logs through the root logger, whose first use installs a handler on stderr.
    (swarm_connection, "logging", _LOG),
)


def install() -> None:
    """Set the module globals through which the library finds its own classes.  Idempotent."""
    for module, name, value in REPLACED:
        assert hasattr(module, name), (module.__name__, name)
        setattr(module, name, value)
    # What matters to people is said by this program; the library calls an ordinary end an error.
    _LOG.propagate = False
    if not _LOG.handlers:
        _LOG.addHandler(logging.NullHandler())
