"""Requests that no gateway may take: each is wrong by construction, and in a way of its own."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

MB: Final = 1024 * 1024
CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
NESTED: Final = 5_000
BIG: Final = 64 * MB
"""A body that is sent, or that a header promises."""
PIECE: Final = b"x" * (256 * 1024)

OUT_OF_RANGE: Final[dict[str, tuple[Any, ...]]] = {
    "max_tokens": (0, -1, 2**31, 1.5, "9", True, [], {}),
    "max_completion_tokens": (0, 2**63, "x", [1]),
    "temperature": (-0.1, 2.1, 1e308, "hot", True, [0.5], {"value": 1}),
    "top_p": (-0.1, 1.1, "1"),
    "top_k": (-1, 2**32, 0.5),
    "presence_penalty": (-2.1, 2.1, "0"),
    "frequency_penalty": (-2.1, 2.1, None.__class__.__name__),
    "repetition_penalty": (0, -1, 1e9),
    "n": (0, -1, 17, 1.0, "1", [1]),
    "seed": (2**64, -(2**63) - 1, 0.5, "s"),
    "stop": (7, [7], [""], ["x"] * 17, ["x" * 257], {"a": 1}, [["x"]]),
    "stream": (1, "true", [], {}),
    "stream_options": ({}, 1, {"include_usage": 1}, {"include_obfuscation": True}, []),
    "logprobs": (1, "yes", {}),
    "top_logprobs": (-1, 21, 3, "3"),
    "messages": (
        [], {}, "hi", 7, [7], [[]], [{}], [{"role": "user"}], [{"role": "king", "content": "x"}],
        [{"role": "user", "content": 7}], [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": [{"type": "text"}]}], [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": "x", "surprise": 1}], [{"role": "user", "content": {}}],
        [None],
    ),
    "model": ("", 7, [], {}, "x" * 513, "no-such-model"),
    "models": (7, [7], [""], ["x"] * 9, {}),
    "route": ("elsewhere", 7),
    "provider": (
        7, [], "x", {"surprise": 1}, {"order": "x"}, {"order": [7]}, {"only": ["nobody"]},
        {"ignore": ["0x12"]}, {"sort": "beauty"}, {"allow_fallbacks": 1}, {"zdr": True},
        {"data_collection": "deny"}, {"max_price": 1}, {"max_price": {"prompt": "x"}},
        {"max_price": {"prompt": -1}}, {"max_price": {"request": 1}}, {"quantizations": [1]},
        {"preferred_max_latency": {"p50": 1}}, {"preferred_min_throughput": -1},
        {"order": ["0x" + "11" * 20] * 33},
    ),
    "usage": (1, {"include": 1}, {"more": True}),
    "response_format": ({"type": "xml"}, 7, []),
    "tools": (7, "x", {"type": "function"}),
    "logit_bias": ({"1": 5}, 7),
    "min_p": (0.1, "x"),
    "top_a": (0.1,),
    "store": (True,),
    "service_tier": ("flex", 7),
    "modalities": (["audio"],),
    "ignore_eos": (1, "x"),
    "user": ("x" * 513,),
    "metadata": ("x" * 513,),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Bytes for a connection, and what its sender does between them."""

    kind: str
    pieces: Callable[[], Iterator[bytes]]
    """Made while they are sent: big bodies need no memory here."""
    pause_s: float = 0.0
    """Before each piece but the first."""
    ends: bool = False
    """Its sender sends no more after it."""
    may_close: bool = False
    """The answer may be the end of the connection: what was sent is no request at all."""


