"""`node submit` of a home whose gateway runs: the gateway does the job, this shows it.

Imports nothing that takes long: the first token is to be there after 0.3 s.
"""

import json as json_lib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from node import __version__
from node.app import control_call
from node.app.control_call import Following, HungUp, NotKnown, NotRunning
from node.app.home import Home
from node.app.submit_request import SubmitRequest
from node.app.submit_view import SubmitView
from node.config import Config, given
from node.errors import ExitCode

METHOD: Final = "submit"
SETTINGS: Final = ("network", "chain", "client")
"""Sections that decide how a job is done."""
GRACE_S: Final = 15.0
"""For a job that has run out of time to be cut off, paid and proven."""


def run(config: Config, request: SubmitRequest, *, json: bool) -> int | None:
    """Have the home's gateway buy one answer; the exit code, or None if no gateway runs.

    Raises:
        NodeError: There is no answer, not even a part of one; or the gateway ended before it.
        KeyboardInterrupt: The user ended it before a worker had it, or did not wait for its end.
    """
    home = Home(config.home)
    home.check()
    body = json_lib.dumps(
        {"version": __version__, "request": request.to_json(), "settings": given(config, SETTINGS)}
    ).encode()
    try:
        following = control_call.follow(home, METHOD, body, within_s=request.timeout_s + GRACE_S)
        with following as job:
            return _shown(job, SubmitView(request, json=json, on_stop=job.stop))
    except (NotRunning, NotKnown):
        return None
    except HungUp as error:
        raise HungUp(
            "the gateway that had the job ended before it: the answer may not be whole",
            hint="node receipts list shows what was paid for",
        ) from error


def _shown(job: Following, view: SubmitView) -> int:
    with _signals(view):
        for event in job.events():
            view.take(event)
        return view.ended(job.result)


@contextmanager
def _signals(view: SubmitView) -> Iterator[None]:
    """The first one ends the job, the next one this command."""

    def caught(_number: int, _frame: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.default_int_handler)
        view.stop(ExitCode.INTERRUPTED)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, caught) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
