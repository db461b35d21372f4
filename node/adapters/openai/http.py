"""HTTP/1.1 to one server that the operator named: h11 over trio's streams, everything bounded.

The server is the operator's own, and still nothing that it sends may fill the memory or hold a
job: it may be another one than was meant, or broken.  No redirect is followed: the address comes
from the configuration and from nowhere else.
"""

import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

from node.errors import ConfigError, Unavailable

CONNECT_S: Final = 5.0
HEAD_BYTES_MAX: Final = 32 * 1024
"""Status line and headers of a response, or one header of a chunk."""
INTERIM_MAX: Final = 8
"""Responses of 1xx before the one that counts."""
READ_BYTES: Final = 8 * 1024
"""Some fifty tokens: what a turn of the loop takes in of one stream, all others wait for.  A server
that is faster than we are had streams of 64 kB make turns of a second, and every award late."""
DETAIL_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
DETAIL_CHARS_MAX: Final = 200


class Refusal(Unavailable):
    """The server answered, with another status than 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"the server answered {status}: {detail}" if detail else f"HTTP {status}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is, and how to be let in."""

    secure: bool
    host: str
    port: int
    prefix: str
    """Path before `/v1`; empty, or begins with a slash and ends with none."""
    key: str = ""
    """Bearer token; empty for none.  Never logged."""

    @classmethod
    def at(cls, url: str, *, key: str = "", setting: str = "engine.url") -> "Server":
        """The server of an address such as http://127.0.0.1:8000, with or without /v1.

        Args:
            url: The address.
            key: Bearer token; empty for none.
            setting: Where the address stands, for messages.

        Raises:
            ConfigError: Not such an address, or a key that no header can carry.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{setting}: {error}") from error
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise ConfigError(
                f"{setting} must be http://HOST:PORT or https://HOST:PORT, without user or query"
            )
        if not url.isascii() or any(char.isspace() for char in url):
            raise ConfigError(f"{setting} has characters that no address has")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"the key file of {setting} holds something that is no key")
        secure = parts.scheme == "https"
        return cls(
            secure=secure,
            host=parts.hostname,
            port=port or (443 if secure else 80),
            prefix=parts.path.rstrip("/").removesuffix("/v1"),
            key=key,
        )

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{shown}:{self.port}{self.prefix}"

    def __repr__(self) -> str:
        return f"Server({self})"  # without the key


@dataclass(slots=True, kw_only=True)
class Response:
    """A response of status 200 whose body is read piece by piece."""

    media_type: str
    """Lower case, without parameters."""
    _line: h11.Connection
    _stream: trio.abc.Stream

    async def next_bytes(self, *, within_s: float) -> bytes:
        """More of the body; empty at its end.

        Raises:
            Unavailable: Nothing came in time, the connection broke, or this is no HTTP.
        """
        event = await _next(self._line, self._stream, within_s=within_s)
        while not isinstance(event, h11.Data | h11.EndOfMessage):
            event = await _next(self._line, self._stream, within_s=within_s)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def whole(self, *, within_s: float, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """The rest of the body.

        Raises:
            Unavailable: As `next_bytes`, or it is too large.
        """
        body = bytearray()
        with _deadline(within_s):
            while part := await self.next_bytes(within_s=within_s):
                body += part
                if len(body) > bytes_max:
                    raise Unavailable("the server sends too much")
        return bytes(body)


@asynccontextmanager
async def sent(
    server: Server, method: str, path: str, body: bytes = b"", *, within_s: float
) -> AsyncIterator[Response]:
    """A request on a connection of its own; leaving the context closes it, which ends the work.

    Args:
        server: To whom.
        method: GET or POST.
        path: Begins with /v1 or the like.
        body: JSON; none with GET.
        within_s: How long the response's head may take.

    Raises:
        Refusal: Another status than 200; redirects are among them.
        Unavailable: No connection, no answer in time, or no HTTP.
    """
    stream = await _connect(server)
    try:
        line = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        with _deadline(within_s):
            await _send(server, line, stream, method, path, body)
            head = await _head(line, stream, within_s=within_s)
        response = Response(
            media_type=_header(head, b"content-type").partition(";")[0].strip().lower(),
            _line=line,
            _stream=stream,
        )
        if head.status_code != 200:
            raise Refusal(head.status_code, await _detail(response, within_s=within_s))
        yield response
    finally:
        await trio.aclose_forcefully(stream)


async def _connect(server: Server) -> trio.abc.Stream:
    try:
        with _deadline(CONNECT_S):
            tcp = await trio.open_tcp_stream(server.host, server.port)
            if not server.secure:
                return tcp
            tls = trio.SSLStream(
                tcp,
                ssl.create_default_context(),
                server_hostname=server.host,
                https_compatible=True,
            )
            try:
                await tls.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(tcp)
                raise
            return tls
    except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
        raise Unavailable(f"{server} can't be reached: {_said(error)}") from error


async def _send(
    server: Server,
    line: h11.Connection,
    stream: trio.abc.Stream,
    method: str,
    path: str,
    body: bytes,
) -> None:
    host = str(server).partition("://")[2].removesuffix(server.prefix)
    headers = [("Host", host), ("Accept", "application/json, text/event-stream")]
    headers += [("Connection", "close"), ("User-Agent", "gpunode")]
    if server.key:
        headers.append(("Authorization", f"Bearer {server.key}"))
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    request = h11.Request(method=method, target=server.prefix + path, headers=headers)
    data = (line.send(request) or b"") + (line.send(h11.Data(data=body)) or b"" if body else b"")
    try:
        await stream.send_all(data + (line.send(h11.EndOfMessage()) or b""))
    except (OSError, trio.BrokenResourceError) as error:
        raise Unavailable(f"the connection to {server} broke") from error


async def _head(line: h11.Connection, stream: trio.abc.Stream, *, within_s: float) -> h11.Response:
    for _ in range(INTERIM_MAX):
        event = await _next(line, stream, within_s=within_s)
        if isinstance(event, h11.Response):
            return event
    raise Unavailable("the server answers with nothing but interim responses")


async def _next(
    line: h11.Connection, stream: trio.abc.Stream, *, within_s: float
) -> h11.Event | type[h11.PAUSED]:
    try:
        if (event := line.next_event()) is h11.NEED_DATA:
            with _deadline(within_s):
                while event is h11.NEED_DATA:
                    line.receive_data(bytes(await stream.receive_some(READ_BYTES)))
                    event = line.next_event()
    except h11.RemoteProtocolError as error:
        raise Unavailable(f"the server speaks no HTTP, or stopped: {_said(error)}") from error
    except (OSError, trio.BrokenResourceError) as error:
        raise Unavailable("the connection to the server broke") from error
    if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
        raise Unavailable("the server closed the connection early")
    assert not isinstance(event, type)
    return event


@contextmanager
def _deadline(within_s: float) -> Iterator[None]:
    try:
        with trio.fail_after(within_s):
            yield
    except trio.TooSlowError:
        raise Unavailable(f"the server did not answer within {within_s:.3g} s") from None


async def _detail(response: Response, *, within_s: float) -> str:
    """What a server says of an error, shortened; nothing if it says it badly."""
    try:
        body = await response.whole(within_s=within_s, bytes_max=DETAIL_BYTES_MAX)
    except Unavailable:
        return ""
    text = _message(body) or body.decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text)[:DETAIL_CHARS_MAX]


def _message(body: bytes) -> str:
    """The sentence in an error as OpenAI, or as FastAPI, writes it; empty where there is none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    for key in ("error", "message", "detail"):
        said = said.get(key, said) if isinstance(said, dict) else said
    return said if isinstance(said, str) else ""


def _header(head: h11.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in head.headers if key == name), "")


def _said(error: BaseException) -> str:
    inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
    return str(getattr(inner, "strerror", None) or inner)[:DETAIL_CHARS_MAX]
