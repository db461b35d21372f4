"""Every private attribute of py-libp2p that is leaned on, by what breaks without it."""

import inspect
import os
import struct
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from itertools import repeat

import pytest
import trio
from libp2p.abc import INetConn
from libp2p.io import msgio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network import swarm
from libp2p.network.connection import swarm_connection
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.tcp import tcp

from node.adapters.p2p import patches
from node.adapters.p2p import swarm as swarm_of_ours
from node.adapters.p2p.host import Host
from node.adapters.p2p.patches import GuardedStream, GuardedYamux, read_exactly, socket_of
from node.errors import ConfigError
from tests.adapters.p2p.peers import connected, host, slow_proxy, until

ECHO = "/test/echo/1"
SINK = "/test/sink/1"
HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)


async def echo(stream: NetStream) -> None:
    while data := await stream.read(65536):
        await stream.write(data)


async def never_read(stream: NetStream) -> None:
    await trio.sleep_forever()


def test_the_globals_are_where_the_library_looks_for_them() -> None:
    patches.install()
    assert yamux.YamuxStream is GuardedStream
    assert "YamuxStream(stream_id, self, False)" in inspect.getsource(yamux.Yamux.handle_incoming)
    assert "YamuxStream(stream_id, self, True)" in inspect.getsource(yamux.Yamux.open_stream)
    assert "await read_exactly(" in inspect.getsource(yamux.Yamux._read_data_body)
    assert "await read_exactly(" in inspect.getsource(msgio.BaseMsgReadWriter.read_msg)
    assert "TrioTCPStream(stream)" in inspect.getsource(tcp.TCPListener.listen)
    assert "TrioTCPStream(stream)" in inspect.getsource(tcp.TCP._dial_resolved)
    assert "resolver=DNSResolver()" in inspect.getsource(tcp.TCP.dial)
    assert "_HAPPY_EYEBALLS_DELAY" in inspect.getsource(swarm.Swarm.dial_peer)
    assert "logging.debug(" in inspect.getsource(swarm_connection.SwarmConn)


def test_the_library_still_does_what_is_overridden() -> None:
    for owner, name in (
        (yamux.Yamux, "_write_frame"),
        (yamux.Yamux, "_cleanup_on_error"),
        (yamux.YamuxStream.__mro__[1], "_auto_tune_and_send_window_update"),
        (swarm.Swarm, "_handle_inbound_connection"),
        (swarm.Swarm, "_schedule_auto_connect"),
    ):
        assert callable(getattr(owner, name)), name
    incoming = inspect.getsource(yamux.Yamux.handle_incoming)
    # The one error that ends a connection from inside a frame: what ConnectionAbused is.
    assert incoming.count("except trio.TooSlowError:") == 2
    assert issubclass(patches.ConnectionAbused, trio.TooSlowError)


async def test_a_connection_is_made_of_guarded_parts() -> None:
    async with connected() as (a, b):
        for here in (a, b):
            muxed = muxed_of(here)
            assert type(muxed.streams) is patches._Streams
            assert socket_of(muxed.secured_conn).fileno() > 0
            assert type(tcp_of(muxed)) is patches.BufferedTcpStream
            assert here.get_network()._negative_peer_cache._ttl == 2.0
            assert here.get_network().retry_config.max_retries == 0
            b.set_stream_handler(ECHO, echo)
        stream = await open_stream(a, b, ECHO)
        assert type(stream.muxed_stream) is GuardedStream
        await stream.write(b"x")
        assert await stream.read(10) == b"x"


async def open_stream(a: Host, b: Host, protocol: str) -> NetStream:
    [conn] = a.get_network().get_connections(b.get_id())
    return await a.new_stream_on(conn, protocol)


def muxed_of(here: Host) -> GuardedYamux:
    """The host's only connection."""
    [conn] = here.get_network().get_connections()
    assert isinstance(conn.muxed_conn, GuardedYamux)
    return conn.muxed_conn


def tcp_of(muxed: GuardedYamux) -> TrioTCPStream:
    stream = muxed.secured_conn.conn.read_writer.read_write_closer.stream  # type: ignore[attr-defined]
    assert isinstance(stream, TrioTCPStream)
    return stream


async def flood(attacker: Host, victim: Host, frames: Iterable[bytes]) -> int:
    """Write raw Yamux frames until the victim has cut the connection.

    Returns:
        How many it took; all of them if it never did.
    """
    mine, theirs = muxed_of(attacker), muxed_of(victim)
    count = 0
    with trio.fail_after(2), suppress(ConnectionClosedError):
        for frame in frames:
            if theirs.event_closed.is_set():
                break
            await mine._write_frame(frame)
            assert len(theirs.streams) <= patches.INBOUND_STREAMS_MAX
            count += 1
    with trio.fail_after(1):
        await theirs.event_closed.wait()
    return count


