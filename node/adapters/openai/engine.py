"""The engine that is somebody else's server: found, probed, measured, and watched while it sells.

A server starts slowly, is restarted, or forgets a model: what it has not now is not among `models`,
and what was running there fails at once or after a bounded wait.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from node.adapters.openai import bodies, checks, embeddings, http, rates, replies
from node.adapters.openai.completions import streamed
from node.adapters.openai.http import Server
from node.adapters.openai.probe import probe
from node.adapters.openai.replies import CallText, Delta, Surrogates
from node.adapters.openai.served import Abilities, Ability, Served
from node.errors import PeerError, Unavailable
from node.protocol.chat import Chat
from node.protocol.embeddings import TOKENS_MAX, Inputs
from node.protocol.fields import ZERO_HASH
from node.protocol.manifest import CONTEXT_MAX
from node.protocol.statements import Tier
from node.protocol.stops import FinishReason, Output
from node.roles.generation import EngineLoad, EngineModel, GenerationRequest, TokenStep

log = structlog.get_logger("openai")

LOOK_EVERY_S: Final = 2.0
"""Between looks at the list of models: so long a server's end may go unnoticed while it is idle."""
LOOK_S: Final = 5.0
START_S: Final = 120.0
"""How long the start waits for a server that is there to be probed and measured."""
MISSES_MAX: Final = 3
NAMES_SHOWN_MAX: Final = 32
CONTEXT: Final = 8192
RETRY_S: Final = 15.0
"""After a model could not be probed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Live:
    served: Served
    described: EngineModel
    abilities: Abilities


class OpenAIEngine:
    """Implements `roles.generation.Engine`."""

    def __init__(
        self,
        server: Server,
        models: Sequence[Served],
        *,
        slots: int,
        queue_max: int,
        tokens_per_s_max: float = 0.0,
        context: int = CONTEXT,
        ids_wanted: bool = True,
    ) -> None:
        """
        Args:
            server: Which.
            models: What may be sold of it.
            slots: Jobs that it is given at once, over all models.
            queue_max: Jobs that may wait here for one of these.
            tokens_per_s_max: The operator's limit on one job's promised rate; 0 for none.
            context: Most tokens, where neither the server nor the manifest says it.
            ids_wanted: Whether tier ids is sold where the server can do it.
        """
        self._server = server
        self._served = {each.name: each for each in models}
        self._slots = slots
        self._queue_max = queue_max
        self._tokens_per_s_max = tokens_per_s_max
        self._context = context
        self._ids_wanted = ids_wanted
        self._limiter = trio.CapacityLimiter(slots)
        self._jobs = 0
        self._live: dict[bytes, _Live] = {}
        self._retry_s: dict[str, float] = {}
        self._wake = trio.Event()
        self._misses = 0
        """Looks in a row that the server did not answer."""
        self._missing: frozenset[str] = frozenset()
        """What is to be sold and was not on its list when it last answered."""
        self.abilities: dict[str, Abilities] = {}
        """What was found out last, by the server's name of the model."""
        self.down = "not looked at yet"
        """Why the server can't be used now; empty while it can."""

    def models(self) -> tuple[EngineModel, ...]:
        """What can be used now."""
        return tuple(live.described for live in self._live.values())

    def load(self) -> EngineLoad:
        """How busy it is, as far as this node's jobs go."""
        return EngineLoad(
            active=min(self._jobs, self._slots),
            slots=self._slots,
            queued=max(0, self._jobs - self._slots),
            queue_max=self._queue_max,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for the models until cancelled.

        Started once they were probed, or the server was found not to be there: it may come later.
        """
        with trio.move_on_after(START_S):
            await self._look()
        task_status.started()
        while True:
            self._wake = trio.Event()
            with trio.move_on_after(LOOK_EVERY_S):
                await self._wake.wait()
                await trio.sleep(LOOK_EVERY_S / 4)  # what has just failed is given a moment
            await self._look()

    async def _look(self) -> None:
        """Compare what the server has with what is sold."""
        try:
            names = await self._names()
        except Unavailable as error:
            self._misses += 1
            if self._jobs and self._misses < MISSES_MAX:
                return  # busy with them, perhaps
            if self._live or self.down != str(error):
                log.warning("server", at=str(self._server), down=str(error))
            self.down = str(error)
            self._live.clear()
            self._retry_s.clear()
            return
        self._misses = 0
        if self.down:
            log.info("server", at=str(self._server), models=sorted(names)[:NAMES_SHOWN_MAX])
        self.down = ""
        self._tell_missing(names)
        for model_id, live in tuple(self._live.items()):
            if live.served.name not in names:
                log.warning("model has left", model=live.served.name)
                del self._live[model_id]
        for name in names.keys() & self._served.keys():
            served = self._served[name]
            due = self._retry_s.get(name, 0.0) <= trio.current_time()
            if served.manifest.model_id not in self._live and due:
                await self._take(served, names[name])

    def _tell_missing(self, names: Collection[str]) -> None:
        """Once for each change: a name written wrongly is waited for like a model that is late."""
        missing = frozenset(self._served.keys() - names)
        if missing - self._missing:
            has = sorted(names)[:NAMES_SHOWN_MAX]
            log.warning("the server lists no such model", models=sorted(missing), has=has)
        self._missing = missing

    async def _names(self) -> dict[str, int | None]:
        async with http.sent(self._server, "GET", bodies.MODELS, within_s=LOOK_S) as response:
            body = await response.whole(within_s=LOOK_S)
        return replies.model_names(replies.read_json(body))

    async def _take(self, served: Served, context: int | None) -> None:
        """Probe and measure a model; it is sold from then on, unless it can't be."""
        try:
            described = await self._described(served, context)
        except Unavailable as error:
            log.warning("model not usable", model=served.name, reason=str(error))
            self._retry_s[served.name] = trio.current_time() + RETRY_S
            return
        self._live[served.manifest.model_id] = _Live(
            served=served, described=described, abilities=self.abilities[served.name]
        )

    async def _described(self, served: Served, context: int | None) -> EngineModel:
        found = await probe(self._server, served, ids_wanted=self._ids_wanted)
        self.abilities[served.name] = found
        if found.tier is None:
            raise Unavailable(found.why)
        embeds = found.has(Ability.EMBEDDINGS)
        if embeds:
            measured = await embeddings.measure(self._server, served, slots=self._slots)
        else:
            measured = await rates.measure(
                self._server,
                served,
                tier=found.tier,
                slots=self._slots,
                limit_tps=self._tokens_per_s_max,
                ignore_eos=found.has(Ability.IGNORE_EOS),
            )
        in_text = found.tier is Tier.TEXT
        return EngineModel(
            manifest=served.manifest,
            # Of a job's inputs each has the model's context; its vectors take none of that.
            context=TOKENS_MAX if embeds else self._context_of(served, context),
            slots=self._slots,
            rates=measured,
            exact=False,  # it draws with a seed of its own making
            continues=found.has(Ability.CONTINUES),
            tier=found.tier,
            tokenizer=served.tokenizer if in_text else ZERO_HASH,
            count=served.count if in_text else None,
            skills=checks.skills_of(found) if in_text else 0,
        )

    def _context_of(self, served: Served, told: int | None) -> int:
        known = [each for each in (served.manifest.context, told) if each and each < CONTEXT_MAX]
        return min(known, default=self._context)

    def generate(
        self, request: GenerationRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[TokenStep]]:
        """A job; see the port."""
        return self._generate(request)

    @asynccontextmanager
    async def _generate(
        self, request: GenerationRequest
    ) -> AsyncIterator[AsyncIterator[TokenStep]]:
        live = self._live.get(request.model)
        if live is None:
            if all(each.manifest.model_id != request.model for each in self._served.values()):
                raise PeerError("a model that is not sold here")
            raise Unavailable("the model's server is not there")
        checks.check(live.described, live.abilities, request)
        if self._jobs >= self._slots + self._queue_max:
            raise Unavailable("the queue for the server is full")
        self._jobs += 1
        try:
            job = _Job(self._server, live, request, self._limiter)
            async with job.running() as steps:
                yield steps
        except Unavailable:
            self._wake.set()  # look at once whether the server is still there
            raise
        finally:
            self._jobs -= 1


class _Job:
    """One request, from its place at the server to its last event."""

    def __init__(
        self,
        server: Server,
        live: _Live,
        request: GenerationRequest,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self._server = server
        self._live = live
        self._request = request
        self._limiter = limiter
        self._output = None if request.chat is not None else self._output_of()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AsyncIterator[TokenStep]]:
        """The steps; leaving the context closes the connection and frees the place."""
        steps = self._steps()
        try:
            yield steps
        finally:
            with trio.CancelScope(shield=True):
                await steps.aclose()  # closes what is open, and waits for nobody

    async def _steps(self) -> AsyncGenerator[TokenStep, None]:
        if isinstance(self._request.chat, Inputs):
            async with self._limiter_held():
                parts = await embeddings.embedded(
                    self._server, self._live.served, self._request.chat
                )
                for at, part in enumerate(parts, start=1):
                    yield TokenStep(text=part, finish="stop" if at == len(parts) else None)
            return
        async with (
            self._limiter_held(),
            streamed(self._server, self._path, self._body()) as deltas,
        ):
            convert = self._text if self._request.chat is not None else self._ids
            async for step in convert(deltas):
                yield step

    @asynccontextmanager
    async def _limiter_held(self) -> AsyncIterator[None]:
        holder = object()
        await self._limiter.acquire_on_behalf_of(holder)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(holder)

    @property
    def _calls(self) -> bool:
        """Whether calls of tools are a part of the answer."""
        return isinstance(self._request.chat, Chat) and bool(self._request.chat.toolbox.tools)

    @property
    def _path(self) -> str:
        return bodies.COMPLETIONS if self._request.chat is None else bodies.CHAT

    def _body(self) -> bytes:
        request, name = self._request, self._live.served.name
        assert not isinstance(request.chat, Inputs)
        if request.chat is not None:
            return bodies.chat(
                name,
                request.chat,
                prefix=request.prefix_text,
                max_tokens=request.max_tokens,
                sampling=request.sampling,
                ignore_eos=request.ignore_eos,
                format=request.format,
            )
        return bodies.completion(
            name,
            request.prompt_ids + request.prefix_ids,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            ignore_eos=request.ignore_eos,
        )

    async def _text(self, deltas: AsyncIterator[Delta]) -> AsyncIterator[TokenStep]:
        surrogates, calls = Surrogates(), CallText()
        async for delta in deltas:
            text = surrogates.push(calls.push(delta) if self._calls else delta.text)
            if delta.finish is not None:
                # Another reason than its limit (a filter, a tool) is an end of the answer as well.
                finish: FinishReason = "length" if delta.finish == "length" else "stop"
                if finish == "stop":  # a call that was cut is left open
                    text += surrogates.push(calls.rest())
                yield TokenStep(text=text + surrogates.rest(), finish=finish)
                return
            if text:
                yield TokenStep(text=text)
        raise Unavailable("the server's stream ended without a reason")

    async def _ids(self, deltas: AsyncIterator[Delta]) -> AsyncIterator[TokenStep]:
        output = self._output
        assert output is not None
        async for delta in deltas:
            if delta.text and delta.ids is None:
                raise Unavailable("the server told text without its ids")
            ids, stop = [], None
            for token in delta.ids or ():
                ids.append(token)
                piece = output.push(token)
                if piece.finish is not None:
                    stop = piece.stop
                    break
            if output.finish is None and delta.finish == "stop" and not self._request.ignore_eos:
                ids += self._end_token(output)
            if ids:
                yield TokenStep(ids=tuple(ids), finish=output.finish, stop=stop)
            if output.finish is not None:
                return
            if delta.finish is not None:
                raise Unavailable(f"the server ended early: {delta.finish[:60]}")
        raise Unavailable("the server's stream ended without a reason")

    def _end_token(self, output: Output) -> Sequence[int]:
        """The end token that the server drew and does not tell: it was made, and it counts."""
        ends = self._live.served.manifest.eos_ids[:1]
        for token in ends:
            output.push(token)
        return ends

    def _output_of(self) -> Output:
        """
        Raises:
            PeerError: The prefix has ended already, or there is no room.
        """
        request, served = self._request, self._live.served
        limit = min(
            request.max_tokens,
            self._live.described.context - len(request.prompt_ids) - len(request.prefix_ids),
        )
        if limit < 1:
            raise PeerError("no room for a token")
        output = Output(
            decode=served.decode if request.stop else None,
            eos_ids=served.manifest.eos_ids,
            stops=request.stop,
            max_tokens=len(request.prefix_ids) + limit,
            ignore_eos=request.ignore_eos,
        )
        if any(output.push(token).finish for token in request.prefix_ids):
            raise PeerError("a prefix that has ended already")
        return output
