"""How fast a server is with a model, measured through it as jobs will use it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from node.adapters.openai import bodies
from node.adapters.openai.completions import streamed
from node.adapters.openai.http import Server
from node.adapters.openai.served import Served
from node.errors import Unavailable
from node.protocol.chat import Chat, ChatMessage
from node.protocol.sampling import Sampling
from node.protocol.statements import Tier
from node.roles.generation import EngineRates

LIMIT_S: Final = 15.0
"""For each of the figures; what is not there by then is left out."""
TOKENS: Final = 64
LONG_WORDS: Final = 600
TOGETHER_MAX: Final = 16
"""Jobs at once: more would hold a small server up for too long."""
RATE_MIN: Final = 0.1
SAMPLING: Final = Sampling(temperature=1.0)


@dataclass(slots=True, kw_only=True)
class _Run:
    tokens_in: int
    began_s: float
    first_s: float | None = None
    last_s: float = 0.0
    tokens: int = 0


async def measure(
    server: Server,
    served: Served,
    *,
    tier: Tier,
    slots: int,
    limit_tps: float,
    ignore_eos: bool = True,
) -> EngineRates:
    """Rates of one model while nothing else of this node runs on the server.

    Args:
        server: Which.
        served: The model.
        tier: In what it is asked, and counted.
        slots: Jobs that this node gives it at once.
        limit_tps: The operator's limit on one job's rate; 0 for none.
        ignore_eos: Whether the server takes that: answers may be shorter where it does not.

    Raises:
        Unavailable: Not even one short answer came in time.
    """
    start = _body_of(served, tier, ignore_eos=ignore_eos)
    short = await _runs(server, served, [start(1)])
    long = await _runs(server, served, [start(min(LONG_WORDS, served.manifest.context // 4))])
    many = await _runs(server, served, [start(1 + n) for n in range(min(slots, TOGETHER_MAX))])
    first_s = min((run.first_s for run in short if run.first_s is not None), default=None)
    if first_s is None:
        raise Unavailable("the server made no token while it was measured")
    alone_tps = max(map(_rate_tps, short))
    limit = limit_tps or float("inf")
    return EngineRates(
        prefill_tps=max(_prefill_tps(long[0], first_s), _prefill_tps(short[0], 0.0)),
        decode_tps=min(limit, max(alone_tps, RATE_MIN)),
        decode_batch_tps=min(limit * slots, max(sum(map(_rate_tps, many)), alone_tps, RATE_MIN)),
        first_token_ms=1000 * first_s,
    )


def _rate_tps(run: _Run) -> float:
    """Tokens after the first over the time after it; the whole, where it came in one piece."""
    if run.first_s is None:
        return 0.0
    after_s = run.last_s - run.began_s - run.first_s
    if run.tokens > 1 and after_s > 0:
        return (run.tokens - 1) / after_s
    return run.tokens / max(run.last_s - run.began_s, 1e-3)


def _prefill_tps(run: _Run, first_s: float) -> float:
    """By what a longer prompt takes more than a short one; its whole time, where that is noise."""
    if run.first_s is None:
        return RATE_MIN
    more_s = run.first_s - first_s
    if more_s < run.first_s / 4:
        more_s = run.first_s
    return max(run.tokens_in / max(more_s, 1e-3), RATE_MIN)


def _body_of(
    served: Served, tier: Tier, *, ignore_eos: bool
) -> Callable[[int], tuple[str, bytes, int]]:
    """Path, body and prompt size of a request with some words; each begins with another one."""

    def in_text(words: int) -> tuple[str, bytes, int]:
        content = f"{words} things: " + "one more thing " * (words // 3) + "Tell a long story."
        asked = Chat(messages=(ChatMessage(role="user", content=content),))
        body = bodies.chat(
            served.name, asked, max_tokens=TOKENS, sampling=SAMPLING, ignore_eos=ignore_eos
        )
        return bodies.CHAT, body, asked.tokens(served.count)

    def in_ids(words: int) -> tuple[str, bytes, int]:
        text = f"{words} things: " + "one more thing " * (words // 3) + "Once upon a time"
        ids = tuple(served.encode(text))[: max(1, served.manifest.context // 2)]
        body = bodies.completion(
            served.name, ids, max_tokens=TOKENS, sampling=SAMPLING, ignore_eos=ignore_eos
        )
        return bodies.COMPLETIONS, body, len(ids)

    return in_ids if tier is Tier.IDS else in_text


async def _runs(server: Server, served: Served, wanted: list[tuple[str, bytes, int]]) -> list[_Run]:
    runs = [_Run(tokens_in=size, began_s=trio.current_time()) for _, _, size in wanted]
    with trio.move_on_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for run, (path, body, _) in zip(runs, wanted, strict=True):
                nursery.start_soon(_follow, server, served, path, body, run)
    return runs


async def _follow(server: Server, served: Served, path: str, body: bytes, run: _Run) -> None:
    try:
        async with streamed(server, path, body) as deltas:
            async for delta in deltas:
                if not delta.text and not delta.ids and not delta.hidden:
                    continue
                run.last_s = trio.current_time()
                if run.first_s is None:
                    run.first_s = run.last_s - run.began_s
                run.tokens += len(delta.ids) if delta.ids else served.count((delta.text or "x",))[0]
    except Unavailable:
        return  # what it brought until then is a figure as well
