"""Fifty jobs at once from one client with a small deposit: is more ever promised than there is?

Looked at after every step of every task, from inside (`trio.abc.Instrument`), and from the disk all
the while; the deposit is read from the chain by other means than the client's own.
"""

import sqlite3
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import trio

from node.adapters.store import open_stores
from node.app.buyer import open_buyer
from node.app.domain import domain_of
from node.app.home import Home
from node.config import load
from node.protocol import payer_ledger
from node.roles.payer import Payer
from tests.attack.attackers.peer import Target, run, say
from tests.attack.buying import buy

TOKENS = (8, 12, 16, 24)
ON_DISK = """
  SELECT (SELECT coalesce(sum(cumulative - redeemed), 0) FROM payer_tabs)
       + (SELECT coalesce(sum(CASE WHEN closed THEN due ELSE cap END - paid), 0)
            FROM reservations)
"""


class Watch(trio.abc.Instrument):
    """Compares promises with the deposit whenever any task has run."""

    def __init__(self, payer: Payer, deposit_micro: int) -> None:
        self._payer = payer
        self._deposit_micro = deposit_micro
        self.looks = 0
        self.worst_micro = -deposit_micro
        """Most that was promised above the deposit."""

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See the class."""
        state = self._payer._book.state
        funds_micro = state.funds.deposit_micro if state.funds else self._deposit_micro
        over_micro = payer_ledger.promised_micro(state) - min(funds_micro, self._deposit_micro)
        self.worst_micro = max(self.worst_micro, over_micro)
        self.looks += 1


class DiskWatch:
    """The same from the file, in a thread, as another process would see it."""

    def __init__(self, path: Path, deposit_micro: int) -> None:
        self._path = path
        self._deposit_micro = deposit_micro
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = 0
        self.worst_micro = -deposit_micro

    def __enter__(self) -> "DiskWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        uri = f"file:{self._path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            while not self._done.wait(0.01):
                promised: int = connection.execute(ON_DISK).fetchone()[0]
                self.worst_micro = max(self.worst_micro, promised - self._deposit_micro)
                self.looks += 1


async def main(target: Target) -> None:
    """All of them at once."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    orders = target.orders
    home = Path(orders["home"])
    # A busy machine is no reason to fail: every worker is waited for.
    patient = {"client.discover_s": 30.0, "client.silence_s": 30.0}
    config = load(home, flags={"network.bootstrap": orders["bootstrap"], **patient})
    config = replace(config, home=home)
    key, deposit_micro = bytes.fromhex(orders["key"]), int(orders["deposit_micro"])
    store = Path(orders["store"])
    results: list[tuple[str, int, int, str]] = []
    async with (
        open_stores(store, domain=domain_of(config)) as stores,
        open_buyer(config, key, stores) as buyer,
    ):
        await buyer.catalog.choose("")  # the model's files, once
        for addr in orders["bootstrap"]:
            await buyer.transport.connect((addr,))
        watch = Watch(buyer.payer, deposit_micro)
        trio.lowlevel.add_instrument(watch)
        with DiskWatch(store, deposit_micro) as disk:
            async with trio.open_nursery() as nursery:
                for number in range(orders["jobs"]):
                    nursery.start_soon(_job, buyer, config, orders, number, results)
            await buyer.payer.flush()
        trio.lowlevel.remove_instrument(watch)
        promised_micro = buyer.payer.promised_micro
    served = [each for each in results if each[1]]
    say(
        served=len(served),
        refused=dict(Counter(each[0][:50] for each in results if each[0])),
        paid_micro=sum(each[1] for each in results),
        worth_micro=sum(each[2] for each in results),
        workers=len({each[3] for each in served}),
        promised_micro=promised_micro,
        looks=watch.looks,
        worst_micro=watch.worst_micro,
        disk_looks=disk.looks,
        disk_worst_micro=disk.worst_micro,
        home=Home(config.home).store.name,
    )


async def _job(
    buyer: Any, config: Any, orders: dict[str, Any], number: int, results: list[Any]
) -> None:
    workers = orders["workers"]
    # Spread over the workers, each of which has its own tab.
    bought = await buy(
        buyer,
        config,
        worker=workers[number % len(workers)],
        tokens=TOKENS[number % len(TOKENS)],
        question=f"Question {number}: what is a voucher?",
    )
    who = bought.watch.awards[-1] if bought.watch.awards else ""
    results.append((bought.error, bought.paid_micro, bought.worth_micro, who))


if __name__ == "__main__":
    run(main)
