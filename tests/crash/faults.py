"""The long forms of what `test_disk` and `test_chain_faults` show: `scripts/crash --role …`."""

import time
from functools import partial
from pathlib import Path

import trio

from devnet.chain import running
from node.adapters.chain import sender as sender_module
from node.app import logs
from tests.adapters.chain.world import World as ChainWorld
from tests.crash.disks import full_in_jobs, full_in_sales, small_disk
from tests.crash.runs import Result, Told
from tests.crash.storm import storm
from tests.crash.world import world

ROUNDS = 5
"""Redemptions of one storm."""
PAGES_MAX = 64
"""A disk with more room takes a whole job."""


def run_chain(*, folder: Path, points: int, seed: int, tell: Told) -> Result:
    """So many storms, each on a chain of its own; kills are cancellations here."""
    result, started_s = Result(role="chain"), time.monotonic()
    logs.configure("warning")
    sender_module.POLL_S = (0.02, 0.1)  # type: ignore[misc]
    for number in range(points):
        path = folder / str(number)
        path.mkdir(parents=True)
        with running() as chain:
            chain.mine(3)
            market = ChainWorld(chain, str(number))
            done = trio.run(partial(storm, market, path, seed=seed + number, rounds=ROUNDS))
            market.close()
        result.kills += done.crashes
        for line in done.wrong:
            result.violations.append(f"seed {seed + number}: {line}")
            tell(f"chain: {result.violations[-1]}")
        for name, count in (
            ("vouchered_micro", done.vouchered_micro), ("redeemed_micro", done.redeemed_micro),
            ("reorgs", done.reorgs), ("rpc_faults", sum(done.faults.values())),
            ("redemptions", done.payments), ("transactions", done.transactions),
        ):  # fmt: skip
            result.books[name] = result.books.get(name, 0) + count
        tell(f"chain: storm {number + 1}/{points}, {len(result.violations)} faults")
    result.seconds = time.monotonic() - started_s
    return result


def run_disk(*, folder: Path, points: int, seed: int, tell: Told) -> Result:
    """A client and a worker whose disks have so many different amounts of room left."""
    result, started_s = Result(role="disk"), time.monotonic()
    folder.mkdir(parents=True)
    sizes = [PAGES_MAX * number // points for number in range(points)]
    with world(folder, clients=2, seed=seed) as market, small_disk(folder / "disk") as disk:
        for number, pages in enumerate(sizes, start=1):
            codes = full_in_jobs(market, market.newcomer(), disk, pages=(pages,))
            result.kills += any(codes)
            if pages < PAGES_MAX // 2:  # with more a worker goes on for long
                full_in_sales(market, market.newcomer(), disk, pages=(pages,))
                result.kills += 1
            tell(f"disk: {number}/{points}, {len(market.violations)} faults")
        result.books = market.settle()
        result.violations = market.violations
    result.seconds = time.monotonic() - started_s
    return result
