"""A client that stays and buys at a steady pace; prints a JSON line a job, with its own task count.

    python -m tests.soak.buyer --home DIR --every SECONDS

SIGTERM lets the job at hand end, and its vouchers leave, first.
"""

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import trio

from node.adapters.store import open_stores
from node.app import logs
from node.app.buyer import open_buyer
from node.app.domain import domain_of
from node.app.home import Home
from node.app.unlock import session_key
from node.config import load
from tests.attack.honest import TOKENS, buy


async def main(home_path: Path, *, every_s: float) -> None:
    """Buy until SIGTERM."""
    logs.configure("warning")
    config = load(home_path)
    home = Home(config.home)
    with home.own("soak"), trio.open_signal_receiver(signal.SIGTERM) as signals:
        key = session_key(config)
        async with (
            open_stores(home.store, domain=domain_of(config)) as stores,
            open_buyer(config, key, stores) as buyer,
            trio.open_nursery() as nursery,
        ):
            told = trio.Event()

            async def listen() -> None:
                await anext(signals)
                told.set()

            nursery.start_soon(listen)
            while not told.is_set():
                due_s = time.monotonic() + every_s
                job = await buy(buyer, config, worker="", tokens=TOKENS)
                tasks = trio.lowlevel.current_statistics().tasks_living
                sys.stdout.write(json.dumps({**asdict(job), "tasks": tasks}) + "\n")
                sys.stdout.flush()
                with trio.move_on_after(max(0.0, due_s - time.monotonic())):
                    await told.wait()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--every", type=float, required=True)
    options = parser.parse_args()
    trio.run(lambda: main(options.home, every_s=options.every))
