"""The engine in process: exported decoders on ONNX Runtime, each with a loop of its own."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from node.adapters.onnx import decoder as decoders
from node.adapters.onnx.decoder import Decoder
from node.adapters.onnx.job import Grammar, Job, Made
from node.adapters.onnx.loop import Drop, Happened, Loop, Stop, Submit, Taken
from node.adapters.onnx.prefixes import Prefixes
from node.adapters.onnx.rates import measure
from node.errors import ConfigError, PeerError, Unavailable
from node.protocol.manifest import Manifest
from node.protocol.statements import Skill
from node.protocol.stops import Decode
from node.roles.generation import EngineLoad, EngineModel, GenerationRequest, TokenStep

QUEUE_MAX: Final = 16
GRAMMARS_AT_ONCE: Final = 2
"""Formats that are made ready side by side, in threads of their own."""
GRAMMAR_S: Final = 5.0
"""For one, its wait for a thread included: usually some milliseconds."""

MakeGrammar = Callable[[str, Sequence[int]], Grammar]
"""The grammar of a format, after some output.  Computes.  Raises PeerError if that output does not
fit, and Unavailable if there is no grammar to be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """A model that the engine is to load."""

    manifest: Manifest
    graph: Path
    """The ONNX file, its external data beside it."""
    decode: Decode
    """Ids to text, for stop strings."""
    grammar: MakeGrammar | None = None
    """None: no format can be forced."""


class _Reader:
    """What a job has made and its reader has not yet taken.  Belongs to the event loop."""

    def __init__(self, job: Job, tell: Callable[[Taken], None]) -> None:
        self.job = job
        self._tell = tell
        self._made: list[Made] = []
        self._failure: Unavailable | None = None
        self._something = trio.Event()
        self._finished = False

    def put(self, event: Made | Unavailable) -> None:
        if isinstance(event, Unavailable):
            self._failure = event
        else:
            self._made.append(event)
        self._something.set()

    def __aiter__(self) -> "_Reader":
        return self

    async def __anext__(self) -> TokenStep:
        if self._finished:
            raise StopAsyncIteration
        await self._something.wait()
        if not self._made:
            assert self._failure is not None
            raise self._failure
        made, self._made = self._made, []
        if self._failure is None:
            self._something = trio.Event()
        self._finished = made[-1].finish is not None
        self.job.taken += len(made)
        if self.job.paused:
            self._tell(Taken())
        return _step(made, self.job.tokens_cached)


