"""A server with `/v1/embeddings` and no other route: `python -m … --port PORT`.

Its model is a static embedding: the mean of the rows that our small model has for a text's tokens.
"""

import argparse
import json
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.adapters import model_folder
from node.adapters.text import ChatText

NAME = "tiny-embedding"
ROWS = "model.embed_tokens.weight"
Spoil = Callable[[list[dict[str, Any]]], Any]
SPOILT: dict[str, Spoil] = {
    "few": lambda data: data[1:],
    "sizes": lambda data: [{**data[0], "embedding": [1.0]}, *data[1:]],
    "nan": lambda data: [{**data[0], "embedding": [float("nan")] * 4}, *data[1:]],
    "huge": lambda data: [{**data[0], "embedding": [1e300]}, *data[1:]],
    "text": lambda data: [{**data[0], "embedding": "AAAA"}, *data[1:]],
    "twice": lambda data: [data[0], *data[:-1]],
}
"""What a broken server may make of its answer."""


def rows() -> NDArray[np.float32]:
    """One vector per token, less the mean of all: what they have in common says nothing."""
    data = (model_folder.shipped() / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8 : 8 + size])[ROWS]
    begin, end = entry["data_offsets"]
    found = np.frombuffer(data[8 + size + begin : 8 + size + end], np.float16)
    table = found.reshape(entry["shape"]).astype(np.float32)
    made: NDArray[np.float32] = table - table.mean(axis=0)
    return made


class Embedder:
    """The routes."""

    def __init__(self, *, shortens: bool = True, spoilt: str = "") -> None:
        folder = model_folder.load(model_folder.shipped())
        self.text = ChatText.of(folder.client_files())
        self.rows = rows()
        self.shortens = shortens
        """Heeds `dimensions`; else leaves them out in silence."""
        self.spoilt = spoilt
        self.bodies: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            ]
        )

    def vector(self, text: str, size: int | None = None) -> list[float]:
        mean = self.rows[list(self.text.encode(text))].mean(axis=0)[:size]
        made: list[float] = (mean / np.linalg.norm(mean)).tolist()
        return made

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    async def _embeddings(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        size = body.get("dimensions") if self.shortens else None
        data: Any = [
            {"object": "embedding", "index": n, "embedding": self.vector(text, size)}
            for n, text in enumerate(body["input"])
        ]
        if self.spoilt:
            data = SPOILT[self.spoilt](data)
        content = json.dumps({"object": "list", "model": NAME, "data": data})
        return Response(content, media_type="application/json")


@asynccontextmanager
async def running(embedder: Embedder, *, port: int = 0) -> AsyncIterator[str]:
    """Its URL, for as long as the block runs."""
    stop = trio.Event()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    config.graceful_timeout = 0.1
    async with trio.open_nursery() as nursery:
        start = partial(
            serve, cast(Any, embedder.app), config, shutdown_trigger=stop.wait, mode="asgi"
        )
        binds = await nursery.start(start)
        yield binds[0]
        stop.set()
        nursery.cancel_scope.cancel()


async def _main(port: int) -> None:
    async with running(Embedder(), port=port) as url:
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    trio.run(_main, parser.parse_args().port)
