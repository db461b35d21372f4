"""`node submit`: one job, from the prompt to the receipt."""

import json as json_lib
import re
import signal
import sys
from functools import partial

import trio

from node.adapters.p2p.identity import address_of_peer_id_text
from node.adapters.store import open_stores
from node.adapters.text.chat import ChatText, Message
from node.app import logs, receipts
from node.app.buyer import Buyer, open_buyer
from node.app.domain import domain_of
from node.app.home import Home, say_waiting
from node.app.submit_request import SubmitRequest
from node.app.submit_view import SubmitView
from node.app.unlock import session_key
from node.config import Config
from node.errors import ConfigError, ExitCode, NodeError, PeerError, UsageError
from node.protocol.fields import Address
from node.protocol.frames import SamplingFields
from node.protocol.statements import CutoffReason
from node.protocol.stops import Output
from node.roles.answer import Answer
from node.roles.catalog import ClientModel
from node.roles.client import Outcome
from node.roles.job_run import Abandoned
from node.roles.market import Preferences
from node.roles.order import Order

HOME_WAIT_S = 120.0
"""How long other commands of this home are waited for."""
FRACTION = 1_000_000


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
            chat = ChatText.of(model.files)
            order = _order(config, request, model, chat)
            answer = _answer(request, model, chat, view)
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
    buyer: Buyer, order: Order, answer: Answer, view: SubmitView, request: SubmitRequest
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


def _order(config: Config, request: SubmitRequest, model: ClientModel, chat: ChatText) -> Order:
    messages: list[Message] = [{"role": "user", "content": request.prompt}]
    if request.system:
        messages.insert(0, {"role": "system", "content": request.system})
    return Order(
        model=model.id,
        prompt=chat.render(messages),
        sampling=_sampling(request),
        output_max=request.max_tokens,
        stop=request.stops,
        ignore_eos=request.ignore_eos,
        seed=request.seed,
        preferences=_preferences(config, request),
    )


def _preferences(config: Config, request: SubmitRequest) -> Preferences:
    cap = config.client.job_cap_micro
    wanted = request.price_micro_max
    return Preferences(
        price_micro_max=cap if wanted is None else min(cap, wanted),
        deadline_s=request.deadline_s,
        sort=request.sort,
        worker=_worker(request.worker),
        region=request.region,
        value_of_time_micro_per_s=config.client.value_of_time_micro_per_s,
        prepay_micro_max=config.client.prepay_max_micro,
    )


def _worker(text: str) -> Address | None:
    if not text:
        return None
    if re.fullmatch("0x[0-9a-fA-F]{40}", text):
        return bytes.fromhex(text[2:])
    try:
        return address_of_peer_id_text(text)
    except PeerError as error:
        raise UsageError(f"--worker {text} is neither an address nor a PeerID: {error}") from error


def _sampling(request: SubmitRequest) -> SamplingFields:
    return SamplingFields(
        temperature=round(request.temperature * FRACTION),
        top_p=max(1, round(request.top_p * FRACTION)),
        top_k=request.top_k,
        presence=round(request.presence_penalty * FRACTION),
        frequency=round(request.frequency_penalty * FRACTION),
        repetition=FRACTION,
        logprobs=0,
        choice=0,
    )


def _answer(request: SubmitRequest, model: ClientModel, chat: ChatText, view: SubmitView) -> Answer:
    output = Output(
        decode=chat.decode,
        eos_ids=model.manifest.eos_ids,
        stops=request.stops,
        max_tokens=request.max_tokens,
        ignore_eos=request.ignore_eos,
    )
    return Answer(output, on_text=view.text, vocab=model.manifest.vocab)