class Requests:
    """An endless supply, by a seed."""

    def __init__(self, *, seed: int, model: str, port: int) -> None:
        self._rng = random.Random(seed)
        self._valid: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 4,
        }
        self._host = f"127.0.0.1:{port}"
        self._kinds: tuple[Callable[[], Request], ...] = (
            self._unknown, self._unknown_nested, self._wrong_value, self._wrong_value,
            self._wrong_value, self._wrong_kind, self._not_json, self._nested, self._host_or_origin,
            self._framing, self._chunks, self._method_or_path, self._content_type, self._header,
            self._completion, self._empty_key, self._embedding,
        )  # fmt: skip

    def small(self) -> Request:
        """Any but the big and the slow ones."""
        return self._rng.choice(self._kinds)()

    def big(self) -> Request:
        """A body of 64 MiB, promised or not."""
        if self._rng.random() < 0.5:
            head = self._head(CHAT, length=BIG)
            return Request(kind="64 MiB, promised", pieces=lambda: _then(head, BIG // len(PIECE)))
        head = self._head(CHAT, length=None, more=("transfer-encoding: chunked",))
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        return Request(
            kind="64 MiB, in chunks", pieces=lambda: _then(head, BIG // len(PIECE), chunk)
        )

    def slow(self) -> Request:
        """A body that would take hours."""
        body = json.dumps(self._valid).encode() + b" " * 100_000
        head = self._head(CHAT, length=len(body))

        def pieces() -> Iterator[bytes]:
            yield head
            for each in body:
                yield bytes([each])

        return Request(kind="slow body", pause_s=0.5, pieces=pieces)

    # ------------------------------------------------------------------------------------- kinds

    def _unknown(self) -> Request:
        name = self._rng.choice(
            ["surprise", "Max_Tokens", "n ", "", "x" * 600, "\x00", "__proto__"]
        )
        return self._json("unknown field", {**self._valid, name: self._value()})

    def _unknown_nested(self) -> Request:
        place = self._rng.choice(["provider", "messages", "stream_options", "usage", "max_price"])
        more = {self._rng.choice(["surprise", "x" * 600]): self._value()}
        body = dict(self._valid)
        match place:
            case "messages":
                body["messages"] = [{"role": "user", "content": "hi", **more}]
            case "max_price":
                body["provider"] = {"max_price": more}
            case "stream_options":
                body |= {"stream": True, "stream_options": more}
            case _:
                body[place] = more
        return self._json("unknown field within another", body)

    def _wrong_value(self) -> Request:
        name = self._rng.choice(list(OUT_OF_RANGE))
        value = self._rng.choice(OUT_OF_RANGE[name])
        return self._json("out of range", {**self._valid, name: value})

    def _wrong_kind(self) -> Request:
        body = self._rng.choice([[], [self._valid], "text", 7, True, None, {}, {"model": "m"}])
        return self._json("no request", body)

    def _not_json(self) -> Request:
        whole = json.dumps(self._valid).encode()
        body = self._rng.choice(
            [
                b"", whole[: self._rng.randrange(1, len(whole))], whole + b"}", b"\xff\xfe" + whole,
                whole.replace(b"hi", b"\xc3\x28"), whole.replace(b"4", b"NaN"),
                whole.replace(b"4", b"Infinity"), whole.replace(b'"hi"', b'"\\ud800"'),
                whole.replace(b"4", b"9" * 5000), self._rng.randbytes(200), b"a=b&c=d",
            ]
        )  # fmt: skip
        return self._raw("not JSON", body)

    def _nested(self) -> Request:
        opened, closed = self._rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
        deep = opened * NESTED + b"1" + closed * NESTED
        whole = json.dumps({**self._valid, "provider": None}).encode()
        wide = b"[" + b"[]," * 300_000 + b"[]]"
        value = self._rng.choice([deep, deep, wide])
        where = self._rng.choice([b'"provider": null', b'"messages": '])
        return self._raw("nested", whole.replace(where, b'"provider": ' + value + b', "x": 1', 1))

    def _host_or_origin(self) -> Request:
        host, origin = self._rng.choice(
            [
                ("evil.example", ""), ("evil.example:8411", ""), ("", ""), ("localhost.evil", ""),
                (self._host, "https://evil.example"), (self._host, "null"),
                (self._host, "http://localhost.evil.example"), ("127.0.0.1.evil.example", ""),
            ]
        )  # fmt: skip
        body = json.dumps(self._valid).encode()
        more = (f"origin: {origin}",) if origin else ()
        head = self._head(CHAT, length=len(body), host=host, more=more)
        return self._one("foreign host or origin", head + body)

    def _framing(self) -> Request:
        body = json.dumps(self._valid).encode()
        lengths = self._rng.choice(
            [
                ("content-length: -1",), ("content-length: x",), ("content-length: 1e3",),
                (f"content-length: {len(body)}", "content-length: 3"),
                (f"content-length: {len(body)}", "transfer-encoding: chunked"),
                ("transfer-encoding: gzip",), ("content-length: " + "9" * 400,),
            ]
        )  # fmt: skip
        head = self._head(CHAT, length=None, more=lengths)
        return self._one("framing", head + body, may_close=True)

    def _chunks(self) -> Request:
        body = json.dumps(self._valid).encode()
        broken = self._rng.choice(
            [
                b"zz\r\n" + body, b"-5\r\n" + body, b"%x\r\n%bXX" % (len(body), body),
                b"ffffffffffffffffffff\r\n" + body, b"5\r\nab", b"\r\n\r\n", b"0x5\r\nhello\r\n",
                b"5;" + b"x" * 100_000 + b"\r\nhello\r\n",
            ]
        )  # fmt: skip
        head = self._head(CHAT, length=None, more=("transfer-encoding: chunked",))
        return replace(self._one("broken chunks", head + broken, may_close=True), ends=True)

    def _method_or_path(self) -> Request:
        line = self._rng.choice(
            [
                "GET /v1/chat/completions HTTP/1.1", "DELETE /v1/models HTTP/1.1",
                "POST /v1/nothing HTTP/1.1", "POST /v1/chat/completions/ HTTP/1.1",
                "GET /v1/generation?id=zz HTTP/1.1", "GET /v1/generation HTTP/1.1",
                "GET /v1/generation?" + "&".join(f"a{n}=1" for n in range(50)) + " HTTP/1.1",
                "GET /v1/models/nothing/endpoints HTTP/1.1", "GET /../../etc/passwd HTTP/1.1",
                "GET /v1/models/%2e%2e%2f HTTP/1.1", "GET /%00%ff HTTP/1.1",
                "GET /" + "x" * 4000 + " HTTP/1.1", "BREW /coffee HTTP/1.1",
            ]
        )  # fmt: skip
        return self._one("method or path", f"{line}\r\nhost: {self._host}\r\n\r\n".encode())

    def _content_type(self) -> Request:
        kind = self._rng.choice(
            ["", "text/plain", "application/x-www-form-urlencoded", "json", "*"]
        )
        body = json.dumps(self._valid).encode()
        head = self._head(CHAT, length=len(body), kind=kind)
        return self._one("content type", head + body)

    def _header(self) -> Request:
        body = json.dumps(self._valid).encode()
        more = self._rng.choice(
            [
                ("x-long: " + "x" * 20_000,), tuple(f"x-{n}: {'y' * 100}" for n in range(300)),
                ("bad header",), ("bad\x00name: 1",), ("x: \x00",), (" folded: x",),
                ("idempotency-key: " + "k" * 600,),
            ]
        )  # fmt: skip
        head = self._head(CHAT, length=len(body), more=more)
        return self._one("headers", head + body, may_close=True)

    def _completion(self) -> Request:
        wrong: Any = self._rng.choice(
            [
                {"prompt": ""}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [1, "x"]},
                {"prompt": 7}, {"prompt": [-1]}, {"prompt": [2**32]}, {"prompt": ["x"] * 17},
                {"prompt": [["x"]]},
                {"prompt": "x", "best_of": 2}, {"prompt": "x", "echo": True}, {},
                {"prompt": "x", "suffix": "y"}, {"prompt": "x", "logprobs": 6},
                {"prompt": ["x"] * 16, "n": 2}, {"prompt": "x", "messages": []},
            ]
        )  # fmt: skip
        return self._json("completions", {"model": self._valid["model"], **wrong}, COMPLETIONS)

    def _empty_key(self) -> Request:
        """A key given twice with another meaning: the last one counts, and is wrong."""
        body = json.dumps(self._valid).encode()[:-1] + b', "max_tokens": 0}'
        return self._raw("a field twice", body)

    def _embedding(self) -> Request:
        wrong: dict[str, Any] = self._rng.choice(
            [
                {}, {"input": ""}, {"input": []}, {"input": [1, 2]}, {"input": [[1], [2]]},
                {"input": ["x", ""]}, {"input": ["x"] * 1025}, {"input": {"a": "x"}},
                {"input": "x"}, {"input": "x", "dimensions": 0}, {"input": "x", "n": 2},
                {"input": "x", "encoding_format": "int8"}, {"input": "x", "stream": True},
            ]
        )  # fmt: skip
        body = self._rng.choice([{"model": self._valid["model"], **wrong}, []])
        return self._json("embeddings", body, "/v1/embeddings")

    # ------------------------------------------------------------------------------------ inside

    def _value(self) -> Any:
        return self._rng.choice([1, "x", True, [], {}, {"a": [{}]}, 1e9, "x" * 5000])

    def _json(self, kind: str, document: Any, path: str = CHAT) -> Request:
        return self._raw(kind, json.dumps(document).encode(), path)

    def _raw(self, kind: str, body: bytes, path: str = CHAT) -> Request:
        return self._one(kind, self._head(path, length=len(body)) + body)

    def _one(self, kind: str, data: bytes, *, may_close: bool = False) -> Request:
        return Request(kind=kind, pieces=lambda: iter((data,)), may_close=may_close)

    def _head(
        self, path: str, *, length: int | None, host: str | None = None,
        kind: str = "application/json", more: tuple[str, ...] = (),
    ) -> bytes:  # fmt: skip
        lines = [f"POST {path} HTTP/1.1"]
        host = self._host if host is None else host
        lines += [f"host: {host}"] if host else []
        lines += [f"content-type: {kind}"] if kind else []
        lines += [] if length is None else [f"content-length: {length}"]
        return "\r\n".join([*lines, *more, "", ""]).encode("latin-1")


def _then(head: bytes, count: int, piece: bytes = PIECE) -> Iterator[bytes]:
    yield head
    for _ in range(count):
        yield piece