async def test_an_ignored_window_ends_the_connection() -> None:
    async with connected() as (a, b):
        b.set_stream_handler(SINK, never_read)
        stream = await open_stream(a, b, SINK)
        assert isinstance(stream.muxed_stream, GuardedStream)
        piece = bytes(16 * 1024)
        frame = (
            HEADER.pack(0, yamux.TYPE_DATA, 0, stream.muxed_stream.stream_id, len(piece)) + piece
        )
        assert await flood(a, b, repeat(frame, 30_000)) < 500


@pytest.mark.parametrize("flags", [yamux.FLAG_SYN, yamux.FLAG_SYN | yamux.FLAG_RST])
async def test_a_flood_of_streams_ends_the_connection(flags: int) -> None:
    """Streams left open, and streams opened and reset in a hurry."""
    async with connected() as (a, b):
        syns = (
            HEADER.pack(0, yamux.TYPE_WINDOW_UPDATE, flags, stream_id, 0)
            for stream_id in range(1001, 41001, 2)
        )
        assert await flood(a, b, syns) < 10_000


async def test_a_cancelled_write_leaves_the_connection_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = trio.Event()
    # To a stream that b does not know: it drops the data, after reading it.
    frame = HEADER.pack(0, yamux.TYPE_DATA, 0, 99_999, 60_000) + bytes(60_000)

    async def write_until_cancelled(muxed: GuardedYamux) -> None:
        with trio.move_on_after(0.5):
            while True:
                await muxed._write_frame(frame)

    async with connected() as (a, b):
        b.set_stream_handler(ECHO, echo)
        tcp_stream = tcp_of(muxed_of(b))
        assert isinstance(tcp_stream, patches.BufferedTcpStream)
        receive = tcp_stream._receive

        async def gated() -> bytes:
            await gate.wait()
            return await receive()

        monkeypatch.setattr(tcp_stream, "_receive", gated)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_until_cancelled, muxed_of(a))
            await trio.sleep(0.6)  # by now a frame is half written, and its writer cancelled
            gate.set()
        with trio.fail_after(5):
            stream = await open_stream(a, b, ECHO)
            await stream.write(b"still here")
            assert await stream.read(100) == b"still here"


async def test_a_peer_that_takes_no_bytes_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "WRITE_STALL_S", 0.3)

    async def fill(muxed: GuardedYamux) -> None:
        while True:
            await muxed._write_frame(bytes(100_000))

    async def frozen() -> bytes:
        await trio.sleep_forever()
        return b""

    async with connected() as (a, b):
        # From the next read on b takes nothing, as if the process had stopped.
        monkeypatch.setattr(tcp_of(muxed_of(b)), "_receive", frozen)
        with trio.fail_after(5), pytest.raises(ConnectionClosedError):
            await fill(muxed := muxed_of(a))
        with trio.fail_after(1):
            await muxed.event_closed.wait()


async def test_many_connections_are_closed_together_and_frozen_peers_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def frozen() -> bytes:
        await trio.sleep_forever()
        return b""

    async def fill(muxed: GuardedYamux) -> None:
        with suppress(ConnectionClosedError):
            while True:
                await muxed._write_frame(bytes(100_000))

    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(host()) for _ in range(12)]
        mine = await stack.enter_async_context(host(listen=False))
        for peer in peers:
            await mine.dial(peer.get_addrs()[0], peer.get_id())
        monkeypatch.setattr(tcp_of(muxed_of(peers[0])), "_receive", frozen)
        [conn] = mine.get_network().get_connections(peers[0].get_id())
        assert isinstance(conn.muxed_conn, GuardedYamux)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, conn.muxed_conn)
            await trio.sleep(0.3)
            started = trio.current_time()
            await mine.get_network().close()
            assert trio.current_time() - started < 3
        for peer in peers[1:]:
            await until(lambda peer=peer: not peer.get_network().connections)  # type: ignore[misc]


async def test_small_segments() -> None:
    async with host() as b, host(listen=False) as a:
        b.set_stream_handler(ECHO, echo)
        info = info_from_p2p_addr(b.get_addrs()[0])
        async with slow_proxy(int(info.addrs[0].value_for_protocol("tcp") or 0), 64) as proxy:
            await a.dial(proxy.addr, info.peer_id)
            stream = await open_stream(a, b, ECHO)
            body = os.urandom(60_000)
            got = bytearray()
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.write, body)
                    while len(got) < len(body):
                        got += await stream.read(65536)
            assert bytes(got) == body


