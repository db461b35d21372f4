"""The control socket: other commands of a home ask its owner, one JSON line each way.

For what takes long the owner tells events, a line each, before the line with the result
(`control_stream`).  Only the home's user gets to the socket, so its errors are our own bugs; the
bounds are there all the same.
"""

import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from node.app.control_call import NotRunning, call, error_to_json, reachable
from node.app.control_stream import Follower, StreamHandler, read_body
from node.app.home import Home
from node.errors import ConfigError, NodeError

__all__ = ["Follower", "Handler", "NotRunning", "StreamHandler", "call", "serve_control"]

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes a request's parameters, returns what JSON can hold, raises NodeError."""

_REQUEST_BYTES_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 512
"""More are hung up on: each is a descriptor."""
_ANSWERS_MAX: Final = 16
"""Being answered at once; the others wait."""
_STREAMS_MAX: Final = 64
"""The same of what takes long; its connections are not counted among those."""
_REQUEST_S: Final = 5.0


async def serve_control(
    home: Home,
    handlers: Mapping[str, Handler],
    streams: Mapping[str, StreamHandler] | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the home's socket until cancelled.  The caller owns the home.

    Args:
        home: Its `socket` is made, mode 0600.
        handlers: By method name.
        streams: The methods that take long, likewise.
        task_status: Started once it listens.

    Raises:
        ConfigError: The socket can't be made.
    """
    connections = trio.CapacityLimiter(_CONNECTIONS_MAX)
    desk = _Desk(handlers, streams or {})

    async def answer(stream: trio.SocketStream) -> None:
        try:
            connections.acquire_nowait()
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            # The other end is a command that may be interrupted at any time.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async with stream:
                    await desk.answer(stream)
        finally:
            connections.release()

    try:
        listening = await _listen(home)
    except OSError as error:
        raise ConfigError(f"can't make {home.socket}: {error.strerror}") from error
    task_status.started()
    try:
        await trio.serve_listeners(answer, [trio.SocketListener(listening)])
    finally:
        with suppress(FileNotFoundError):
            home.socket.unlink()


async def _listen(home: Home) -> trio.socket.SocketType:
    with suppress(FileNotFoundError):
        home.socket.unlink()  # left behind by a kill; the lock is ours
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with reachable(home.socket) as address:
        await listening.bind(address)
    home.socket.chmod(0o600)
    listening.listen(_CONNECTIONS_MAX)
    return listening


class _Desk:
    """Answers one connection's request."""

    def __init__(
        self, handlers: Mapping[str, Handler], streams: Mapping[str, StreamHandler]
    ) -> None:
        self._handlers = handlers
        self._streams = streams
        self._room = trio.CapacityLimiter(_ANSWERS_MAX)
        self._stream_room = trio.CapacityLimiter(_STREAMS_MAX)

    async def answer(self, stream: trio.SocketStream) -> None:
        """From the request to the last line."""
        async with self._room:
            line = None
            with trio.move_on_after(_REQUEST_S):
                line = await _read_line(stream)
            if line is None:
                return
            method, parameters = _request(line)
            if method not in self._streams:
                await _send(stream, await _handle(method, parameters, self._handlers))
                return
        async with self._stream_room:
            await self._follow(stream, self._streams[method], parameters)

    async def _follow(
        self, stream: trio.SocketStream, handler: StreamHandler, parameters: Mapping[str, Any]
    ) -> None:
        await _send(stream, {"event": "go"})
        body = None
        with trio.move_on_after(_REQUEST_S):
            body = await read_body(stream, parameters.get("bytes"))
        if body is None:
            return
        async with trio.open_nursery() as nursery:
            follower = Follower(stream)
            nursery.start_soon(follower.watch)
            nursery.start_soon(follower.send)
            follower.tell_last(await _outcome(handler(body, follower)))
            await follower.told.wait()
            nursery.cancel_scope.cancel()


async def _handle(
    method: str, parameters: Mapping[str, Any], handlers: Mapping[str, Handler]
) -> dict[str, Any]:
    handler = handlers.get(method)
    if handler is None:
        unknown = NodeError("the running node does not know this request")
        return {"unknown": method, "error": error_to_json(unknown)}
    return await _outcome(handler(parameters))


async def _outcome(work: Awaitable[Any]) -> dict[str, Any]:
    """What a handler comes to, as the line that the command gets."""
    try:
        return {"result": await work}
    except NodeError as error:
        return {"error": error_to_json(error)}
    except BaseExceptionGroup as group:  # of a nursery in the handler
        expected, rest = group.split(NodeError)
        if rest is not None or expected is None:
            raise
        return {"error": error_to_json(_first(expected))}


def _first(group: BaseExceptionGroup[NodeError]) -> NodeError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _request(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """Method and parameters; a method that nobody has, if it is no request."""
    try:
        request = json.loads(line)
        method, parameters = request["method"], request["parameters"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", {}
    return (method, parameters) if type(method) is str and type(parameters) is dict else ("", {})


async def _send(stream: trio.SocketStream, reply: Mapping[str, Any]) -> None:
    with trio.move_on_after(_REQUEST_S):
        await stream.send_all(json.dumps(reply).encode() + b"\n")


async def _read_line(stream: trio.SocketStream) -> bytes | None:
    """One line within the bound, or None if the other end left or wrote too much."""
    buffer = bytearray()
    while not buffer.endswith(b"\n"):
        chunk = await stream.receive_some(_REQUEST_BYTES_MAX)
        buffer += chunk
        if not chunk or len(buffer) > _REQUEST_BYTES_MAX:
            return None
    return bytes(buffer)
