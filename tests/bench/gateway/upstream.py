"""A synthetic OpenAI-compatible server, as fast as a Python process gets.

    python -m tests.bench.gateway.upstream

prints its port and serves until its input ends.  The last message says what to stream:
``tokens=200 every_ms=5`` streams 200 tokens, one each 5 ms; without a pace, as fast as they are
read.  Each token is the word `TOKEN`, in an event of its own, so that readers can count the words
however a gateway has put events together.
"""

import asyncio
import re
import sys
from typing import Final, cast

TOKEN: Final = " token"
"""One token of the tokenizer that counts, and one piece: it begins with its white space."""
MODEL: Final = "bench"
WORDS_PER_WRITE: Final = 16
"""Flat out: so many events go into one write."""

_SAID: Final = re.compile(rb"tokens=(\d+)(?: every_ms=(\d+))?")
_EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
_FIRST: Final = _EVENT.replace(b'"delta":{', b'"delta":{"role":"assistant",')
_MODELS: Final = b'{"object":"list","data":[{"id":"bench","object":"model","owned_by":"bench"}]}'
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """One caller: requests one after the other, as HTTP/1.1 keeps a connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._room.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        body, self._buffer = rest[:size], rest[size:]
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET "):
            self._whole(b"200 OK", _MODELS)
            return
        said = _SAID.findall(body)
        tokens, every_ms = said[-1] if said else (b"8", b"")
        limit = re.search(rb'"max_(?:completion_)?tokens": ?(\d+)', body)
        count = min(int(tokens), int(limit[1]) if limit else 10**9)
        if re.search(rb'"stream": ?true', body):
            self._task = asyncio.ensure_future(self._stream(count, int(every_ms or 0) / 1000))
        else:
            self._whole(b"200 OK", _whole_answer(count))

    def _whole(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)

    async def _stream(self, count: int, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._transport.write(_HEAD + _chunk(_FIRST))
        due_s, made = loop.time(), 1
        while made < count:
            if every_s:
                due_s += every_s
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                now = 1
            else:
                now = min(WORDS_PER_WRITE, count - made)
                await self._room.wait()
                await asyncio.sleep(0)
            self._transport.write(_chunk(_EVENT * now))
            made += now
        self._transport.write(_chunk(_last(count)) + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _last(count: int) -> bytes:
    return (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
        b'"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
        b'"choices":[],"usage":%s}\n\ndata: [DONE]\n\n' % _usage(count)
    )


def _whole_answer(count: int) -> bytes:
    return (
        b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{'
        b'"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"length"}],'
        b'"usage":%s}' % (TOKEN.encode() * count, _usage(count))
    )


def _usage(count: int) -> bytes:
    return b'{"prompt_tokens":10,"completion_tokens":%d,"total_tokens":%d}' % (count, 10 + count)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until whoever started it has gone


if __name__ == "__main__":
    asyncio.run(_serve())
