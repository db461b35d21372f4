"""Which model servers run on this machine, on the ports that they use by default."""

from dataclasses import dataclass
from typing import Final

import trio

from node.adapters.openai import bodies, http, replies
from node.adapters.openai.http import Server
from node.errors import NodeError

PORTS: Final = {
    8000: "vLLM, transformers serve or Ray Serve",
    30000: "SGLang",
    8080: "llama-server",
    11434: "Ollama",
    1234: "LM Studio",
}
LOOK_S: Final = 1.0
LIST_BYTES_MAX: Final = 256 * 1024
NAMES_SHOWN_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A server, and what it offers."""

    url: str
    kind: str
    """Which it usually is at this port: a guess."""
    models: tuple[str, ...]


def advice() -> list[str]:
    """What to tell an operator who named no engine: what was found, what is sold, and why."""
    found = trio.run(look)
    lines = []
    for each in found:
        names = ", ".join(each.models[:NAMES_SHOWN_MAX]) or "no model"
        first = each.models[0] if each.models else "NAME"
        lines.append(f"found    a model server at {each.url} ({each.kind}): {names}")
        lines.append(
            f"         to sell it: node serve --engine openai --url {each.url} "
            f"--model {first}=PATH, its tokenizer.json or folder"
        )
    seen = "no engine was named" if found else "no engine was named, and no server found"
    return [*lines, f"engine   onnx, in process: {seen} (--engine)"]


async def look() -> tuple[Found, ...]:
    """Ask every usual port at once; whatever is no model server is passed over."""
    found: dict[int, Found] = {}

    async def ask(port: int, kind: str) -> None:
        url = f"http://127.0.0.1:{port}"
        try:
            with trio.move_on_after(LOOK_S):
                names = await names_of(Server.at(url))
                found[port] = Found(url=url, kind=kind, models=names)
        except NodeError:
            return

    async with trio.open_nursery() as nursery:
        for port, kind in PORTS.items():
            nursery.start_soon(ask, port, kind)
    return tuple(found[port] for port in PORTS if port in found)


async def names_of(server: Server) -> tuple[str, ...]:
    """Names of the models that a server lists.

    Raises:
        Unavailable: It can't be reached, or lists none.
    """
    async with http.sent(server, "GET", bodies.MODELS, within_s=5 * LOOK_S) as response:
        body = await response.whole(within_s=5 * LOOK_S, bytes_max=LIST_BYTES_MAX)
    return tuple(replies.model_names(replies.read_json(body)))
