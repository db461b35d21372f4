"""An OpenAI-compatible server over our own engine, for tests: `python -m … --port PORT`.

What servers differ in are switches: `Habits`.
"""

import argparse
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from node.adapters import model_folder
from node.adapters.grammar import Grammars
from node.adapters.onnx import OnnxEngine, OnnxModel
from node.adapters.text import ChatText
from node.adapters.text.chat import Message
from node.protocol import formats
from node.protocol.manifest import FileRole
from node.protocol.sampling import Sampling
from node.protocol.stops import TextStream
from node.protocol.tool_calls import CallPart, CallReader, Part
from node.roles.generation import GenerationRequest, TokenStep

NAME = "tiny-served"


@dataclass(kw_only=True)
class Habits:
    """What a server does and tells."""

    ids: bool = True
    """Takes token ids, and gives them where it is asked to."""
    prompt_ids: bool = True
    """Tells with them which ids it read."""
    usage: bool = True
    continues: bool = True
    """Knows `continue_final_message`."""
    shows_end: bool = True
    """Its ids have the end token."""
    reasons: bool = False
    """Thinks before it answers."""
    json: bool = False
    """Keeps an answer to a format where it is asked to."""
    tools: bool = False
    """Calls a tool where it has to; where it may, it does not."""
    refuses: frozenset[str] = frozenset()
    """Fields that it does not know, and answers with 422."""
    key: str = ""
    names: list[str] = field(default_factory=lambda: [NAME])
    pause_s: float = 0.0
    """Between two tokens, once there are:"""
    pause_after: int = 0


