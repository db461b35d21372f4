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
UNAUTHORIZED: Final = 401
LIST_BYTES_MAX: Final = 256 * 1024
NAMES_SHOWN_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A server, and what it offers."""

    url: str
    kind: str
    """Which it usually is at this port: a guess."""
    models: tuple[str, ...] = ()
    locked: bool = False
    """It wants an API key, so that nothing else is known of it."""

    def __str__(self) -> str:
        names = ", ".join(self.models[:NAMES_SHOWN_MAX]) or "no model"
        offers = "it wants an API key" if self.locked else names
        return f"a model server at {self.url} ({self.kind}?): {offers}"

    @property
    def advice(self) -> str:
        """The command that sells its first model."""
        first = self.models[0] if self.models else "NAME"
        key = "--key-file FILE " if self.locked else ""
        return (
            f"to sell it: node serve --engine openai --url {self.url} {key}--model {first}=PATH; "
            "PATH is the model's tokenizer.json, or the folder with it"
        )


def found() -> tuple[Found, ...]:
    """What runs on the usual ports; takes a second at most."""
    return trio.run(look)


def advice(model_dir: str) -> list[str]:
    """What to tell an operator who named no engine: what was found, what is sold, and why.

    Args:
        model_dir: `engine.model_dir`.
    """
    servers, lines = found(), []
    for each in servers:
        lines += [f"found    {each}", f"         {each.advice}"]
    ports = ", ".join(map(str, PORTS))
    why = "no engine was named"
    why += "; the server is not sold by itself" if servers else f", no server is on port {ports}"
    return [*lines, f"engine   {in_process(model_dir)}: {why} (--engine)"]


def in_process(model_dir: str) -> str:
    """What is sold without a server."""
    return f"onnx, in process, {model_dir or 'the small model inside the package'}"


async def look() -> tuple[Found, ...]:
    """Ask every usual port at once; whatever is no model server is passed over."""
    servers: dict[int, Found] = {}

    async def ask(port: int, kind: str) -> None:
        url = f"http://127.0.0.1:{port}"
        try:
            with trio.move_on_after(LOOK_S):
                names = await names_of(Server.at(url))
                servers[port] = Found(url=url, kind=kind, models=names)
        except http.Refusal as error:
            if error.status == UNAUTHORIZED:
                servers[port] = Found(url=url, kind=kind, locked=True)
        except NodeError:
            return

    async with trio.open_nursery() as nursery:
        for port, kind in PORTS.items():
            nursery.start_soon(ask, port, kind)
    return tuple(servers[port] for port in PORTS if port in servers)


async def names_of(server: Server) -> tuple[str, ...]:
    """Names of the models that a server lists.

    Raises:
        Unavailable: It can't be reached, or lists none.
    """
    async with http.sent(server, "GET", bodies.MODELS, within_s=5 * LOOK_S) as response:
        body = await response.whole(within_s=5 * LOOK_S, bytes_max=LIST_BYTES_MAX)
    return tuple(replies.model_names(replies.read_json(body)))
