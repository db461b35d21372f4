"""Clients of the gateway that leave in mid-stream: the engines stop, and only what came is paid."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from devnet import network
from node.app import receipts
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]

SLOTS: Final = 80
QUANTUM_MICRO: Final = 500
TOKENS: Final = 1500
STOP_S: Final = 1.0
"""From the last client's leaving to the engines' standing still."""
SETTINGS: Final = {
    "engine.slots": SLOTS,
    "engine.tokens_per_s_max": 2.0,  # so that nobody is done before they leave
    "worker.jobs_per_client_max": 2 * SLOTS,
    "worker.price_in": 1_000,
    "worker.price_cached": 1_000,
    "worker.price_out": 1_000_000,  # a micro per token: a quantum is a third of an answer
    "worker.quantum_micro": QUANTUM_MICRO,
    "worker.credit_micro": 10_000_000,
    "worker.credit_new_micro": 10_000_000,
}


@pytest.fixture(scope="module")
def net() -> Iterator[network.Devnet]:
    settings = {"gateway.requests_max": 512}
    options = network.Options(workers=3, worker_settings=SETTINGS, client_settings=settings)
    with network.up(options) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(net: network.Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_up(str(net.client_home), tmp_path_factory.mktemp("gateway") / "log") as running:
        yield running


@dataclass
class Left:
    """What a client had when it left."""

    job: str = ""
    tokens: int = 0
    failure: str = ""
    buffer: bytearray = field(default_factory=bytearray)

    def take(self, part: bytes) -> None:
        """Count the tokens of the events that are whole now."""
        self.buffer += part
        while (at := self.buffer.find(b"\n\n")) >= 0:
            event = bytes(self.buffer[:at])
            del self.buffer[: at + 2]
            data = event[event.find(b"data: ") + 6 :] if b"data: " in event else b""
            if data.startswith(b"{"):
                self._event(json.loads(data))

    def _event(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.failure = event["error"]["message"]
            return
        self.job = event["id"].removeprefix("chatcmpl-")
        told = [choice["logprobs"] for choice in event["choices"] if choice["logprobs"]]
        self.tokens += sum(len(each["content"]) for each in told)


async def read_and_leave(gateway: Gateway, model: str, left: Left, *, until: trio.Event) -> None:
    """Read a stream until told to leave, from a connection that is then cut."""
    body = {
        "model": model, "stream": True, "max_tokens": TOKENS, "ignore_eos": True, "logprobs": True,
        "messages": [{"role": "user", "content": "What is a voucher?"}],
    }  # fmt: skip
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{JSON}{len(data)}\r\n\r\n"
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    async with trio.open_nursery() as nursery:
        await stream.send_all(head.encode() + data)

        async def read() -> None:
            while part := await stream.receive_some(65_536):
                left.take(part)
            left.failure = left.failure or f"ended: {bytes(left.buffer)[:600]!r}"

        nursery.start_soon(read)
        await until.wait()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


JSON: Final = "content-type: application/json\r\ncontent-length: "


def jobs(net: network.Devnet) -> list[dict[str, int]]:
    """Of every worker."""
    return [worker.process.ask("status")["jobs"] for worker in net.workers]


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_those_who_leave_pay_for_what_came(
    net: network.Devnet, gateway: Gateway, count: int
) -> None:
    model = net.workers[0].process.ask("status")["models"][0]["name"]
    clients = [Left() for _ in range(count)]
    left_s = 0.0

    async def all_of() -> None:
        nonlocal left_s
        leave = trio.Event()
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                # A worker takes awards of one client at a bounded rate.
                await trio.sleep(0.02 if number < 100 else 0.05)
                nursery.start_soon(_client, client, leave)
            with trio.fail_after(120):
                while not all(client.tokens for client in clients):
                    assert not [c.failure for c in clients if c.failure]
                    await trio.sleep(0.05)
            # More where an acceptance was late, and another worker was asked as well.
            assert sum(each["active"] for each in jobs(net)) >= count
            left_s = time.monotonic()
            leave.set()

    async def _client(client: Left, leave: trio.Event) -> None:
        await read_and_leave(gateway, model, client, until=leave)

    trio.run(all_of)
    assert stopped_after_s(net, left_s) <= STOP_S
    for client in clients:
        check_paid(net, client)


def stopped_after_s(net: network.Devnet, left_s: float) -> float:
    """From then until no engine has a job, running or waiting."""
    while any(each["computing"] or each["queued"] for each in jobs(net)):
        assert time.monotonic() < left_s + 30, "the engines go on"
        time.sleep(0.02)
    stopped_s = time.monotonic() - left_s
    while any(
        worker.process.ask("status")["sales"]["slots_free"] < SLOTS for worker in net.workers
    ):
        assert time.monotonic() < left_s + 30, "slots are taken"
        time.sleep(0.02)
    free_s = time.monotonic() - left_s
    print(f"engines stopped after {stopped_s:.2f} s, slots free after {free_s:.2f} s")
    return stopped_s


def check_paid(net: network.Devnet, client: Left) -> None:
    """Its transcript: everything that came is paid, and at most one quantum more."""
    file = Path(net.client_home) / "transcripts" / f"{client.job}{receipts.TRANSCRIPT_SUFFIX}"
    until_s = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < until_s, "no transcript"
        time.sleep(0.05)
    row = receipts.row(file, receipts.read(file))
    price_in, price_out = SETTINGS["worker.price_in"], SETTINGS["worker.price_out"]
    came_micro = -(-(row.tokens_in * price_in + client.tokens * price_out) // 10**6)
    assert client.tokens <= row.tokens_out < TOKENS
    assert came_micro <= row.paid_micro <= came_micro + QUANTUM_MICRO
