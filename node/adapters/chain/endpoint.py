"""One JSON-RPC server: pooled HTTP connections, its limits, its record."""

import base64
import http.client
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from node.errors import ConfigError

ANSWER_BYTES_MAX = 32 * 1024 * 1024
IDLE_MAX = 8


class EndpointFailure(Exception):
    """One URL gave no usable answer; another one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """How one URL does, for `node status`."""

    host: str
    """Host and port only: paths of RPC URLs hold keys."""
    calls: int
    failures: int
    latency_ms: float
    """Moving average of a round trip; 0 before the first."""
    answered_ago_s: float | None
    error: str
    """Why the last attempt failed; empty when it did not."""


class Endpoint:
    """One URL: its idle connections and its record.  Used from several threads."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("chain.rpc_url holds something that is not an http(s) URL")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if parts.username is not None:
            secret = f"{parts.username}:{parts.password or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
        self._timeout_s = timeout_s
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self.host = f"{parts.hostname}:{self._address[1]}"
        self.chain_id: int | None = None
        self._calls = 0
        self._failures = 0
        self._latency_ms = 0.0
        self._answered_s: float | None = None
        self._error = ""
        self.failed_s = -1e9

    def post(self, body: bytes) -> bytes:
        """The answer's body.

        Raises:
            EndpointFailure: No HTTP 200 with a body within the limits.
        """
        started_s = time.monotonic()
        try:
            answer = self._exchange(body)
        except (OSError, http.client.HTTPException) as error:
            why = f"{type(error).__name__} {error}".strip()[:200]
            self.failed(why)
            raise EndpointFailure(why) from error
        now_s = time.monotonic()
        with self._lock:
            self._calls += 1
            took_ms = (now_s - started_s) * 1000
            self._latency_ms += (took_ms - self._latency_ms) * (0.2 if self._latency_ms else 1.0)
            self._answered_s = now_s
            self._error = ""
        return answer

    def failed(self, why: str) -> None:
        """Count a failure; an answer that makes no sense is one as well."""
        with self._lock:
            self._failures += 1
            self._error = why
            self.failed_s = time.monotonic()

    def health(self) -> EndpointHealth:
        """Figures so far."""
        with self._lock:
            ago_s = None if self._answered_s is None else time.monotonic() - self._answered_s
            return EndpointHealth(
                host=self.host,
                calls=self._calls,
                failures=self._failures,
                latency_ms=self._latency_ms,
                answered_ago_s=ago_s,
                error=self._error,
            )

    def close(self) -> None:
        """Drop the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(self, body: bytes) -> bytes:
        kept = self._take()
        if kept is not None:
            try:
                return self._request(kept, body)
            except (http.client.RemoteDisconnected, ConnectionError):
                # The server closed an idle connection; what we send may be sent twice.
                kept.close()
        return self._request(self._open(), body)

    def _request(self, connection: http.client.HTTPConnection, body: bytes) -> bytes:
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX + 1)
        except BaseException:
            connection.close()
            raise
        if response.status != 200 or len(answer) > ANSWER_BYTES_MAX:
            connection.close()
            raise http.client.HTTPException(
                f"status {response.status}" if response.status != 200 else "answer too long"
            )
        self._keep(connection)
        return answer

    def _open(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(*self._address, timeout=self._timeout_s)
        return http.client.HTTPSConnection(
            *self._address, timeout=self._timeout_s, context=self._tls
        )

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()
