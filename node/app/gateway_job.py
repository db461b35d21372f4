"""One answer of the gateway: bought like any job, on a key's account, by the steps of a plan."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import structlog
import trio

from node.adapters import grammar
from node.adapters.http.errors import ApiError, bad_field, busy, failed, unpaid, unsupported
from node.adapters.http.port import Customer, Ended, Sink, Started
from node.app import receipts, tooling
from node.app.buyer import Buyer
from node.app.figures import finish_of
from node.app.gateway_embeddings import check_kind, fault
from node.app.gateway_models import Shelf
from node.app.gateway_plan import Step
from node.app.gateway_tap import Tap, Watcher
from node.app.home import Home
from node.app.key_book import KeyBook
from node.app.ordering import Question, Reader, answer_of, order_of
from node.config import Config
from node.errors import ConfigError, NodeError, NoPeers, PeerError, UsageError, WalletError
from node.protocol.chat import with_tools
from node.protocol.formats import FormatError, skill_of
from node.protocol.scoring import price_micro
from node.protocol.signing import checksum
from node.protocol.statements import CutoffReason, Skill, Tier
from node.protocol.tool_calls import CallReader
from node.roles.answer import AnyAnswer
from node.roles.client import Outcome
from node.roles.job_run import Abandoned
from node.roles.order import Order
from node.roles.together import watched

log = structlog.get_logger("gateway")

RENDER_INLINE_CHARS: Final = 8_000
"""Longer prompts are rendered in a thread: they take milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """What all jobs of a gateway share."""

    config: Config
    home: Home
    buyer: Buyer
    shelf: Shelf
    keys: KeyBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one answer is to be, for any model."""

    question: Question
    steps: tuple[Step, ...]
    precise: Callable[[str], bool]
    """Whether a model's precision will do."""
    limit: int | None
    """Tokens; None: the gateway's default."""


