"""Carries the app over TCP: Hypercorn's HTTP/1.1 on connections of our own.

Hypercorn's own connections wait without an end for a client that reads nothing, answer a body that
is not read to its end by waiting for its rest, and speak HTTP/2 to whoever asks.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import WorkerContext

from node.adapters.http.asgi import HEADER_BYTES_MAX, JSON, App, Message, Scope
from node.adapters.http.errors import ApiError
from node.errors import ConfigError

CONNECTIONS_MAX: Final = 1024
"""If nobody says how many; more are hung up on."""
IDLE_S: Final = 15.0
"""From the start of a connection, or the end of a request, to the next request's last header."""
WRITE_S: Final = 30.0
"""A client that takes in nothing for so long is gone."""
READ_BYTES: Final = 64 * 1024
MESSAGES_MAX: Final = 4
"""Pieces of a body that wait for the app to take them; then the connection is not read."""


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """
    Raises:
        ConfigError: The address is not ours, or taken.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ConfigError(f"can't listen on {host} port {port}: {error.strerror}") from error


async def serve(
    app: App,
    listeners: list[trio.SocketListener],
    *,
    connections_max: int = CONNECTIONS_MAX,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled.

    Args:
        app: An ASGI app that raises nothing.
        listeners: From `listen`.
        connections_max: Open at once, idle ones among them.
        task_status: Started once it answers.
    """
    room = trio.CapacityLimiter(connections_max)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            room.acquire_nowait()
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            await _Connection(stream, app).run()
        finally:
            room.release()

    task_status.started()
    await trio.serve_listeners(handle, listeners)


def _config() -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.include_server_header = False
    config.errorlog = None  # the guard has a log line for each, without what was asked
    return config


class _Protocol(H11Protocol):
    """HTTP/1.1 and nothing else; what is no HTTP gets a body that says so."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Offers of HTTP/2 are not taken up."""

    async def _send_error_response(self, status_code: int) -> None:
        # 501 (an encoding that nobody knows) would be tried again by clients.
        status = status_code if status_code < 500 else 400
        error = ApiError(status, "not a request that can be read", code="bad_request")
        body = error.body()
        headers = [JSON, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Connection:
    """One client's connection, over all its requests."""

    def __init__(self, stream: trio.SocketStream, app: App) -> None:
        self._stream = stream
        self._app = app
        self._writing = trio.Lock()
        self._idle = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Until either side has had enough."""
        async with self._stream, trio.open_nursery() as nursery:
            self._nursery = nursery
            protocol = _Protocol(
                cast(Any, self._app),
                _config(),
                cast(Any, WorkerContext(None)),
                cast(Any, self),
                cast(Any, {}),
                False,
                None,
                None,
                self._on_event,
            )
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._read(protocol)
            await protocol.handle(Closed())

    async def _read(self, protocol: H11Protocol) -> None:
        self._idle.deadline = trio.current_time() + IDLE_S
        with self._idle:
            while data := await self._stream.receive_some(READ_BYTES):
                await protocol.handle(RawData(data=bytes(data)))

    async def _on_event(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._write(data)
            case Updated(idle=idle):
                self._idle.deadline = trio.current_time() + (IDLE_S if idle else math.inf)
            case Closed():
                await self._close()

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            try:
                with trio.fail_after(WRITE_S):
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await self._close()

    async def _close(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._stream.send_eof()
        await trio.aclose_forcefully(self._stream)  # ends what is being read, too

    # ---------------------------------------------------------- what Hypercorn asks a task group

    async def spawn_app(
        self, app: App, _config: Config, scope: Scope, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Message], Awaitable[None]]:
        """Start the app on a request; returns what takes the request's events."""
        put, get = trio.open_memory_channel[Message](MESSAGES_MAX)

        async def run() -> None:
            try:
                async with get:
                    await app(scope, get.receive, send)
            finally:
                await send(None)

        async def take(message: Message) -> None:
            # The rest of a request whose answer is complete interests nobody.
            with suppress(trio.BrokenResourceError):
                await put.send(message)

        self._nursery.start_soon(run)
        return take

    def spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start a task of the connection's."""
        self._nursery.start_soon(function, *args)
