"""`node submit`: one job, from the prompt to the receipt."""

import json as json_lib
import signal
import sys
from functools import partial

import trio

from node.adapters.store import open_stores
from node.app import logs, receipts
from node.app.buyer import Buyer, open_buyer
from node.app.domain import domain_of
from node.app.home import Home, say_waiting
from node.app.ordering import Reader, answer_of, order_of
from node.app.submit_order import preferences_of, question_of
from node.app.submit_request import SubmitRequest
from node.app.submit_view import SubmitView
from node.app.unlock import session_key
from node.config import Config
from node.errors import ConfigError, ExitCode, NodeError
from node.protocol.statements import CutoffReason
from node.roles.answer import AnyAnswer
from node.roles.client import Outcome
from node.roles.job_run import Abandoned
from node.roles.order import Order

HOME_WAIT_S = 120.0
"""How long other commands of this home are waited for."""


def run(config: Config, request: SubmitRequest, *, json: bool) -> int:
    """Buy one answer; returns the exit code.

    Raises:
        NodeError: There is no answer, not even a part of one.
    """
    logs.configure("warning")
    return trio.run(partial(_submit, config, request, json=json))


async def _submit(config: Config, request: SubmitRequest, *, json: bool) -> int:
    home, view = Home(config.home), SubmitView(request, json=json)
    async with home.own_within(HOME_WAIT_S, purpose="submit", on_wait=say_waiting):
        key = session_key(config)
        async with (
            open_stores(home.store, domain=domain_of(config)) as stores,
            open_buyer(config, key, stores) as buyer,
        ):
            view.ready()
            model = await buyer.catalog.choose(request.model)
            question, reader = question_of(request), Reader.of(model)
            order = order_of(question, reader, preferences_of(config, request))
            answer = answer_of(question, reader, view.text)
            outcome, ended_by = await _run(buyer, order, answer, view, request)
        path, unsaved = _save(home, outcome)
    report = view.ended(outcome, model=model.manifest.name, text=answer.text, path=path)
    if json:
        sys.stdout.write(json_lib.dumps(report) + "\n")
    if unsaved is not None:
        raise unsaved  # after the answer, which is paid for
    if ended_by is not None:
        return ended_by
    if outcome.failure:
        view.say(f"error: {outcome.failure}")
        return ExitCode.TRY_AGAIN
    return ExitCode.OK


def _save(home: Home, outcome: Outcome) -> tuple[str | None, ConfigError | None]:
    try:
        path = receipts.save(home.transcripts, outcome.job, outcome.transcript, outcome.disclosure)
    except ConfigError as error:
        return None, error
    return str(path.absolute()), None


async def _run(
    buyer: Buyer, order: Order, answer: AnyAnswer, view: SubmitView, request: SubmitRequest
) -> tuple[Outcome, ExitCode | None]:
    """The outcome; and how to exit, if the user ended the job.

    Raises:
        KeyboardInterrupt: The user ended it before a worker had it, or did not wait for its end.
        NodeError: There is no answer, not even a part of one.
    """
    ended_by: ExitCode | None = None
    outcome: Outcome | None = None
    failure: NodeError | None = None

    async def cancel(code: ExitCode) -> None:
        nonlocal ended_by
        ended_by = ended_by or code
        await buyer.client.cancel(CutoffReason.CANCELLED, "cancelled")

    async def watch_signals() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)
            nursery.start_soon(cancel, ExitCode.INTERRUPTED)
            await anext(signals)
            raise KeyboardInterrupt

    async def watch_reader() -> None:
        await view.reader_gone.wait()
        await cancel(ExitCode.FAILED)

    async def watch_time() -> None:
        await trio.sleep(request.timeout_s)
        why = f"not done within {request.timeout_s:g} s (--timeout)"
        await buyer.client.cancel(CutoffReason.DEADLINE, why)

    async with trio.open_nursery() as nursery:
        for watch in (watch_signals, watch_reader, watch_time):
            nursery.start_soon(watch)
        try:
            outcome = await buyer.client.run(order, answer, view)
        except NodeError as error:  # raised again outside, where no group wraps it
            failure = error
        nursery.cancel_scope.cancel()
    if outcome is not None:
        return outcome, ended_by
    if ended_by is ExitCode.INTERRUPTED and isinstance(failure, Abandoned):
        raise KeyboardInterrupt
    assert failure is not None
    raise failure
