"""The control socket: other commands of a home ask its owner, one JSON line each way.

Only the home's user gets to the socket, so its errors are our own bugs; the bounds are there all
the same.
"""

import errno
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from node.app.home import Home
from node.errors import ConfigError, ExitCode, NodeError, NoPeers, Unavailable, WalletError

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Takes a request's parameters, returns what JSON can hold, raises NodeError."""

_LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_REQUEST_BYTES_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 16
_REQUEST_S: Final = 5.0
_SUN_PATH_MAX: Final = 107
"""Bytes of a Unix socket's path on Linux."""


class NotRunning(Unavailable):
    """No process of this home listens."""


async def serve_control(
    home: Home,
    handlers: Mapping[str, Handler],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the home's socket until cancelled.  The caller owns the home.

    Args:
        home: Its `socket` is made, mode 0600.
        handlers: By method name.
        task_status: Started once it listens.

    Raises:
        ConfigError: The socket can't be made.
    """
    limiter = trio.CapacityLimiter(_CONNECTIONS_MAX)

    async def answer(stream: trio.SocketStream) -> None:
        try:
            limiter.acquire_nowait()
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            await _answer(stream, handlers)
        finally:
            limiter.release()

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
    with _reachable(home.socket) as address:
        await listening.bind(address)
    home.socket.chmod(0o600)
    listening.listen(_CONNECTIONS_MAX)
    return listening


def call(home: Home, method: str, parameters: Mapping[str, Any], *, timeout_s: float) -> Any:
    """Ask the process that owns a home.

    Args:
        home: Whose owner.
        method: What to do.
        parameters: JSON values.
        timeout_s: How long to wait for the answer.

    Raises:
        NotRunning: Nobody listens.
        Unavailable: It did not answer in time.
        NodeError: What the owner says went wrong.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _reachable(home.socket) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"no node is running in {home.path}") from None
        except BlockingIOError:
            raise Unavailable(f"the node in {home.path} is busy with other commands") from None
        try:
            request = {"method": method, "parameters": dict(parameters)}
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(_LINE_BYTES_MAX)
        except TimeoutError:
            raise Unavailable(f"the node in {home.path} did not answer in time") from None
        except OSError as error:
            raise Unavailable(f"the node in {home.path} hung up: {error.strerror}") from error
    if not line.endswith(b"\n"):
        raise Unavailable(f"the node in {home.path} hung up")
    answer = json.loads(line)
    if "error" in answer:
        raise _error(answer["error"])
    return answer["result"]


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    # The other end is a command that may be interrupted at any time.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream:
            line = None
            with trio.move_on_after(_REQUEST_S):
                line = await _read_line(stream)
            if line is not None:
                reply = await _handle(line, handlers)
                with trio.move_on_after(_REQUEST_S):
                    await stream.send_all(json.dumps(reply).encode() + b"\n")


async def _handle(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        method, parameters = request["method"], request["parameters"]
        handler = handlers[method]
    except (ValueError, KeyError, TypeError, RecursionError):
        return _error_reply(NodeError("the running node does not know this request"))
    try:
        return {"result": await handler(parameters)}
    except NodeError as error:
        return _error_reply(error)
    except BaseExceptionGroup as group:  # of a nursery in the handler
        expected, rest = group.split(NodeError)
        if rest is not None or expected is None:
            raise
        return _error_reply(_first(expected))


def _first(group: BaseExceptionGroup[NodeError]) -> NodeError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _error_reply(error: NodeError) -> dict[str, Any]:
    code = int(error.exit_code)
    return {"error": {"message": str(error), "hint": error.hint, "exit_code": code}}


_CLASSES: Final[dict[int, type[NodeError]]] = {
    ExitCode.NO_PEERS: NoPeers,
    ExitCode.TRY_AGAIN: Unavailable,
    ExitCode.WALLET: WalletError,
    ExitCode.CONFIG: ConfigError,
}


def _error(reply: Mapping[str, Any]) -> NodeError:
    cls = _CLASSES.get(reply["exit_code"], NodeError)
    return cls(reply["message"], hint=reply["hint"])


async def _read_line(stream: trio.SocketStream) -> bytes | None:
    """One line within the bound, or None if the other end left or wrote too much."""
    buffer = bytearray()
    while not buffer.endswith(b"\n"):
        chunk = await stream.receive_some(_REQUEST_BYTES_MAX)
        buffer += chunk
        if not chunk or len(buffer) > _REQUEST_BYTES_MAX:
            return None
    return bytes(buffer)


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """The socket's path if it fits the system's limit, else one through its folder's descriptor."""
    if len(os.fsencode(path)) <= _SUN_PATH_MAX:
        yield str(path)
        return
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent)) from error
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
