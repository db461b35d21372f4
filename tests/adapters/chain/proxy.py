"""An RPC that fails on purpose, in front of the real one."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[[int, list[dict[str, Any]]], bytes | None]
"""Given the request's number and its calls: what to answer instead, or None to pass it on.
Empty bytes cut the connection."""


@contextmanager
def faulty(port: int, fault: Fault) -> Iterator[str]:
    """The URL of a proxy to a port on loopback."""
    seen = iter(range(10**9))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # headers and body in one packet

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                number = next(seen)
            answer = fault(number, json.loads(body))
            if answer is None:
                answer = forward(port, body)
            if not answer:
                self.close_connection = True
                self.connection.close()
                return
            status = 200 if answer[:1] in (b"[", b"{") else 503
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def forward(port: int, body: bytes) -> bytes:
    """What the real one answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        return connection.getresponse().read()
    finally:
        connection.close()


def every(count: int, times: int) -> Fault:
    """Of each `count` requests, `times` fail, each in another way."""
    answers = (b"overloaded", b"", b'[{"jsonrpc":"2.0"}]', b"[not json", b"{}")

    def fault(number: int, _calls: list[dict[str, Any]]) -> bytes | None:
        failing = number % count * times // count != (number % count + 1) * times // count
        return answers[number % len(answers)] if failing else None

    return fault
