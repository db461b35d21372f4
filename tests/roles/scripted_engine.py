"""A real engine over a model that is a few lines: for the contract, and where ONNX is too much."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import trio
from numpy.typing import NDArray

from node.errors import PeerError, Unavailable
from node.protocol.drawing import History, best, choose, log_softmax
from node.protocol.logprobs import TokenLogprob
from node.protocol.manifest import FileRole, Manifest, ModelFile
from node.protocol.stops import Output
from node.roles.generation import (
    EngineLoad,
    EngineModel,
    EngineRates,
    GenerationRequest,
    TokenStep,
)

LETTERS = "\0abcdefghijklmnopqrstuvwxyz "
MANIFEST = Manifest(
    name="letters",
    architecture="table",
    precision="float32",
    context=256,
    vocab=len(LETTERS),
    licence="Apache-2.0",
    eos_ids=(0,),
    files=(
        ModelFile(path="tokenizer.json", role=FileRole.TOKENIZER, sha256=bytes(32), size=0),
    ),
)  # fmt: skip


def decode(ids: Sequence[int]) -> str:
    """Ids as letters; the end token shows nothing."""
    return "".join(LETTERS[token] for token in ids if token)


def logits(ids: Sequence[int]) -> NDArray[np.float32]:
    """The next letter depends on the last three; the end token is rare."""
    digest = hashlib.blake2b(bytes(ids[-3:]), digest_size=len(LETTERS)).digest()
    row = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) / np.float32(40)
    row[0] -= 6
    return row


class ScriptedEngine:
    """One model, some slots, a bounded queue; a token per turn of the event loop."""

    def __init__(self, *, slots: int = 2, queue_max: int = 2) -> None:
        self._limiter = trio.CapacityLimiter(slots)
        self._queue_max = queue_max
        self._jobs = 0
        self.steps = 0
        """Tokens made, over all jobs."""

    def models(self) -> tuple[EngineModel, ...]:
        rates = EngineRates(prefill_tps=1e4, decode_tps=1e3, decode_batch_tps=2e3, first_token_ms=1)
        slots = int(self._limiter.total_tokens)
        return (
            EngineModel(
                manifest=MANIFEST, context=MANIFEST.context, slots=slots, rates=rates, exact=True
            ),
        )

    def load(self) -> EngineLoad:
        slots = int(self._limiter.total_tokens)
        return EngineLoad(
            active=min(self._jobs, slots),
            slots=slots,
            queued=max(0, self._jobs - slots),
            queue_max=self._queue_max,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[TokenStep]]:
        before = request.prompt_ids + request.prefix_ids
        limit = min(request.max_tokens, MANIFEST.context - len(before))
        if request.model != MANIFEST.model_id or not request.prompt_ids or limit < 1:
            raise PeerError("a model, prompt or length that is not possible")
        if not all(0 <= token < MANIFEST.vocab for token in before):
            raise PeerError("a token id outside the vocabulary")
        if self._jobs >= self._limiter.total_tokens + self._queue_max:
            raise Unavailable("the queue is full")
        self._jobs += 1
        holder = object()
        try:
            yield self._steps(holder, request, len(request.prefix_ids) + limit)
        finally:
            self._jobs -= 1
            with contextlib.suppress(RuntimeError):  # it may not have got a slot
                self._limiter.release_on_behalf_of(holder)

    async def _steps(
        self, holder: object, request: GenerationRequest, limit: int
    ) -> AsyncIterator[TokenStep]:
        out = Output(
            decode=decode,
            eos_ids=MANIFEST.eos_ids,
            stops=request.stop,
            max_tokens=limit,
            ignore_eos=request.ignore_eos,
        )
        for token in request.prefix_ids:
            out.push(token)
        ids = [*request.prompt_ids, *request.prefix_ids]
        await self._limiter.acquire_on_behalf_of(holder)
        while out.finish is None:
            await trio.lowlevel.checkpoint()
            yield self._one(request, ids, out)
        self._limiter.release_on_behalf_of(holder)

    def _one(self, request: GenerationRequest, ids: list[int], out: Output) -> TokenStep:
        row, sampling = logits(ids), request.sampling
        history = History(request.prompt_ids, ids[len(request.prompt_ids) :])
        token = choose(row, sampling=sampling, position=out.count, history=history)
        ids.append(token)
        piece = out.push(token)
        self.steps += 1
        told: tuple[TokenLogprob, ...] = ()
        if sampling.logprobs is not None:
            every = log_softmax(row)
            top = best(every, sampling.logprobs)
            told = (TokenLogprob(chosen=float(every[token]), top=top),)
        return TokenStep(ids=(token,), logprobs=told, finish=piece.finish, stop=piece.stop)
