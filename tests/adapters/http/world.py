"""The HTTP side without a network: a market that follows a script, and a client of the app."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from node.adapters.http.errors import ApiError
from node.adapters.http.guard import Guard
from node.adapters.http.port import Ask, Customer, Ended, LastResort, Sink, Started, TokenText
from node.adapters.http.routes import routes
from node.adapters.http.runs import Runs
from node.protocol.tool_calls import CallPart

WORKER = "0x" + "ab" * 20
BODY_BYTES_MAX = 64 * 1024
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Script:
    """How an answer goes."""

    pieces: Sequence[str | CallPart] = ("Hel", "lo")
    tokens: Sequence[tuple[TokenText, ...]] = ()
    step_s: float = 0.1
    error: ApiError | None = None
    failure: str = ""
    finish: Any = "stop"
    taken_over: LastResort | None = None
    """From the second piece on."""


class FakeJob:
    """`port.Job` by a script."""

    def __init__(self, desk: "FakeDesk", sink: Sink, number: int) -> None:
        self.desk, self.sink, self.number = desk, sink, number
        self.cancelled = ""
        self.over = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> Ended:
        script = self.desk.script
        self.desk.running += 1
        started = Started(job_id=f"{self.number:032x}", model="m", provider=WORKER)
        shown = 0
        with self._scope:
            await trio.sleep(script.step_s)
            if script.error is not None:
                self.desk.running -= 1
                raise script.error
            self.sink.started(started)
            tokens = script.tokens or ((),) * len(script.pieces)
            for piece, told in zip(script.pieces, tokens, strict=True):
                if isinstance(piece, CallPart):
                    self.sink.call(piece)
                else:
                    self.sink.write(piece, told)
                shown += 1
                if shown == 1 and script.taken_over:
                    await trio.sleep(script.step_s)
                    started = replace(
                        started, model="own", provider="upstream", last_resort=script.taken_over
                    )
                    self.sink.started(started)
                await trio.sleep(script.step_s)
        self.desk.running -= 1
        self.over.set()
        cut = bool(self.cancelled)
        return Ended(
            started=started,
            finish="cancelled" if cut else script.finish,
            failure=self.cancelled or script.failure,
            tokens_in=3,
            tokens_cached=1,
            tokens_out=shown,
            cost_micro=10 * shown,
            receipt=f"/r/{self.number}.transcript",
        )

    async def cancel(self, why: str) -> None:
        self.cancelled = self.cancelled or why
        self._scope.cancel()


@dataclass
class FakeDesk:
    """`port.Desk` by a script; remembers what it was asked."""

    script: Script = field(default_factory=Script)
    asks: list[Ask] = field(default_factory=list)
    customers: list[Customer] = field(default_factory=list)
    bought: list[FakeJob] = field(default_factory=list)
    running: int = 0

    def jobs(self, ask: Ask, sinks: tuple[Sink, ...], customer: Customer) -> tuple[FakeJob, ...]:
        self.asks.append(ask)
        self.customers.append(customer)
        made = tuple(FakeJob(self, sink, len(self.bought) + n) for n, sink in enumerate(sinks))
        self.bought += made
        return made

    async def models(self) -> list[dict[str, Any]]:
        return [{"id": "org/m", "x_model_id": "0x00"}]

    async def endpoints(self, name: str) -> dict[str, Any]:
        return {"id": name, "endpoints": []}

    async def generation(self, job_id: str) -> dict[str, Any]:
        return {"id": job_id}


@dataclass
class FakeKeys:
    """`port.Keys`: one key, or none needed."""

    secret: str = ""

    @property
    def needed(self) -> bool:
        return bool(self.secret)

    def find(self, secret: str) -> Customer | None:
        return Customer(key_id="k1") if secret == self.secret else None


@dataclass
class Reply:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    writes: list[bytes] = field(default_factory=list)
    done: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert found.keys() == {"message", "type", "param", "code"}
        return found

    @property
    def events(self) -> list[Any]:
        """The data of all events; comments left out."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        data = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]

    @property
    def text(self) -> str:
        """Of a stream of a chat with one answer."""
        choices = [choice for chunk in self.events[:-1] for choice in chunk["choices"]]
        return "".join(choice["delta"].get("content", "") for choice in choices)


@dataclass
class World:
    """A gateway's app, and the market behind it."""

    desk: FakeDesk
    guard: Guard
    runs: Runs

    async def ask(
        self,
        path: str,
        document: Any = None,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        body: Sequence[bytes] | None = None,
        leave_s: float = float("inf"),
        query: str = "",
    ) -> Reply:
        """One request, and the whole answer; the client leaves after a time."""
        sent = {"host": "localhost:8411", "content-type": "application/json", **(headers or {})}
        pieces = [json.dumps(document).encode()] if body is None else list(body)
        if method == "GET":
            pieces = []
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in sent.items() if v],
            "state": {},
        }
        reply = Reply()
        leaves_s = trio.current_time() + leave_s

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": True}
            if not scope.get("ended"):
                scope["ended"] = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await trio.sleep_until(leaves_s)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert not reply.status, "two responses"
                reply.status = message["status"]
                reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
                return
            assert reply.status, "a body before its status"
            assert not reply.done, "more after the end"
            reply.body += message.get("body", b"")
            if message.get("body"):
                reply.writes.append(message["body"])
            reply.done = not message.get("more_body", False)
            await trio.lowlevel.checkpoint()

        await self.guard(scope, receive, send)
        return reply

    async def chat(self, **fields: Any) -> Reply:
        """A chat completion."""
        return await self.ask("/v1/chat/completions", QUESTION | fields)


async def world(nursery: trio.Nursery, *, keys: str = "", requests_max: int = 8) -> World:
    """A gateway's app at work in a nursery."""
    desk = FakeDesk()
    runs = Runs(desk)
    await nursery.start(runs.run)
    guard = Guard(
        routes(desk, runs, body_bytes_max=BODY_BYTES_MAX),
        keys=FakeKeys(keys),
        hosts=("gateway.example",),
        origins=("https://chat.example",),
        requests_max=requests_max,
    )
    return World(desk=desk, guard=guard, runs=runs)
