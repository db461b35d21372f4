"""`scripts/fuzz-gateway`: a gateway and a worker of their own, and requests that are wrong.

Every answer must be a 4xx with OpenAI's error body (or, where what was sent is no HTTP, the end of
the connection), nothing may come to the worker, and the gateway's memory must stay what it was.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from devnet import network
from tests.e2e.gateway_process import Gateway, gateway_up
from tests.fuzz.gateway_requests import CHAT, Request, Requests

AT_ONCE: Final = 8
ANSWER_S: Final = 40.0
"""Longer than a slow body is waited for."""
REPLY_BYTES_MAX: Final = 1024 * 1024
ERROR_KEYS: Final = {"message", "type", "param", "code"}
WARM: Final = 200
WARM_BIG: Final = 2 * AT_ONCE
"""Requests after which the memory is looked at for the first time: what bodies of the longest kind
that is allowed took side by side, an allocator keeps for the next ones."""
GROWTH_MB_MAX: Final = 12.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of all requests."""

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """By status, or `closed`."""
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory_before_mb: float = 0.0
    memory_after_mb: float = 0.0
    memory_most_mb: float = 0.0

    @property
    def grown_mb(self) -> float:
        """From when it was warm to the end."""
        return self.memory_after_mb - self.memory_before_mb

    @property
    def passed(self) -> bool:
        """All answers were right, nothing was sold, and no memory was kept."""
        return not self.faults and self.grown_mb <= GROWTH_MB_MAX

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "requests": self.requests,
            "statuses": dict(sorted(self.statuses.items())),
            "kinds": dict(sorted(self.kinds.items())),
            "memory_before_mb": round(self.memory_before_mb, 1),
            "memory_most_mb": round(self.memory_most_mb, 1),
            "memory_after_mb": round(self.memory_after_mb, 1),
            "faults": self.faults,
            "passed": self.passed,
        }


