"""Callers of an OpenAI-compatible server: streams and requests, timed at their arrival.

They count the upstream's words in the raw bytes, whatever events a gateway made of them, so that a
fast gateway is not held up by the one that measures it.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.gateway.upstream import TOKEN

WORD: Final = TOKEN.encode()
STREAM_S: Final = 120.0
_READ: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to call."""

    port: int
    model: str
    key: str = ""

    def request(
        self, *, tokens: int, every_ms: int = 0, stream: bool = True, salt: str = ""
    ) -> bytes:
        """One request, headers and all.

        Args:
            tokens: How many words the upstream is to make.
            every_ms: Its pace; 0 for none.
            stream: Whether the answer comes as events.
            salt: Makes the prompt another one.
        """
        pace = f" every_ms={every_ms}" if every_ms else ""
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": f"{salt} tokens={tokens}{pace}"}],
                "max_tokens": tokens,
                "stream": stream,
            }
        ).encode()
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"{key}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True, kw_only=True)
class Streamed:
    """One answer, as it arrived."""

    began_s: float
    first_s: float = 0.0
    """When the first word was there."""
    ended_s: float = 0.0
    words: int = 0
    gaps_s: list[float] = field(default_factory=list)
    """Between arrivals of words."""
    failure: str = ""

    @property
    def first_token_s(self) -> float:
        return self.first_s - self.began_s


class Caller:
    """One connection, kept."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, request: bytes) -> Streamed:
        """Send a request and read its answer to the end."""
        answer = Streamed(began_s=time.perf_counter())
        try:
            async with asyncio.timeout(STREAM_S):
                await self._call(request, answer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            answer.failure = f"{type(error).__name__}: {error}"
        if answer.failure:
            await self.close()
        answer.ended_s = time.perf_counter()
        return answer

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _call(self, request: bytes, answer: Streamed) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._target.port
            )
        assert self._reader is not None
        answer.began_s = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            answer.failure = head.partition(b"\r\n")[0].decode()
            return
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length is not None:
            body = await self._reader.readexactly(int(length[1]))
            answer.words = body.count(WORD)
            answer.first_s = time.perf_counter()
            return
        await self._read_events(answer)
        if b"connection: close" in head.lower():
            await self.close()

    async def _read_events(self, answer: Streamed) -> None:
        assert self._reader is not None
        tail, last_s = b"", 0.0
        while not tail.endswith(b"0\r\n\r\n"):
            data = await self._reader.read(_READ)
            if not data:
                if b"[DONE]" not in tail:
                    answer.failure = "cut off"
                await self.close()
                return
            now_s = time.perf_counter()
            # Words that two reads share begin in what was kept of the first.
            words = (tail[-(len(WORD) - 1) :] + data).count(WORD)
            tail = (tail + data)[-64:]
            if words:
                if answer.words:
                    answer.gaps_s.append(now_s - last_s)
                else:
                    answer.first_s = now_s
                answer.words += words
                last_s = now_s


async def streams(
    target: Target, *, count: int, tokens: int, every_ms: int = 0, stagger_s: float = 0.0
) -> list[Streamed]:
    """So many streams side by side, each on a connection of its own."""

    async def one(number: int) -> Streamed:
        await asyncio.sleep(stagger_s * number / count)
        caller = Caller(target)
        try:
            return await caller.call(
                target.request(tokens=tokens, every_ms=every_ms, salt=f"s{number}")
            )
        finally:
            await caller.close()

    return list(await asyncio.gather(*map(one, range(count))))


async def in_turn(target: Target, *, count: int, tokens: int, every_ms: int) -> list[Streamed]:
    """Streams one after the other on one connection."""
    caller = Caller(target)
    request = target.request(tokens=tokens, every_ms=every_ms)
    done = [await caller.call(request) for _ in range(count)]
    await caller.close()
    return done


async def requests(target: Target, *, callers: int, each: int, tokens: int) -> list[Streamed]:
    """Whole answers, by callers that ask again as soon as they have one."""

    async def one() -> Sequence[Streamed]:
        caller = Caller(target)
        request = target.request(tokens=tokens, stream=False)
        done = [await caller.call(request) for _ in range(each)]
        await caller.close()
        return done

    rounds = await asyncio.gather(*(one() for _ in range(callers)))
    return [answer for done in rounds for answer in done]