class MarketJob:
    """`port.Job`, on the market."""

    def __init__(self, counter: Counter, wanted: Wanted, sink: Sink, customer: Customer) -> None:
        self._counter = counter
        self._wanted = wanted
        self._sink = sink
        self._customer = customer
        self._job = b""
        self._cancelled = ""
        self._calls: CallReader | None = None
        """Of the answer, where it may have some."""
        self._waiting = trio.CancelScope()

    async def run(self) -> Ended:
        """Buy it: the first step of the plan that finds a worker.

        Raises:
            ApiError: None does.
        """
        error: ApiError | None = None
        for step in self._wanted.steps:
            try:
                return await self._step(step)
            except ApiError as found:
                if found.status not in (404, 503):
                    raise
                # What a fallback did not find matters less than what was wanted.
                error = error or found
        assert error is not None, "a plan has steps"
        raise error

    async def cancel(self, why: str) -> None:
        """End it at the worker at once; what was delivered is paid, and `run` returns."""
        self._cancelled = self._cancelled or why
        self._waiting.cancel()
        if self._job:
            client = self._counter.buyer.client
            await client.cancel(CutoffReason.CANCELLED, why, job=self._job)

    async def _step(self, step: Step) -> Ended:
        with trio.CancelScope() as self._waiting:
            reader = await self._counter.shelf.reader(step.model)
            if not self._wanted.precise(reader.model.manifest.precision):
                raise busy(f"{step.model} is not sold in the wanted precision")
            order = await self._order(reader, step)
        if self._cancelled:
            raise failed(f"cancelled: {self._cancelled}")
        hold = await self._hold(order)
        spent_micro = hold.micro  # what nobody knows counts as spent
        try:
            preferences = replace(order.preferences, price_micro_max=hold.price_micro_max)
            scope = self._counter.keys.scope(self._customer.key_id)
            order = replace(order, preferences=preferences, scope=scope)
            outcome, ended = await self._buy(reader, order)
            spent_micro = outcome.amount_micro
            return ended
        except _Unsold as error:
            spent_micro = 0
            if hold.last:
                why = f"the key's limit leaves {hold.micro} micro; {error}"
                raise unpaid(why, code="key_limit_reached") from error
            raise error.as_api() from error
        finally:
            with trio.CancelScope(shield=True):
                await self._counter.keys.settle(
                    self._customer.key_id, held_micro=hold.micro, spent_micro=spent_micro
                )

    def _check(self) -> None:
        if self._cancelled:
            raise _Unsold(Abandoned(self._cancelled))

    async def _order(self, reader: Reader, step: Step) -> Order:
        question, limit = await self._question(reader), self._wanted.limit
        make = partial(order_of, replace(question, max_tokens=limit or 1), reader, step.preferences)
        try:
            if _chars(question) > RENDER_INLINE_CHARS:
                order = await trio.to_thread.run_sync(make)
            else:
                order = make()
            order = replace(order, output_max=self._limit(reader, order.tokens_in))
            order.check()
        except (PeerError, UsageError) as error:
            raise bad_field(self._prompt_field, str(error)) from error
        return order

    async def _question(self, reader: Reader) -> Question:
        """What is asked, as this model is to be asked it.

        Raises:
            ApiError: It is what no worker of the model can do.
        """
        question, in_text = self._wanted.question, reader.model.tier is Tier.TEXT
        if question.sampling.logprobs is not None and in_text:
            raise unsupported("logprobs", "this model's workers tell none: they sell text")
        if in_text:
            offers = self._counter.buyer.market.live_offers(reader.model.id)
            check_kind([each.terms.skills for each in offers], question.inputs)
        field = "tools" if question.toolbox.tools else "response_format"
        if with_tools(question.messages, question.toolbox):
            native = reader.chat.knows_tools
            if in_text:
                offers = await self._counter.shelf.offers(reader.model.id)
                native = any(each.terms.skills & Skill.TOOLS for each in offers)
            try:
                asked = tooling.shown(
                    question.messages, question.toolbox, native=native, forces=in_text
                )
            except UsageError as error:
                raise unsupported(field, str(error)) from error
            self._calls = asked.reader() if question.toolbox.tools else None
            question = replace(
                question,
                messages=asked.messages,
                toolbox=asked.toolbox,
                format=asked.format or question.format,
            )
        await self._check_format(reader, question.format, field)
        return question

    async def _check_format(self, reader: Reader, format: str, field: str) -> None:
        """
        Raises:
            ApiError: No worker could keep an answer to it.
        """
        if not format:
            return
        offers = self._counter.buyer.market.live_offers(reader.model.id)
        if offers and all(skill_of(format) & ~each.terms.skills for each in offers):
            raise unsupported(field, "no worker of this model can force it")
        try:
            await trio.to_thread.run_sync(grammar.check, format)
        except FormatError as error:
            raise unsupported(field, str(error)) from error

    @property
    def _prompt_field(self) -> str:
        question = self._wanted.question
        if question.inputs is not None:
            return "input"
        return "messages" if question.messages else "prompt"

    def _limit(self, reader: Reader, tokens_in: int) -> int:
        """Output tokens: what is wanted, or the default within what models and workers can do."""
        if (inputs := self._wanted.question.inputs) is not None:
            return inputs.output_max
        manifest, wanted = reader.model.manifest, self._wanted.limit
        room = manifest.context - tokens_in
        if (wanted or 1) > room:
            raise ApiError(
                400,
                f"the model's context is {manifest.context} tokens: {tokens_in} of prompt and "
                f"{wanted or 1} of answer are too many",
                code="context_length_exceeded",
                param="max_tokens" if room > 0 else self._prompt_field,
            )
        if wanted is not None:
            return wanted
        offers = self._counter.buyer.market.live_offers(reader.model.id)
        most = [min(o.terms.output_max, o.terms.context_max - tokens_in) for o in offers]
        return max(1, min(self._counter.config.gateway.max_tokens, room, max(most, default=room)))

    async def _hold(self, order: Order) -> "_Hold":
        """Set aside on the key what the job may cost at any offer that is live.

        Raises:
            ApiError: Nothing is left.
        """
        keys, key_id = self._counter.keys, self._customer.key_id
        left, wanted = keys.left_micro(key_id), order.preferences.price_micro_max
        if left is None:
            return _Hold(micro=0, price_micro_max=wanted, last=False)
        if left == 0:
            raise unpaid("the key's limit is used up", code="key_limit_reached")
        offers = self._counter.buyer.market.live_offers(order.model)
        dearest = max((price_micro(order.need(), each.terms) for each in offers), default=wanted)
        held = min(left, wanted, dearest)
        await keys.hold(key_id, held)
        # Where nobody offers anything, it is not the limit that nobody meets.
        return _Hold(micro=held, price_micro_max=held, last=bool(offers) and held == left)

    async def _buy(self, reader: Reader, order: Order) -> tuple[Outcome, Ended]:
        tap = Tap(self._sink, reader.chat, order, self._calls)
        question = replace(self._wanted.question, max_tokens=order.output_max)
        answer = tap.answer = answer_of(question, reader, tap.text)
        self._check()
        self._job = secrets.token_bytes(16)
        watcher = Watcher(self._sink, self._job.hex(), reader.model.manifest.name)
        try:
            outcome = await self._run(order, answer, watcher)
        except (Abandoned, NoPeers) as error:
            raise _Unsold(error) from error
        except WalletError as error:
            raise unpaid(str(error)) from error
        except UsageError as error:
            raise ApiError(400, str(error), code="invalid_value") from error
        except NodeError as error:
            log.warning("job failed", job=self._job.hex(), reason=str(error))
            raise ApiError(
                500, "this node can't buy now; see its log", code="node_failed", kind="server_error"
            ) from error
        tap.rest()
        with trio.CancelScope(shield=True):  # it is paid for
            receipt = await trio.to_thread.run_sync(self._save, outcome)  # it waits for the disk
        return outcome, self._ended(outcome, reader, answer.text, receipt, called=tap.called)

    async def _run(self, order: Order, answer: AnyAnswer, watcher: Any) -> Outcome:
        client, job = self._counter.buyer.client, self._job
        limit_s = self._counter.config.gateway.timeout_s

        async def watch_time() -> None:
            await trio.sleep(limit_s)
            why = f"not done within {limit_s:g} s (gateway.timeout_s)"
            await client.cancel(CutoffReason.DEADLINE, why, job=job)

        return await watched(partial(client.run, order, answer, watcher, job=job), watch_time)

    def _ended(
        self, outcome: Outcome, reader: Reader, text: str, receipt: str | None, *, called: bool
    ) -> Ended:
        finish = finish_of(outcome)
        why = self._cancelled or "not done in time"
        failure = outcome.failure or (f"cancelled: {why}" if finish == "cancelled" else "")
        return Ended(
            started=Started(
                job_id=outcome.job.hex(),
                model=reader.model.manifest.name,
                provider=checksum(outcome.attempt.job.terms.worker),
            ),
            finish="tool_calls" if called and finish == "stop" else finish,
            failure=failure or fault(text, self._wanted.question.inputs),
            tokens_in=outcome.tokens_in,
            tokens_cached=outcome.segments[0].job.tokens_cached,
            tokens_out=outcome.tokens_out,
            cost_micro=outcome.amount_micro,
            receipt=receipt,
        )

    def _save(self, outcome: Outcome) -> str | None:
        folder = self._counter.home.transcripts
        try:
            path = receipts.save(folder, outcome.job, outcome.transcript, outcome.disclosure)
        except ConfigError as error:
            log.warning("transcript not written", job=outcome.job.hex(), reason=str(error))
            return None
        return str(path.absolute())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    """What is set aside for a job."""

    micro: int
    """0 on a key without a limit."""
    price_micro_max: int
    last: bool
    """It is all that the key has left."""


class _Unsold(Exception):
    """No worker had the job: nothing was paid."""

    def __init__(self, reason: Abandoned | NoPeers) -> None:
        super().__init__(str(reason))
        self._reason = reason

    def as_api(self) -> ApiError:
        """For who asked."""
        if isinstance(self._reason, Abandoned):
            return failed(f"cancelled: {self._reason}")
        return busy(str(self._reason))


def _chars(question: Question) -> int:
    """About what a template has to render."""
    calls = sum(len(call.arguments) for each in question.messages for call in each.calls)
    tools = sum(len(each.description) + len(each.parameters) for each in question.toolbox.tools)
    contents = sum(len(each.content) for each in question.messages)
    if question.inputs is not None:
        contents += sum(map(len, question.inputs.texts))
    return len(question.prompt) + contents + calls + tools
