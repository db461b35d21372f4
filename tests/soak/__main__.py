"""`scripts/soak`: a market at steady load with a fault a minute; then everything must add up.

Passes if the processes that were never ended hold no more memory, descriptors and tasks at the end
than after the warm-up, if jobs end well but for those that a fault struck, and if clients' stores,
workers' stores and the chain agree to the unit.
"""

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

from devnet.network import Options, up
from tests.soak.books import settle
from tests.soak.faults import FAULTS, Stage
from tests.soak.party import Buyer
from tests.soak.sampler import Sampler, grown

OPTIONS: Final = Options(workers=3, clients=3, worker_settings={"chain.redeem_after_s": 60})
JOB_EVERY_S: Final = 1.0
"""From one job's start to the next one's, per client."""
FAULT_EVERY_S: Final = 60.0
QUIET_S: Final = 60.0
"""Before the end no fault strikes."""
FAILED_SHARE_MAX: Final = 0.02
MINUTE_S: Final = 60


def main() -> int:
    """Run it; 0 only if there is no problem."""
    options = _parsed()
    with up(OPTIONS) as net:
        buyers = [Buyer(client.home, every_s=JOB_EVERY_S) for client in net.clients]
        stage = Stage(net=net, buyers=buyers)
        # The last of each kind is ended by faults: what it held starts anew each time.
        sampler = Sampler(net.workers[:-1], buyers[:-1])
        faults = _strike(stage, minutes=options.minutes, seed=options.seed)
        sampler.stop()
        for buyer in buyers:
            buyer.signal(signal.SIGTERM)
        ended = [buyer.wait() for buyer in buyers]
        sums, problems = settle(net)
    failures = sum((buyer.failures for buyer in buyers), start=Counter[str]())
    report = {
        "minutes": options.minutes,
        "faults": faults,
        "jobs": sum(buyer.jobs for buyer in buyers),
        "failures": dict(failures.most_common()),
        "sums_micro": sums,
        "held": {
            name: {what: figure._asdict() for what, figure in figures.items()}
            for name, figures in sampler.figures().items()
        },
        "problems": problems,
    }
    for name, figures in sampler.figures().items():
        problems += [f"{name}: {problem}" for problem in grown(figures)]
    if any(ended):
        problems.append(f"clients ended with {ended}")
    if failures.total() > FAILED_SHARE_MAX * report["jobs"]:
        problems.append(f"{failures.total()} of {report['jobs']} jobs failed")
    print(json.dumps(report, indent=1) if options.json else "\n".join(_text(report)))
    return 1 if problems else 0


def _strike(stage: Stage, *, minutes: float, seed: int) -> dict[str, int]:
    """A fault a minute until the time is over; returns how often each struck."""
    rng, began_s = random.Random(seed), time.monotonic()
    end_s, struck = began_s + minutes * MINUTE_S, Counter[str]()
    for number, name in enumerate(cycle(FAULTS), start=1):
        due_s = began_s + number * FAULT_EVERY_S
        if due_s > end_s - QUIET_S:
            break
        time.sleep(max(0.0, due_s - time.monotonic()))
        jobs = sum(buyer.jobs for buyer in stage.buyers)
        failed = sum(buyer.failures.total() for buyer in stage.buyers)
        _say(f"{number:3} min  {jobs:6} jobs, {failed} failed; now {name}")
        FAULTS[name](stage, rng)
        struck[name] += 1
    time.sleep(max(0.0, end_s - time.monotonic()))
    return dict(struck)


def _text(report: dict[str, Any]) -> Iterator[str]:
    yield f"{report['jobs']} jobs in {report['minutes']:g} minutes"
    for what, count in report["failures"].items():
        yield f"  failed {count:4}  {what}"
    for what, count in report["faults"].items():
        yield f"  fault  {count:4}  {what}"
    yield f"{'held, by quarter':<23} {'1st':>8} {'2nd':>8} {'3rd':>8} {'4th':>8} {'peak':>8}"
    for name, figures in report["held"].items():
        for what, row in figures.items():
            shown = " ".join(f"{each:8.1f}" for each in [*row["quarters"], row["peak"]])
            yield f"{name:<10} {what:<12} {shown}"
    for what, micro in report["sums_micro"].items():
        yield f"{what:<24} {micro:>12} micro"
    yield from (f"PROBLEM: {problem}" for problem in report["problems"])
    if not report["problems"]:
        yield "passed"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="of whom faults strike")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