class Server:
    """The routes."""

    def __init__(self, habits: Habits, *, slots: int = 4, threads: int = 1) -> None:
        folder = model_folder.load(model_folder.shipped())
        self.habits = habits
        self.manifest = folder.manifest
        self.text = ChatText.of(folder.client_files())
        tokenizer = folder.client_files()[FileRole.TOKENIZER]
        grammars = Grammars(tokenizer, vocab=self.manifest.vocab, eos_ids=self.manifest.eos_ids)
        model = OnnxModel(
            manifest=folder.manifest,
            graph=folder.graph,
            decode=self.text.decode,
            grammar=grammars.start,
        )
        self.engine = OnnxEngine([model], slots=slots, threads=threads, queue_max=64)
        self.bodies: list[dict[str, Any]] = []
        """Requests for completions, as they came."""
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        data = [
            {"id": each, "object": "model", "max_model_len": self.manifest.context}
            for each in self.habits.names
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _chat(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await self._body(request)
        if (refused := self._unknown(body)) is not None:
            return refused
        messages = [
            Message(
                role="user" if each["role"] == "tool" else each["role"], content=each["content"]
            )
            for each in body["messages"]
        ]
        continues = bool(body.get("continue_final_message")) and self.habits.continues
        if not continues and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return await self._answer(body, self.text.render(messages, continues=continues), chat=True)

    async def _completions(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await self._body(request)
        if (refused := self._unknown(body)) is not None:
            return refused
        prompt = body["prompt"]
        if isinstance(prompt, str):
            return await self._answer(body, self.text.encode(prompt), chat=False)
        if not self.habits.ids:
            return JSONResponse({"error": {"message": "prompt must be text"}}, status_code=400)
        return await self._answer(body, tuple(prompt), chat=False)

    def _refused(self, request: Request) -> Response | None:
        wanted = f"Bearer {self.habits.key}" if self.habits.key else None
        if wanted is None or request.headers.get("authorization") == wanted:
            return None
        return JSONResponse({"error": {"message": "no such key"}}, status_code=401)

    def _unknown(self, body: dict[str, Any]) -> Response | None:
        unknown = sorted(self.habits.refuses & body.keys())
        if not unknown:
            return None
        return JSONResponse({"detail": f"Unexpected fields: {unknown}"}, status_code=422)

    async def _body(self, request: Request) -> dict[str, Any]:
        body = cast(dict[str, Any], await request.json())
        self.bodies.append(body)
        return body

    async def _answer(
        self, body: dict[str, Any], prompt: tuple[int, ...], *, chat: bool
    ) -> Response:
        room = self.manifest.context - len(prompt)
        if room < 1:
            return JSONResponse({"error": {"message": "the prompt is too long"}}, status_code=400)
        wanted = GenerationRequest(
            model=self.manifest.model_id,
            prompt_ids=prompt,
            max_tokens=min(body.get("max_tokens", 16), room),
            sampling=Sampling(temperature=body.get("temperature", 1.0), seed=body.get("seed", 0)),
            ignore_eos=bool(body.get("ignore_eos")),
            format=_format(body) if self.habits.json and chat else "",
        )
        calls = self.habits.tools and chat and _has_to_call(body)
        if calls:
            wanted = replace(wanted, format=_calls(body))
        events = self._events(
            wanted, chat=chat, ids=bool(body.get("return_token_ids")), calls=calls
        )
        if body.get("stream"):
            return StreamingResponse(_sse(events), media_type="text/event-stream")
        whole = ""
        async for event in events:
            for choice in event["choices"]:
                whole += choice["delta"].get("content") or "" if chat else choice["text"]
        choice = {"message": {"role": "assistant", "content": whole}} if chat else {"text": whole}
        return JSONResponse({"choices": [{"index": 0, "finish_reason": "stop", **choice}]})

    async def _events(
        self, wanted: GenerationRequest, *, chat: bool, ids: bool, calls: bool
    ) -> AsyncIterator[dict[str, Any]]:
        reader = CallReader(whole=True) if calls else None
        tells_ids, made = ids and self.habits.ids and not chat, 0
        text = TextStream(self.text.decode)
        if chat:
            yield _event({"delta": {"role": "assistant", "content": ""}})
        if chat and self.habits.reasons:
            yield _event({"delta": {"reasoning_content": "Let me think."}})
        async with self.engine.generate(wanted) as steps:
            async for token, finish in _singly(steps):
                first, made = not made, made + len(token)
                piece = "".join(map(text.push, token)) + (text.flush() if finish else "")
                choice: dict[str, Any] = {"delta": {"content": piece}} if chat else {"text": piece}
                if reader is not None:
                    choice = {"delta": {"tool_calls": list(map(_call, reader.push(piece)))}}
                if tells_ids:
                    hidden = finish == "stop" and not self.habits.shows_end
                    choice["token_ids"] = [] if hidden else list(token)
                    if first and self.habits.prompt_ids:
                        choice["prompt_token_ids"] = list(wanted.prompt_ids)
                told = "tool_calls" if calls and finish == "stop" else finish
                yield _event(choice | {"finish_reason": told})
                await trio.sleep(self.habits.pause_s if made > self.habits.pause_after else 0)
        if self.habits.usage:
            usage = {"prompt_tokens": len(wanted.prompt_ids), "completion_tokens": made}
            yield {"choices": [], "usage": usage}


def _has_to_call(body: dict[str, Any]) -> bool:
    return bool(body.get("tools")) and body.get("tool_choice", "auto") not in ("auto", "none")


def _calls(body: dict[str, Any]) -> str:
    """The format of a call of one of the tools."""
    tools = [each["function"] for each in body["tools"]]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": each["name"]}, "arguments": each["parameters"]},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for each in tools
        if body["tool_choice"] in ("required", _named(each["name"]))
    ]
    return formats.written({"anyOf": calls})


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _call(part: Part) -> dict[str, Any]:
    assert isinstance(part, CallPart)
    function = {"name": part.name or None, "arguments": part.arguments}
    return {"index": part.index, "id": "c-1" if part.name else None, "function": function}


def _format(body: dict[str, Any]) -> str:
    match body.get("response_format"):
        case {"type": "json_object"}:
            return formats.ANY_OBJECT
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return formats.written(schema)
    return ""


async def _singly(
    steps: AsyncIterator[TokenStep],
) -> AsyncIterator[tuple[tuple[int, ...], str | None]]:
    """One token at a time, so that a pause is one between tokens; the last with its finish."""
    async for step in steps:
        for token in step.ids[:-1]:
            yield (token,), None
        yield step.ids[-1:], step.finish


def _event(choice: dict[str, Any]) -> dict[str, Any]:
    return {"object": "chunk", "choices": [{"index": 0, "finish_reason": None, **choice}]}


async def _sse(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    yield b": hello\n\n"
    async for event in events:
        yield b"data: " + json.dumps(event).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@asynccontextmanager
async def running(
    habits: Habits, *, port: int = 0, slots: int = 4
) -> AsyncIterator[tuple[Server, str]]:
    """A server and its URL, for as long as the block runs."""
    server, stop = Server(habits, slots=slots), trio.Event()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    config.graceful_timeout = 0.1
    async with trio.open_nursery() as nursery:
        await nursery.start(server.engine.run)
        # The app is cast: Starlette's and Hypercorn's types of ASGI differ in words only.
        start = partial(
            serve, cast(Any, server.app), config, shutdown_trigger=stop.wait, mode="asgi"
        )
        binds = await nursery.start(start)
        yield server, binds[0]
        stop.set()
        nursery.cancel_scope.cancel()


async def _main(port: int, habits: Habits) -> None:
    async with running(habits, port=port) as (_, url):
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", action="store_true", help="no token ids, nothing is continued")
    parser.add_argument("--forces", action="store_true", help="formats and calls of tools")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two tokens")
    parser.add_argument("--pause-after", type=int, default=0, help="of an answer's first tokens")
    parser.add_argument("--key", default="", help="the API key that it wants")
    options = parser.parse_args()
    habit = Habits(
        ids=not options.text,
        continues=not options.text,
        json=options.forces,
        tools=options.forces,
        key=options.key,
        pause_s=options.pause,
        pause_after=options.pause_after,
    )
    trio.run(_main, options.port, habit)
