"""Vectors of a server's model: asked for, read, and written as the output of a job."""

from dataclasses import dataclass
from typing import Final

import trio

from node.adapters.openai import bodies, http, replies
from node.adapters.openai.http import Server
from node.adapters.openai.served import Served
from node.errors import DecodeError, Unavailable
from node.protocol import embeddings
from node.protocol.chat import text_tokens
from node.protocol.embeddings import Inputs
from node.roles.generation import EngineRates

ANSWER_S: Final = 120.0
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""64 vectors of 6,144 numbers are 8 MB as JSON."""
LONG_WORDS: Final = 120
"""Most models of embeddings read no more than a few hundred tokens."""
RATE_MAX: Final = 1e6
"""Tokens per second: terms can't say more than four times as much."""


async def embedded(
    server: Server, served: Served, inputs: Inputs, *, within_s: float = ANSWER_S
) -> list[str]:
    """The parts of the output for some texts, as the page of the protocol has them.

    Raises:
        Refusal: The server won't.
        Unavailable: It can't be reached, is too slow, or sends something else.
    """
    body = bodies.embeddings(served.name, inputs)
    async with http.sent(server, "POST", bodies.EMBEDDINGS, body, within_s=within_s) as response:
        data = await response.whole(within_s=within_s, bytes_max=BODY_BYTES_MAX)
    return await trio.to_thread.run_sync(_parts, data, inputs)


def _parts(data: bytes, inputs: Inputs) -> list[str]:
    vectors = replies.vectors(replies.read_json(data), len(inputs.texts))
    try:
        parts = embeddings.written(vectors)
        embeddings.read("".join(parts), inputs)
    except DecodeError as error:
        raise Unavailable(f"the server's answer: {error}") from error
    return parts


async def dimensions(server: Server, served: Served, *, wanted: int = 0) -> int:
    """How many numbers a vector has.

    Raises:
        Refusal, Unavailable: As `embedded`; also if it has not as many as were wanted.
    """
    inputs = Inputs(texts=("One, two, three",), dimensions=wanted)
    [vector] = embeddings.read("".join(await embedded(server, served, inputs)), inputs)
    return len(vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    took_s: float
    tokens_in: int
    output: str


async def measure(server: Server, served: Served, *, slots: int) -> EngineRates:
    """Rates of a model of embeddings while nothing else of this node runs on the server.

    All output is there with its first token; what follows comes as fast as it is counted.

    Raises:
        Unavailable: It makes none.
    """
    short = await _timed(server, served, 1)
    long = await _timed(server, served, min(LONG_WORDS, served.manifest.context // 4))
    began_s = trio.current_time()
    counted = await trio.to_thread.run_sync(text_tokens, short.output, served.count)
    rate_tps = min(counted / max(trio.current_time() - began_s, 1e-3), RATE_MAX)
    return EngineRates(
        prefill_tps=long.tokens_in / long.took_s,
        decode_tps=rate_tps,
        decode_batch_tps=rate_tps * slots,
        first_token_ms=1000 * short.took_s,
    )


async def _timed(server: Server, served: Served, words: int) -> _Timed:
    inputs = Inputs(texts=(" ".join(["thing"] * max(1, words)),))
    began_s = trio.current_time()
    output = "".join(await embedded(server, served, inputs))
    took_s = max(trio.current_time() - began_s, 1e-3)
    return _Timed(took_s=took_s, tokens_in=inputs.tokens(served.count), output=output)
