"""The app over real connections: what only those can do wrong."""

import json
import resource
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import pytest
import trio

from node.adapters.http import server
from node.errors import ConfigError
from tests.adapters.http.world import QUESTION, World, world

Stream = trio.SocketStream


class Open:
    """A gateway that listens."""

    def __init__(self, w: World, port: int) -> None:
        self.w, self.port = w, port

    async def connect(self) -> Stream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@pytest.fixture
async def gate(nursery: trio.Nursery) -> AsyncIterator[Open]:
    w = await world(nursery)
    listeners = await server.listen("127.0.0.1", 0)
    await nursery.start(server.serve, w.guard, listeners)
    yield Open(w, listeners[0].socket.getsockname()[1])
    nursery.cancel_scope.cancel()


def post(body: bytes, *, length: int | None = None, path: str = "/v1/chat/completions") -> bytes:
    size = len(body) if length is None else length
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    return head.encode() + body


ASK = post(json.dumps(QUESTION).encode())


async def response(stream: Stream) -> tuple[int, bytes]:
    """One response whose length is told."""
    data = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in data:
            part = await stream.receive_some()
            if not part:
                return 0, data
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(h.split(b":")[1]) for h in lines if h.startswith(b"content-length"))
        while len(body) < length:
            body += await stream.receive_some()
    return int(head.split()[1]), body


async def test_requests_share_a_connection(gate: Open) -> None:
    async with await gate.connect() as stream:
        for _ in range(3):
            await stream.send_all(ASK)
            status, body = await response(stream)
            assert (status, json.loads(body)["object"]) == (200, "chat.completion")
        await stream.send_all(post(b"{}"))
        assert (await response(stream))[0] == 400
        await stream.send_all(ASK)
        assert (await response(stream))[0] == 200


async def test_a_stream_is_chunked(gate: Open) -> None:
    asked = json.dumps(QUESTION | {"stream": True}).encode()
    data = b""
    async with await gate.connect() as stream:
        await stream.send_all(post(asked))
        with trio.fail_after(10):
            while not data.endswith(b"0\r\n\r\n"):
                data += await stream.receive_some()
    assert b"transfer-encoding: chunked" in data.lower()
    assert data.count(b"data: ") == 4


async def test_a_client_that_hangs_up_ends_its_job(gate: Open) -> None:
    gate.w.desk.script.pieces = ("x",) * 600
    async with await gate.connect() as stream:
        await stream.send_all(post(json.dumps(QUESTION | {"stream": True}).encode()))
        await stream.receive_some()
        assert gate.w.desk.running == 1
    with trio.fail_after(1):
        await gate.w.desk.bought[0].over.wait()
    assert gate.w.desk.bought[0].cancelled == "the client left"


async def test_64_mib_are_refused_and_not_kept(gate: Open) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size, sent = 64 * 1024 * 1024, 0
    async with await gate.connect() as stream:
        await stream.send_all(post(b"", length=size))
        with trio.move_on_after(5), suppress(trio.BrokenResourceError):
            while sent < size:
                await stream.send_all(b" " * 65536)
                sent += 65536
        status, body = await response(stream)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    assert not gate.w.desk.asks
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 20 * 1024


async def test_chunks_without_an_end_are_refused(gate: Open) -> None:
    head = ASK.split(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    async with await gate.connect() as stream:
        await stream.send_all(head)
        for _ in range(40):
            await stream.send_all(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert (await response(stream))[0] == 413


async def test_a_body_of_two_lengths_is_refused_at_once(gate: Open) -> None:
    head = ASK.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length")
    async with await gate.connect() as stream:
        await stream.send_all(head)
        with trio.fail_after(5):
            status, body = await response(stream)
    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")
    assert not gate.w.desk.asks


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999999999999999\r\n\r\n",
    ],
)
async def test_what_is_no_request_gets_a_body_that_says_so(gate: Open, data: bytes) -> None:
    async with await gate.connect() as stream:
        await stream.send_all(data)
        status, body = await response(stream)
    assert 400 <= status < 500
    assert json.loads(body)["error"]["message"]
    assert not gate.w.desk.asks


async def test_offers_of_http_2_are_not_taken_up(gate: Open) -> None:
    head = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    async with await gate.connect() as stream:
        await stream.send_all(head)
        assert await response(stream) == (200, b'{"status":"ok"}')


async def test_a_websocket_is_not_opened(gate: Open) -> None:
    head = (
        b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    async with await gate.connect() as stream:
        await stream.send_all(head)
        with trio.fail_after(5):
            assert b"403" in await stream.receive_some()


async def test_headers_that_do_not_come_are_not_waited_for(
    gate: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    async with await gate.connect() as stream:
        with trio.fail_after(5):
            for byte in b"GET /healthz HTTP":
                try:
                    await stream.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    break
                await trio.sleep(0.05)
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""


async def test_a_client_that_reads_nothing_is_gone(
    gate: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WRITE_S", 0.2)
    gate.w.desk.script.pieces, gate.w.desk.script.step_s = ("x" * 100_000,) * 400, 0.01
    async with await gate.connect() as stream:
        await stream.send_all(post(json.dumps(QUESTION | {"stream": True}).encode()))
        await stream.receive_some(1)
        with trio.fail_after(15):
            await gate.w.desk.bought[0].over.wait()
    assert gate.w.desk.bought[0].cancelled == "the client left"


async def test_no_more_connections_than_there_is_room_for(
    gate: Open, nursery: trio.Nursery
) -> None:
    listeners = await server.listen("127.0.0.1", 0)
    await nursery.start(partial(server.serve, gate.w.guard, listeners, connections_max=2))
    port = listeners[0].socket.getsockname()[1]
    streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
    with trio.fail_after(5):
        assert await streams[2].receive_some() == b""
    await streams[0].send_all(ASK)
    assert (await response(streams[0]))[0] == 200
    for stream in streams:
        await stream.aclose()


async def test_a_taken_port_is_a_setting(gate: Open) -> None:
    with pytest.raises(ConfigError, match=f"port {gate.port}"):
        await server.listen("127.0.0.1", gate.port)
