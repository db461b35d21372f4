"""One job of `node submit`, from the question to the transcript: alone, or at a gateway."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from node.app import receipts, submit_told
from node.app.buyer import Buyer
from node.app.control_call import error_to_json
from node.app.home import Home
from node.app.ordering import Reader, answer_of, order_of
from node.app.submit_order import preferences_of, question_of
from node.app.submit_request import SubmitRequest
from node.app.submit_told import Tell, Teller
from node.config import Config
from node.errors import ConfigError, NodeError
from node.protocol.statements import CutoffReason
from node.roles.answer import AnyAnswer
from node.roles.catalog import ClientModel
from node.roles.client import Outcome
from node.roles.job_run import Abandoned
from node.roles.order import Order
from node.roles.together import watched

ReadModel = Callable[[ClientModel], Awaitable[Reader]]


@dataclass(slots=True, eq=False)
class Stop:
    """Ends a job early."""

    wanted: trio.Event = field(default_factory=trio.Event)
    failure: str = ""
    """Why; empty if its user wanted no more."""

    def now(self, failure: str = "") -> None:
        """Only the first one counts."""
        if not self.wanted.is_set():
            self.failure = failure
            self.wanted.set()

    @property
    def why(self) -> str:
        """In a word."""
        return self.failure or "cancelled"


async def buy(
    buyer: Buyer, config: Config, request: SubmitRequest, tell: Tell, stop: Stop, read: ReadModel
) -> dict[str, Any]:
    """Buy one answer; returns what `SubmitView.ended` shows.

    Args:
        buyer: On the network.
        config: The home's, with the command's own settings.
        request: What to buy.
        tell: Is given what happens.
        stop: Ends it early: what was delivered is paid and proven.
        read: Makes a model's files ready.

    Raises:
        NodeError: There is no answer, not even a part of one.
    """
    teller = Teller(tell)
    teller.ready()
    try:
        job = await _prepared(buyer, config, request, teller, stop, read)
        outcome = await _run(buyer, job, teller, stop, request.timeout_s)
    except Abandoned as error:
        return {"abandoned": str(error)}
    path, unsaved = _save(Home(config.home), outcome)
    failure = outcome.failure or stop.failure
    report = submit_told.report(outcome, model=job.model, failure=failure, path=path)
    return {"report": report, "unsaved": None if unsaved is None else error_to_json(unsaved)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    model: str
    order: Order
    answer: AnyAnswer


async def _prepared(
    buyer: Buyer,
    config: Config,
    request: SubmitRequest,
    teller: Teller,
    stop: Stop,
    read: ReadModel,
) -> _Job:
    """Find the model and render the question.

    Raises:
        Abandoned: The user ended it.
        NodeError: There is no such model, or it can't be asked this.
    """
    found: _Job | None = None
    failure: NodeError | None = None

    async def find() -> None:
        nonlocal found, failure
        try:
            model = await buyer.catalog.choose(request.model)
            question, preferences = question_of(request), preferences_of(config, request)
            reader = await read(model)
            order = await trio.to_thread.run_sync(partial(order_of, question, reader, preferences))
            found = _Job(
                model=model.manifest.name,
                order=order,
                answer=answer_of(question, reader, teller.text),
            )
        except NodeError as error:  # raised again outside, where no group wraps it
            failure = error
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find)
        await stop.wanted.wait()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if stop.wanted.is_set() or found is None:
        raise Abandoned(stop.why)
    return found


async def _run(buyer: Buyer, job: _Job, teller: Teller, stop: Stop, timeout_s: float) -> Outcome:
    """
    Raises:
        Abandoned: It was ended before a worker had it.
        NodeError: There is no answer, not even a part of one.
    """
    job_id = secrets.token_bytes(16)

    async def watch_stop() -> None:
        await stop.wanted.wait()
        await buyer.client.cancel(CutoffReason.CANCELLED, stop.why, job=job_id)

    async def watch_time() -> None:
        await trio.sleep(timeout_s)
        why = f"not done within {timeout_s:g} s (--timeout)"
        await buyer.client.cancel(CutoffReason.DEADLINE, why, job=job_id)

    run = partial(buyer.client.run, job.order, job.answer, teller, job=job_id)
    return await watched(run, watch_stop, watch_time)


def _save(home: Home, outcome: Outcome) -> tuple[str | None, ConfigError | None]:
    try:
        path = receipts.save(home.transcripts, outcome.job, outcome.transcript, outcome.disclosure)
    except ConfigError as error:
        return None, error
    return str(path.absolute()), None
