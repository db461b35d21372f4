"""An answer whose last resort is the owner's own server."""

import secrets
from dataclasses import replace
from typing import Final

import structlog
import trio

from node.adapters.http.errors import ApiError
from node.adapters.http.port import Ended, LastResort, Sink, Started, TokenText
from node.app.gateway_job import Counter, MarketJob, Wanted
from node.app.gateway_upstream import Share, Upstream, UpstreamFailed
from node.protocol.tool_calls import CallPart, Part

log = structlog.get_logger("gateway")

PROVIDER: Final = "upstream"
NOBODY: Final = frozenset({404, 503})
"""What the market answers where it has nobody."""


class Noted:
    """A sink that remembers what was delivered, and who was tried."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.pieces: list[str] = []
        self.called = False
        """A call of a tool was begun."""
        self.tried: set[bytes] = set()

    def started(self, started: Started) -> None:
        """A worker is being sent the job."""
        if started.last_resort is None:
            self.tried.add(bytes.fromhex(started.provider[2:]))
        self._sink.started(started)

    def write(self, text: str, tokens: tuple[TokenText, ...]) -> None:
        """More of the answer."""
        self.pieces.append(text)
        self._sink.write(text, tokens)

    def call(self, part: CallPart) -> None:
        """The beginning of a call, or more of its arguments."""
        self.called = True
        self._sink.call(part)

    def more(self, parts: tuple[Part, ...]) -> None:
        """The same, from the last resort."""
        for part in parts:
            if isinstance(part, str):
                self.write(part, ())
            else:
                self.call(part)


class LastResortJob:
    """`port.Job`: the market's, and where that has nobody left, the owner's server's."""

    def __init__(
        self,
        job: MarketJob,
        counter: Counter,
        wanted: Wanted,
        noted: Noted,
        *,
        upstream: Upstream,
        name: str,
    ) -> None:
        """
        Args:
            job: The market's.
            counter: What jobs share.
            wanted: What is to be answered.
            noted: The sink of both.
            upstream: The last resort.
            name: Its name of the model.
        """
        self._job = job
        self._counter = counter
        self._wanted = wanted
        self._noted = noted
        self._upstream = upstream
        self._name = name
        self._cancelled = ""
        self._scope = trio.CancelScope()

    async def run(self) -> Ended:
        """Buy it; or have it answered, from the start or from where it stopped.

        Raises:
            ApiError: There is none, not even a part.
        """
        began_s = trio.current_time()
        try:
            ended = await self._job.run()
        except ApiError as error:
            if error.status not in NOBODY or self._cancelled or self._somebody(set()):
                raise
            return await self._from_the_start(error, began_s)
        cut = ended.finish == "error" and not self._cancelled
        if not cut or self._left_s(began_s) <= 0 or self._somebody(self._noted.tried):
            return ended
        return await self._from_there(ended, began_s)

    async def cancel(self, why: str) -> None:
        """End it wherever it is."""
        self._cancelled = self._cancelled or why
        self._scope.cancel()
        await self._job.cancel(why)

    def _somebody(self, without: set[bytes]) -> bool:
        """Whether a worker sells a model that would do, besides those that are not counted."""
        names = {step.model for step in self._wanted.steps}
        return any(self._counter.shelf.sellers(name) - without for name in names)

    def _left_s(self, began_s: float) -> float:
        return began_s + self._counter.config.gateway.timeout_s - trio.current_time()

    @property
    def _limit(self) -> int:
        return self._wanted.limit or self._counter.config.gateway.max_tokens

    async def _from_the_start(self, error: ApiError, began_s: float) -> Ended:
        if not self._upstream.can(self._wanted.question, begun=False):
            raise error
        nothing = Ended(
            started=Started(job_id=secrets.token_hex(16), model=self._name, provider=PROVIDER),
            finish="error",
            failure=str(error),
            tokens_in=0,
            tokens_cached=0,
            tokens_out=0,
            cost_micro=0,
            receipt=None,
        )
        ended = await self._taken_over(nothing, began_s)
        if ended.finish == "error" and not (self._noted.pieces or self._noted.called):
            raise ApiError(
                error.status,
                ended.failure,
                code=error.code,
                kind=error.kind,
                param=error.param,
                headers=error.headers,
            )
        return ended

    async def _from_there(self, ended: Ended, began_s: float) -> Ended:
        """What was delivered stays: it is neither lost nor given again."""
        question = self._wanted.question
        # Of an answer that may be a call, text may be held back.
        begun = bool("".join(self._noted.pieces) or (question.toolbox.tools and ended.tokens_out))
        if self._limit <= ended.tokens_out:
            return ended
        if not self._upstream.can(question, begun=begun):
            why = "the upstream can't go on with an answer that has begun"
            return replace(ended, failure=f"{ended.failure}; {why}")
        return await self._taken_over(ended, began_s)

    async def _taken_over(self, before: Ended, began_s: float) -> Ended:
        """The server's part, after what workers delivered."""
        mark = LastResort(after_tokens=before.tokens_out, reason=before.failure)
        started = replace(before.started, model=self._name, provider=PROVIDER, last_resort=mark)
        log.warning(
            "the upstream takes over",
            job=started.job_id,
            model=self._name,
            after_tokens=mark.after_tokens,
            reason=mark.reason,
        )
        self._noted.started(started)
        part, failure = Share(), ""
        with self._scope, trio.move_on_after(self._left_s(began_s)) as timed:
            try:
                await self._upstream.answer(
                    self._wanted.question,
                    self._name,
                    begun="".join(self._noted.pieces),
                    max_tokens=self._limit - before.tokens_out,
                    on_parts=self._noted.more,
                    part=part,
                )
            except UpstreamFailed as error:
                failure = f"{before.failure}; the upstream {error}"
                log.warning("the upstream failed", job=started.job_id, reason=str(error))
        if timed.cancelled_caught:
            failure = f"{before.failure}; the upstream was not done in time"
        elif self._cancelled and part.finish is None:
            failure = f"cancelled: {self._cancelled}"
        usage = part.usage
        return replace(
            before,
            started=started,
            finish=part.finish or ("cancelled" if self._cancelled else "error"),
            failure=failure,
            tokens_in=before.tokens_in or (usage.prompt if usage else 0),
            tokens_out=before.tokens_out + (usage.completion if usage else 0),
        )
