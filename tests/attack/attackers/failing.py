"""The command `node`, in which something that never should fails in the middle of a job.

    python -m tests.attack.attackers.failing POINT COMMAND…

The error is none that the program expects, so that it ends with a traceback, or none that anybody
could have expected: a signal that would leave a core file.
"""

import os
import signal
import sys
from typing import Any, Final

CHUNKS: Final = 3
"""Output that goes by first."""


def main() -> int:
    """Break, then run the command."""
    point, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    POINTS[point]()
    from node.cli.main import run

    return run("node")


def _worker() -> None:
    from node.roles.segment import Segment

    _spoil(Segment, "_perform", lambda: RuntimeError("deliberately broken"))


def _worker_check() -> None:
    from node.roles import requests

    original = requests.in_ids

    def broken(job: Any, request: Any) -> Any:
        original(job, request)
        raise RuntimeError("deliberately broken")

    requests.in_ids = broken


def _worker_abort() -> None:
    from node.roles.segment import Segment

    _spoil(Segment, "_perform", lambda: os.kill(os.getpid(), signal.SIGABRT))


def _client() -> None:
    from node.roles.purchase import Purchase

    _spoil(Purchase, "_perform", lambda: RuntimeError("deliberately broken"))


def _client_abort() -> None:
    from node.roles.purchase import Purchase

    _spoil(Purchase, "_perform", lambda: os.kill(os.getpid(), signal.SIGABRT))


def _spoil(cls: Any, name: str, make: Any) -> None:
    original, calls = getattr(cls, name), 0

    async def broken(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > CHUNKS and (error := make()) is not None:
            raise error
        return await original(*args)

    setattr(cls, name, broken)


POINTS: Final = {
    "none": lambda: None,
    "worker": _worker,
    "worker-check": _worker_check,
    "worker-abort": _worker_abort,
    "client": _client,
    "client-abort": _client_abort,
}


if __name__ == "__main__":
    sys.exit(main())
