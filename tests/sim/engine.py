"""An engine that writes numbers at a virtual pace, and now and then breaks."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.errors import Unavailable
from node.protocol.manifest import FileRole, Manifest, ModelFile
from node.roles.generation import EngineLoad, EngineModel, EngineRates, GenerationRequest, TokenStep

MANIFEST = Manifest(
    name="simulated",
    architecture="llama",
    precision="float32",
    context=4096,
    vocab=1024,
    licence="Apache-2.0",
    eos_ids=(0,),
    files=(ModelFile(path="model.onnx", role=FileRole.GRAPH, sha256=bytes(32), size=1),),
)
MODEL = MANIFEST.model_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an engine computes."""

    step_s: float = 0.02
    burst: int = 2
    """Tokens in a step."""
    slots: int = 4
    failure_share: float = 0.0
    """Of the jobs, how many end in the middle because the engine fails."""


class SimEngine:
    """`generation.Engine`."""

    def __init__(self, pace: Pace, rng: random.Random) -> None:
        rate = pace.burst / pace.step_s
        rates = EngineRates(
            prefill_tps=5000.0, decode_tps=rate, decode_batch_tps=2 * rate, first_token_ms=20.0
        )
        self._sold = EngineModel(
            manifest=MANIFEST, context=2048, slots=pace.slots, rates=rates, exact=True
        )
        self._pace = pace
        self._rng = rng
        self._active = 0
        self.stalled_until_s = 0.0
        """Nothing is made before."""

    def models(self) -> tuple[EngineModel, ...]:
        return (self._sold,)

    def load(self) -> EngineLoad:
        return EngineLoad(active=self._active, slots=self._pace.slots, queued=0, queue_max=16)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[TokenStep]]:
        self._active += 1
        try:
            yield self._steps(request)
        finally:
            self._active -= 1

    async def _steps(self, request: GenerationRequest) -> AsyncIterator[TokenStep]:
        length, first = request.prompt_ids[0], len(request.prefix_ids)
        fails_at = length
        if self._rng.random() < self._pace.failure_share:
            fails_at = self._rng.randrange(length)
        made, most = first, first + request.max_tokens
        cached = tokens_cached(len(request.prompt_ids) + first)
        while made < most:
            await trio.sleep(self._pace.step_s)
            while trio.current_time() < self.stalled_until_s:  # noqa: ASYNC110
                await trio.sleep(0.05)
            count = min(self._pace.burst, most - made)
            if made + count > length:
                ids = (*_ids(made, length - made), 0)
                yield TokenStep(ids=ids, finish="stop", tokens_cached=cached)
                return
            if made > fails_at:
                raise Unavailable("the engine broke")
            made += count
            finish = "length" if made == most else None
            yield TokenStep(
                ids=_ids(made - count, count),
                finish=finish,  # type: ignore[arg-type]
                tokens_cached=cached,
            )


def tokens_cached(tokens_in: int) -> int:
    """Of a prompt, what the engine says that it had: half, of every second one."""
    return tokens_in // 2 if tokens_in % 2 else 0


def written(length: int, first: int, most: int) -> tuple[int, ...]:
    """What the model writes from a position on, undisturbed: `length` tokens and its end."""
    whole = (*_ids(0, length), 0)
    return whole[first : first + most]


def _ids(first: int, count: int) -> tuple[int, ...]:
    return tuple(each % 1000 + 1 for each in range(first, first + count))