async def test_read_exactly_counts_bytes_not_pieces() -> None:
    class Reader:
        def __init__(self, data: bytes) -> None:
            self.data = data

        async def read(self, n: int) -> bytes:
            piece, self.data = self.data[:1], self.data[1:]
            return piece

    assert await read_exactly(Reader(bytes(500)), 500) == bytes(500)
    with pytest.raises(IncompleteReadError):
        await read_exactly(Reader(bytes(499)), 500)


async def test_a_handler_that_fails_takes_its_stream_and_nothing_else() -> None:
    async def boom(stream: NetStream) -> None:
        raise RuntimeError("bug")

    async with connected() as (a, b):
        b.set_stream_handler("/test/boom/1", boom)
        b.set_stream_handler(ECHO, echo)
        stream = await open_stream(a, b, "/test/boom/1")
        with pytest.raises(StreamError):
            await stream.read(1)
        # Not UTF-8: the library's own negotiation raises UnicodeDecodeError.
        [conn] = a.get_network().get_connections(b.get_id())
        bad = await conn.new_stream()
        await bad.write(b"\x13/multistream/1.0.0\n\x04\xff\xfe\xfd\n")
        stream = await open_stream(a, b, ECHO)
        await stream.write(b"alive")
        assert await stream.read(10) == b"alive"


def idle(conn: INetConn) -> bool:
    assert isinstance(conn.muxed_conn, GuardedYamux)
    return not conn.muxed_conn.streams and not conn.get_streams()


async def test_streams_leave_nothing_behind() -> None:
    async def one_word(stream: NetStream) -> None:
        await stream.write(b"word")

    async with connected() as (a, b):
        b.set_stream_handler("/test/word/1", one_word)
        for _ in range(100):
            stream = await open_stream(a, b, "/test/word/1")
            assert await stream.read(10) == b"word"
            await stream.close()
            await stream.reset()
        for here in (a, b):
            [conn] = here.get_network().get_connections()
            await until(partial(idle, conn))


async def test_a_dial_takes_no_longer_than_the_handshake() -> None:
    async with host() as b, host(listen=False) as a:
        await a.connect(info_from_p2p_addr(b.get_addrs()[0]))
        await a.disconnect(b.get_id())
        started = trio.current_time()
        await a.connect(info_from_p2p_addr(b.get_addrs()[0]))
        assert trio.current_time() - started < 0.2


async def test_one_address_one_node() -> None:
    async with host() as a:
        addr = str(a.get_transport_addrs()[0])
        with pytest.raises(ConfigError, match="in use"):
            async with host(addr=addr):
                pass
    with pytest.raises(OSError, match="all attempts"):
        await trio.open_tcp_stream("127.0.0.1", int(addr.rpartition("/")[2]))


async def test_a_node_can_start_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that it closed linger in TIME_WAIT."""
    monkeypatch.setattr(swarm_of_ours, "HANDSHAKE_S", 0.1)
    async with host() as b:
        addr = str(b.get_transport_addrs()[0])
        silent = await trio.open_tcp_stream("127.0.0.1", int(addr.rpartition("/")[2]))
        with trio.fail_after(2):
            while await silent.receive_some():
                pass
        await silent.aclose()
    async with host(addr=addr):
        pass


@pytest.mark.parametrize("addr", ["127.0.0.1:80", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1", ""])
async def test_addresses_that_cannot_be_listened_on(addr: str) -> None:
    with pytest.raises(ConfigError):
        async with host(addr=addr):
            pass


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_noise_and_nothing_else(protocol: str) -> None:
    async with host() as b:
        port = int(b.get_transport_addrs()[0].value_for_protocol("tcp") or 0)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"\x13/multistream/1.0.0\n")
        line = f"{protocol}\n".encode()
        await stream.send_all(bytes([len(line)]) + line)
        got = b""
        with trio.fail_after(2):
            while b"\x03na\n" not in got:
                data = await stream.receive_some()
                assert data
                got += data
        noise = b"/noise\n"
        await stream.send_all(bytes([len(noise)]) + noise)
        assert noise in await stream.receive_some()
        await stream.aclose()


def test_yamux_and_nothing_else() -> None:
    muxer = patches.GuardedMuxer({patches.YAMUX: GuardedYamux})
    assert list(muxer.transports) == ["/yamux/1.0.0"]
