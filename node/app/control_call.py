"""How a command asks the process that owns its home.  Imports little: somebody waits for it."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from node.app.home import Home
from node.errors import (
    ConfigError,
    ExitCode,
    NodeError,
    NoPeers,
    Unavailable,
    UsageError,
    WalletError,
)

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of an answer."""
EVENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one event: a job's text, each character of which may take six bytes or twelve."""
LAST_S: Final = 0.1
"""The shortest time in which a result is looked for."""
_SUN_PATH_MAX: Final = 107
"""Bytes of a Unix socket's path on Linux."""


class NotRunning(Unavailable):
    """No process of this home listens."""


class NotKnown(NodeError):
    """The process that listens has no such method."""


class HungUp(Unavailable):
    """It left before it had answered."""


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
    with _connected(home, timeout_s) as connection:
        try:
            connection.sendall(_request(method, parameters))
            with connection.makefile("rb") as answers:
                line = answers.readline(LINE_BYTES_MAX)
        except TimeoutError:
            raise Unavailable(f"the node in {home.path} did not answer in time") from None
        except OSError as error:
            raise HungUp(f"the node in {home.path} hung up: {error.strerror}") from error
    return _read(home, line)["result"]


class Following:
    """A call whose events are read while the owner works on it."""

    def __init__(
        self, home: Home, connection: socket.socket, answers: BinaryIO, *, within_s: float
    ) -> None:
        self._home = home
        self._connection = connection
        self._answers = answers
        self._until_s = time.monotonic() + within_s
        self.result: Any = None
        """Of the call, once all events have been read."""

    def events(self) -> Iterator[Any]:
        """What the owner tells, until it has a result.

        Raises:
            HungUp: The owner ended before, or has no result in time.
            NodeError: What the owner says went wrong.
        """
        while True:
            self._connection.settimeout(max(self._until_s - time.monotonic(), LAST_S))
            try:
                line = self._answers.readline(EVENT_BYTES_MAX)
            except TimeoutError:
                raise HungUp(f"the node in {self._home.path} does not go on") from None
            except OSError as error:
                raise HungUp(f"the node in {self._home.path} hung up") from error
            answer = _read(self._home, line)
            if "event" not in answer:
                self.result = answer["result"]
                return
            yield answer["event"]

    def stop(self) -> None:
        """Ask the owner to end its work; its result is still to be read."""
        try:
            self._connection.sendall(b"\n")
        except OSError:
            return  # it has ended


@contextmanager
def follow(home: Home, method: str, body: bytes, *, within_s: float) -> Iterator[Following]:
    """Ask the process that owns a home for what takes long; leaving the context ends that, too.

    The owner begins with nothing before it has the whole body, and takes that only after it said
    that it will: until then the same may be done by other means.

    Args:
        home: Whose owner.
        method: What to do.
        body: What the owner needs for it.
        within_s: How long it may take to begin, and then to come to a result.

    Raises:
        NotRunning: Nobody listens, or nobody who stays.
        NotKnown: Who listens can't do it.
        HungUp: The owner ended while it was being given the body.
        Unavailable: It did not begin in time.
    """
    # Without a limit on connecting: a queue that is full is waited for.
    with _connected(home, None) as connection, connection.makefile("rb") as answers:
        connection.settimeout(within_s)
        try:
            connection.sendall(_request(method, {"bytes": len(body)}))
            line = answers.readline(LINE_BYTES_MAX)
        except TimeoutError:
            raise Unavailable(f"the node in {home.path} did not begin in time") from None
        except OSError:
            line = b""
        if not line:
            raise NotRunning(f"the node in {home.path} takes nothing on")
        _read(home, line)
        try:
            connection.sendall(body)
        except OSError as error:
            raise HungUp(f"the node in {home.path} hung up: {error.strerror}") from error
        yield Following(home, connection, answers, within_s=within_s)


def error_to_json(error: NodeError) -> dict[str, Any]:
    """What `error_from_json` reads."""
    return {"message": str(error), "hint": error.hint, "exit_code": int(error.exit_code)}


def error_from_json(told: Mapping[str, Any]) -> NodeError:
    """An error of another process, of the class that has its exit code."""
    cls = _CLASSES.get(told["exit_code"], NodeError)
    return cls(told["message"], hint=told["hint"])


_CLASSES: Final[dict[int, type[NodeError]]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.NO_PEERS: NoPeers,
    ExitCode.TRY_AGAIN: Unavailable,
    ExitCode.WALLET: WalletError,
    ExitCode.CONFIG: ConfigError,
}


def _request(method: str, parameters: Mapping[str, Any]) -> bytes:
    return json.dumps({"method": method, "parameters": dict(parameters)}).encode() + b"\n"


def _read(home: Home, line: bytes) -> dict[str, Any]:
    """
    Raises:
        HungUp: It is no whole line.
        NodeError: It tells an error.
    """
    if not line.endswith(b"\n"):
        raise HungUp(f"the node in {home.path} hung up")
    answer: dict[str, Any] = json.loads(line)
    if "unknown" in answer:
        raise NotKnown("the running node does not know this request")
    if "error" in answer:
        raise error_from_json(answer["error"])
    return answer


@contextmanager
def _connected(home: Home, timeout_s: float | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with reachable(home.socket) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"no node is running in {home.path}") from None
        except BlockingIOError:
            raise Unavailable(f"the node in {home.path} is busy with other commands") from None
        yield connection


@contextmanager
def reachable(path: Path) -> Iterator[str]:
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
