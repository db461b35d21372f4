"""An engine that makes ids at a given rate and computes nothing: the node around it is measured.

Each job has a clock of its own, so that tokens of different jobs fall due at different times, which
is the dearest case for whoever passes them on.  Like a real engine it goes on while nobody reads,
up to `AHEAD_TOKENS`: a reader that is late gets what fell due meanwhile in one step.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from node.adapters import model_folder
from node.adapters.onnx.loop import AHEAD_TOKENS
from node.errors import Unavailable
from node.protocol.manifest import Manifest
from node.roles.generation import (
    EngineLoad,
    EngineModel,
    EngineRates,
    GenerationRequest,
    TokenStep,
)

SLOTS: Final = 64
CONTEXT: Final = 1 << 17
FIRST_ID: Final = 5
"""Above the special tokens."""


def manifest() -> Manifest:
    """The shipped model's, with a longer context and so another hash."""
    shipped = model_folder.load(model_folder.shipped()).manifest
    return replace(shipped, name="paced", context=CONTEXT)


class PacedEngine:
    """Implements `roles.generation.Engine`."""

    def __init__(self, *, tokens_per_s: float) -> None:
        self.tokens_per_s = tokens_per_s
        """Of each job; of those that begin after a change."""
        self._manifest = manifest()
        self._jobs = 0

    def models(self) -> tuple[EngineModel, ...]:
        rates = EngineRates(
            prefill_tps=1e5, decode_tps=1e3, decode_batch_tps=1e3 * SLOTS, first_token_ms=1
        )
        described = EngineModel(
            manifest=self._manifest, context=CONTEXT, slots=SLOTS, rates=rates, exact=True
        )
        return (described,)

    def load(self) -> EngineLoad:
        return EngineLoad(active=self._jobs, slots=SLOTS, queued=0, queue_max=SLOTS)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[TokenStep]]:
        if self._jobs >= SLOTS:
            raise Unavailable("no slot is free")
        self._jobs += 1
        try:
            yield self._steps(request.max_tokens)
        finally:
            self._jobs -= 1

    async def _steps(self, max_tokens: int) -> AsyncIterator[TokenStep]:
        step_s, made = 1 / self.tokens_per_s, 0
        due_s = trio.current_time()
        while made < max_tokens:
            await trio.sleep_until(due_s)
            late_s = trio.current_time() - due_s
            count = min(1 + int(late_s / step_s), AHEAD_TOKENS, max_tokens - made)
            # A reader that was late for more than it is given finds the engine paused meanwhile.
            due_s = max(due_s + count * step_s, trio.current_time() - AHEAD_TOKENS * step_s)
            ids = tuple(FIRST_ID + (made + at) % 1024 for at in range(count))
            made += count
            yield TokenStep(ids=ids, finish="length" if made == max_tokens else None)