def _step(made: Sequence[Made], tokens_cached: int) -> TokenStep:
    last = made[-1]
    return TokenStep(
        ids=tuple(one.token for one in made),
        logprobs=tuple(one.logprob for one in made if one.logprob is not None),
        finish=last.finish,
        stop=last.stop,
        tokens_cached=tokens_cached,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    model: OnnxModel
    loop: Loop
    described: EngineModel


class OnnxEngine:
    """Implements `roles.generation.Engine`."""

    def __init__(
        self,
        models: Sequence[OnnxModel],
        *,
        slots: int = 4,
        threads: int = 1,
        tokens_per_s_max: float = 0.0,
        queue_max: int = QUEUE_MAX,
        prefix_bytes_max: int = 0,
    ) -> None:
        """
        Args:
            models: What to load when `run` starts.
            slots: Jobs of each model that are computed at once.
            threads: For one run of a model, on the CPU; 0: one for each core.
            tokens_per_s_max: The operator's limit on any one job's output rate; 0 for none.
            queue_max: Jobs that may wait for a slot, over all models.
            prefix_bytes_max: Memory for what prompts leave to later ones, over all models; 0: they
                leave nothing.
        """
        self._models = tuple(models)
        self._slots = slots
        self._threads = threads
        self._tokens_per_s_max = tokens_per_s_max
        self._queue_max = queue_max
        self._prefix_bytes_max = prefix_bytes_max // max(1, len(self._models))
        self._loaded: dict[bytes, _Loaded] = {}
        self._readers: dict[int, _Reader] = {}
        self._making = trio.CapacityLimiter(GRAMMARS_AT_ONCE)
        self._token: trio.lowlevel.TrioToken | None = None

    def models(self) -> tuple[EngineModel, ...]:
        """What is loaded; empty before `run` has started."""
        return tuple(loaded.described for loaded in self._loaded.values())

    def load(self) -> EngineLoad:
        """How busy it is."""
        slots = self._slots * len(self._models)
        jobs = len(self._readers)
        return EngineLoad(
            active=min(jobs, slots),
            slots=slots,
            queued=max(0, jobs - slots),
            queue_max=self._queue_max,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models, then serve until cancelled.

        Raises:
            ConfigError: A model can't be loaded.
        """
        self._token = trio.lowlevel.current_trio_token()
        # Threads of our own: nobody else's work waits for these, which last as long as we do.
        limiter = trio.CapacityLimiter(max(1, len(self._models)))
        for model in self._models:
            loaded = await trio.to_thread.run_sync(self._load, model, limiter=limiter)
            self._loaded[model.manifest.model_id] = loaded
        try:
            async with trio.open_nursery() as nursery:
                for loaded in self._loaded.values():
                    nursery.start_soon(self._serve, loaded.loop, limiter)
                task_status.started()
        finally:
            self._loaded.clear()
            for reader in self._readers.values():
                reader.put(Unavailable("the engine has stopped"))

    async def _serve(self, loop: Loop, limiter: trio.CapacityLimiter) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_cancelled, loop)
            # Not abandoned when cancelled: the loop ends by itself, after its turn.
            await trio.to_thread.run_sync(loop.run, limiter=limiter)
            nursery.cancel_scope.cancel()

    def _load(self, model: OnnxModel) -> _Loaded:
        context = model.manifest.context
        decoder = decoders.load(model.graph, threads=self._threads, context=context)
        loop = Loop(
            decoder,
            slots=self._slots,
            vocab=model.manifest.vocab,
            tokens_per_s_max=self._tokens_per_s_max,
            deliver=self._deliver,
            prefixes=Prefixes(decoder, bytes_max=self._prefix_bytes_max),
        )
        try:
            described = self._described(model, decoder)
        except Unavailable as error:  # nothing that waiting would change
            raise ConfigError(f"{model.graph}: {error}") from error
        return _Loaded(model=model, loop=loop, described=described)

    def _described(self, model: OnnxModel, decoder: Decoder[Any]) -> EngineModel:
        manifest = model.manifest
        if (width := decoders.vocab(decoder)) != manifest.vocab:
            raise ConfigError(f"{model.graph}: {width} logits, the manifest says {manifest.vocab}")
        return EngineModel(
            manifest=manifest,
            context=manifest.context,
            slots=self._slots,
            rates=measure(decoder, manifest, slots=self._slots, limit_tps=self._tokens_per_s_max),
            exact=True,
            skills=0 if model.grammar is None else Skill.JSON | Skill.SCHEMA,
        )

    def _deliver(self, happened: Sequence[Happened]) -> None:
        """From a loop's thread to the event loop: one hand-over per turn."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._dispatch, happened)
        except trio.RunFinishedError:
            return  # nobody is left to read it

    def _dispatch(self, happened: Sequence[Happened]) -> None:
        for job, event in happened:
            reader = self._readers.get(id(job))
            if reader is not None:
                reader.put(event)

    def generate(
        self, request: GenerationRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[TokenStep]]:
        """A job; see the port."""
        return self._generate(request)

    @asynccontextmanager
    async def _generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[TokenStep]]:
        loaded = self._loaded.get(request.model)
        if loaded is None:
            raise PeerError("a model that is not loaded here")
        load = self.load()
        if load.queued >= load.queue_max and load.active >= load.slots:
            raise Unavailable("the engine's queue is full")
        model = loaded.model
        grammar = await self._grammar(model, request) if request.format else None
        job = Job(request, model.manifest, model.decode, grammar)
        reader = _Reader(job, loaded.loop.tell)
        self._readers[id(job)] = reader
        loaded.loop.tell(Submit(job=job))
        try:
            yield reader
        finally:
            del self._readers[id(job)]
            loaded.loop.tell(Drop(job=job))

    async def _grammar(self, model: OnnxModel, request: GenerationRequest) -> Grammar:
        """Made off the event loop, and off the loop that computes everybody's tokens."""
        if model.grammar is None:
            raise PeerError("a format that can't be forced here")
        make = partial(model.grammar, request.format, request.prefix_ids)
        with trio.move_on_after(GRAMMAR_S):
            return await trio.to_thread.run_sync(make, limiter=self._making, abandon_on_cancel=True)
        raise Unavailable("the format takes too long to be made ready")


async def _stop_when_cancelled(loop: Loop) -> None:
    try:
        await trio.sleep_forever()
    finally:
        loop.tell(Stop())