async def fuzz(
    gateway: Gateway, *, model: str, count: int, big: int, slow: int, seed: int
) -> Result:
    """Send them, some at a time.

    Args:
        gateway: To whom.
        model: A name that is sold.
        count: Requests in all, those of the next two among them.
        big: Of 64 MiB.
        slow: That come a byte at a time.
        seed: Decides all of them.
    """
    requests, result = Requests(seed=seed, model=model, port=gateway.port), Result()
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(request: Request) -> None:
        try:
            await _one(gateway, request, result)
        finally:
            limiter.release_on_behalf_of(request)
            result.memory_most_mb = max(result.memory_most_mb, memory_mb(gateway))

    async def all_of(made: list[Request]) -> None:
        async with trio.open_nursery() as nursery:
            for request in made:
                await limiter.acquire_on_behalf_of(request)
                nursery.start_soon(one, request)

    async def slowly() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(slow):
                nursery.start_soon(_one, gateway, requests.slow(), result)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slowly)
        warm, warm_big = min(WARM, count // 2), min(WARM_BIG, big)
        await all_of([requests.small() for _ in range(warm)])
        await all_of([requests.big() for _ in range(warm_big)])
        result.memory_before_mb = memory_mb(gateway)
        rest = max(0, count - warm - big - slow)
        await all_of([requests.big() for _ in range(big - warm_big)])
        for at in range(0, rest, 500):
            await all_of([requests.small() for _ in range(min(500, rest - at))])
    result.memory_after_mb = memory_mb(gateway)
    return result


async def _one(gateway: Gateway, request: Request, result: Result) -> None:
    result.requests += 1
    result.kinds[request.kind] += 1
    reply = b""
    with trio.move_on_after(ANSWER_S) as timed:
        reply = await _exchange(gateway.port, request)
    said = "no answer" if timed.cancelled_caught else _verdict(reply, request)
    status = reply[9:12].decode("latin-1") if reply.startswith(b"HTTP/1.1 ") else "closed"
    result.statuses[status] += 1
    if said:
        result.faults.append(f"{request.kind}: {said}: {next(request.pieces())[:300]!r}")


async def _exchange(port: int, request: Request) -> bytes:
    """All that the gateway answers; a sender that is refused stops sending."""
    reply = bytearray()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            try:
                for number, piece in enumerate(request.pieces()):
                    if number and request.pause_s:
                        await trio.sleep(request.pause_s)
                    await stream.send_all(piece)
                if request.ends:
                    await stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

        nursery.start_soon(send)
        try:
            while not _whole(bytes(reply)) and len(reply) < REPLY_BYTES_MAX:
                part = await stream.receive_some(65_536)
                if not part:
                    break
                reply += part
        except trio.BrokenResourceError:
            pass
        nursery.cancel_scope.cancel()
    return bytes(reply)


def _whole(reply: bytes) -> bool:
    head, found, body = reply.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(found and length) and len(body) >= int(length[0].partition(b":")[2])


def _verdict(reply: bytes, request: Request) -> str:
    """What is wrong with an answer; empty for nothing."""
    if not reply:
        return "" if request.may_close else "no answer"
    head, _, body = reply.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 4"):
        return f"answered {head[:60]!r}"
    try:
        error = json.loads(body)["error"]
        right = error.keys() == ERROR_KEYS and len(error["message"]) > 5 and error["code"]
    except (ValueError, KeyError, TypeError, AttributeError):
        right = False
    return "" if right else f"no error body: {body[:200]!r}"


def memory_mb(gateway: Gateway) -> float:
    """Resident."""
    pages = int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def check_untouched(result: Result, ask: Callable[[], Any], before: Any) -> None:
    """A worker's own counters are what they were."""
    after = ask()
    if after != before:
        result.faults.append(f"something came to the worker: {before} before, {after} after")


def counters(worker: network.Worker) -> dict[str, Any]:
    """What a worker has been asked for and has sold."""
    status = worker.process.ask("status")
    sales, jobs = status["sales"], status["jobs"]
    return {name: sales[name] for name in ("asks", "bids")} | {"awards": jobs["awards"]}


async def serves(gateway: Gateway, model: str) -> bool:
    """Whether an honest request still gets its answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    whole = head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data
    with trio.fail_after(ANSWER_S):
        reply = await _exchange(gateway.port, Request(kind="honest", pieces=lambda: iter((whole,))))
    return reply.startswith(b"HTTP/1.1 200")


def run(*, count: int, big: int, slow: int, seed: int) -> Result:
    """All of it, on a devnet of one worker."""
    with (
        tempfile.TemporaryDirectory() as folder,
        network.up(network.Options(workers=1)) as net,
        gateway_up(str(net.client_home), Path(folder) / "log") as gateway,
    ):
        [worker] = net.workers
        model = worker.process.ask("status")["models"][0]["name"]
        if not trio.run(serves, gateway, model):
            raise RuntimeError("the gateway does not serve")
        before = counters(worker)

        async def all_of() -> Result:
            return await fuzz(gateway, model=model, count=count, big=big, slow=slow, seed=seed)

        result = trio.run(all_of)
        check_untouched(result, lambda: counters(worker), before)
        if not trio.run(serves, gateway, model):
            result.faults.append("the gateway serves no more")
    return result


def main() -> int:
    """0 only if every answer was right."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz-gateway", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--big", type=int, default=40, help="of them with 64 MiB (40)")
    parser.add_argument("--slow", type=int, default=20, help="of them a byte at a time (20)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    result = run(count=options.requests, big=options.big, slow=options.slow, seed=options.seed)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        for name, count in sorted(result.statuses.items()):
            print(f"{name:>8} {count:>8,}")
        print(
            f"memory   {result.memory_before_mb:.1f} MB when warm, {result.memory_most_mb:.1f} at "
            f"most, {result.memory_after_mb:.1f} at the end"
        )
        for fault in result.faults[:20]:
            print(f"FAULT    {fault}")
        print("passed" if result.passed else f"FAILED ({len(result.faults)} faults)")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
