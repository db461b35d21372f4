"""`node submit` of a home that nobody else owns: the network up, one job, the network down."""

import signal
from functools import partial
from typing import Any

import trio

from node.adapters.store import open_stores
from node.app import logs
from node.app.buyer import open_buyer
from node.app.domain import domain_of
from node.app.home import Home, say_waiting
from node.app.ordering import Reader
from node.app.submit_job import Stop, buy
from node.app.submit_request import SubmitRequest
from node.app.submit_view import SubmitView
from node.app.unlock import session_key
from node.config import Config
from node.errors import ExitCode, NodeError
from node.roles.catalog import ClientModel

HOME_WAIT_S = 120.0
"""How long other commands of this home are waited for."""


def run(config: Config, request: SubmitRequest, *, json: bool) -> int:
    """Buy one answer; returns the exit code.

    Raises:
        NodeError: There is no answer, not even a part of one.
        KeyboardInterrupt: The user ended it before a worker had it, or did not wait for its end.
    """
    logs.configure("warning")
    return trio.run(partial(_submit, config, request, json=json))


async def _submit(config: Config, request: SubmitRequest, *, json: bool) -> int:
    home, stop = Home(config.home), Stop()
    view = SubmitView(request, json=json, on_stop=stop.now)
    async with home.own_within(HOME_WAIT_S, purpose="submit", on_wait=say_waiting):
        key = session_key(config)
        async with (
            open_stores(home.store, domain=domain_of(config)) as stores,
            open_buyer(config, key, stores) as buyer,
        ):
            result: dict[str, Any] = {}
            failure: NodeError | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_signals, view)
                try:
                    result = await buy(buyer, config, request, view.take, stop, _read)
                except NodeError as error:  # raised again outside, where no group wraps it
                    failure = error
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return view.ended(result)


async def _watch_signals(view: SubmitView) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        view.stop(ExitCode.INTERRUPTED)
        await anext(signals)
        raise KeyboardInterrupt


async def _read(model: ClientModel) -> Reader:
    return Reader.of(model)
