"""`scripts/simulate`: runs seeds, says what broke, and how to see it again."""

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import structlog

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

from tests.sim.disk import DiskWriter  # noqa: E402  # after the roles' logs were switched off
from tests.sim.plan import plan_of  # noqa: E402
from tests.sim.plants import PLANTS  # noqa: E402
from tests.sim.quick import remember_signatures  # noqa: E402
from tests.sim.run import Result, simulate  # noqa: E402

SHOWN_EVERY_S = 5.0


def main() -> int:
    """The exit code: 0 if no rule broke (with a plant: if it was found)."""
    options = _options()
    remember_signatures()
    if options.replay is not None:
        return _replay(options)
    started_s, shown_s = time.monotonic(), 0.0
    seeds = range(options.start, options.start + options.seeds)
    broken: list[Result] = []
    outcomes: Counter[str] = Counter()
    digests: dict[int, str] = {}
    for result in _results(options, seeds):
        digests[result.seed] = result.digest
        outcomes.update(result.outcomes)
        if result.rule:
            broken.append(result)
            if not options.json:
                _explain(result, options)
            if options.plant or len(broken) >= options.stop_after:
                break
        if not options.json and time.monotonic() - shown_s > SHOWN_EVERY_S:
            shown_s = time.monotonic()
            _progress(len(digests), options.seeds, shown_s - started_s, len(broken))
    took_s = time.monotonic() - started_s
    _sum_up(options, digests, outcomes, broken, took_s)
    return int(bool(broken) != bool(options.plant))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--start", type=int, default=1, help="the first (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one seed, every event shown")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="with a bug; stops when found")
    parser.add_argument("--fair", action="store_true", help="without faults")
    parser.add_argument("--stop-after", type=int, default=10, help="broken seeds (default: 10)")
    parser.add_argument("--json", action="store_true", help="figures and traces' hashes as JSON")
    return parser.parse_args()


def _writer(options: argparse.Namespace) -> type[DiskWriter]:
    return PLANTS[options.plant] if options.plant else DiskWriter


def _one(work: tuple[int, type[DiskWriter], bool]) -> Result:
    seed, writer, faulty = work
    return simulate(plan_of(seed, faulty=faulty), writer=writer)


def _results(options: argparse.Namespace, seeds: Iterable[int]) -> Iterator[Result]:
    work = [(seed, _writer(options), not options.fair) for seed in seeds]
    if options.jobs == 1:
        yield from map(_one, work)
        return
    # Forked: hashes are seeded alike, and what was imported need not be imported again.
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        yield from pool.imap_unordered(_one, work, chunksize=4)


def _replay(options: argparse.Namespace) -> int:
    plan = plan_of(options.replay, faulty=not options.fair)
    result = simulate(plan, writer=_writer(options), echo=print)
    print(f"trace {result.digest}")
    if result.rule:
        print(f"BROKEN  {result.rule}\n        {result.what}")
    return int(bool(result.rule))


def _explain(result: Result, options: argparse.Namespace) -> None:
    print(f"\nseed {result.seed} BROKEN: {result.rule}\n  {result.what}\n\nthe last events:")
    print("\n".join(result.trace))
    more = f" --plant {options.plant}" if options.plant else ""
    more += " --fair" if options.fair else ""
    print(f"\nsee it again: scripts/simulate --replay {result.seed}{more}\n", flush=True)


def _progress(done: int, total: int, took_s: float, broken: int) -> None:
    sys.stderr.write(f"{done} of {total} seeds, {took_s:.0f} s, {broken} broken\n")
    sys.stderr.flush()


def _sum_up(
    options: argparse.Namespace,
    digests: dict[int, str],
    outcomes: Counter[str],
    broken: list[Result],
    took_s: float,
) -> None:
    if options.json:
        figures = {
            "seeds": len(digests),
            "seconds": round(took_s, 2),
            "jobs": dict(outcomes),
            "broken": [asdict(each) for each in broken],
            "traces": {str(seed): digests[seed] for seed in sorted(digests)},
        }
        print(json.dumps(figures))
        return
    jobs = ", ".join(f"{count} {how}" for how, count in sorted(outcomes.items()))
    print(f"{len(digests)} seeds in {took_s:.1f} s: {len(broken)} broken")
    print(f"jobs: {jobs}")


if __name__ == "__main__":
    sys.exit(main())
