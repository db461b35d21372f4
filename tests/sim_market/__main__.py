"""`scripts/simulate-market`: the table of docs/scaling.md."""

import argparse
import json
import sys
from dataclasses import asdict

from tests.sim_market import costs
from tests.sim_market.population import Size
from tests.sim_market.run import Cost, Outcome, Spread, simulate

SIZES = "10,30,100,300,1000"
TARGET_NODES = 1000
CPU_PERCENT_MAX = 2.0
BYTES_PER_S_MAX = 5_000
AWARDED_S_MAX = 60.0
CHOICE_RATIO_MAX = 1.05
HEADER = (
    "| nodes | idle client: msg/s, B/s, CPU % | idle worker | busiest "
    "| found p50/p95/max s (never) | awarded p50/p95/max s (never) | the same of competitive ones "
    "| cost over the scheduler's | choice mean/p95 | load max/mean, Gini | refused % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def cost(of: Cost) -> str:
    return f"{of.messages_per_s:.1f}, {of.bytes_per_s:,.0f}, {of.cpu_percent:.2f}"


def spread(of: Spread) -> str:
    return f"{of.p50:.0f}/{of.p95:.0f}/{of.most:.0f} ({of.never})"


def row(of: Outcome) -> str:
    cells = (
        f"{of.nodes:,}",
        cost(of.client),
        cost(of.worker),
        f"{cost(of.busiest)}: {of.busiest_is}",
        spread(of.found),
        spread(of.awarded),
        f"{spread(of.awarded_competitive)} of {of.competitive}",
        f"{of.cost_ratio:.3f}",
        f"{of.choice_ratio:.3f}/{of.choice_ratio_p95:.2f}",
        f"{of.load_max_over_mean:.2f}, {of.load_gini:.2f}",
        f"{of.refused_percent:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def missed(of: Outcome) -> list[str]:
    """Targets that this size, if they are for it, does not meet."""
    if of.nodes != TARGET_NODES:
        return []
    cpu = max(of.client.cpu_percent, of.worker.cpu_percent)
    traffic = max(of.client.bytes_per_s, of.worker.bytes_per_s)
    checks = {
        f"an idle node takes {cpu} % of a core": cpu > CPU_PERCENT_MAX,
        f"an idle node moves {traffic:.0f} B/s": traffic > BYTES_PER_S_MAX,
        f"new workers wait {of.awarded.p95} s": of.awarded.p95 > AWARDED_S_MAX,
        f"jobs cost {of.cost_ratio} of the scheduler's": of.cost_ratio > CHOICE_RATIO_MAX,
        f"a choice is {of.choice_ratio} of the moment's best": of.choice_ratio > CHOICE_RATIO_MAX,
    }
    return [name for name, failed in checks.items() if failed]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="simulate-market",
        description="Markets of many nodes, as docs/scaling.md explains. Exit 1 if a target of "
        f"{TARGET_NODES:,} nodes is missed.",
    )
    parser.add_argument("--nodes", default=SIZES, help=f"workers, and as many clients: {SIZES}")
    parser.add_argument("--warm", type=float, default=240.0, help="simulated seconds before")
    parser.add_argument("--seconds", type=float, default=600.0, help="simulated seconds measured")
    parser.add_argument("--load", type=float, default=0.5, help="share of all workers' capacity")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", action="store_true", help="CPU of our own code, here and now")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if args.measure:
        print(json.dumps(costs.measure(), indent=1))
        return 0
    found: list[Outcome] = []
    if not args.json:
        print(HEADER, flush=True)
    for text in args.nodes.split(","):
        print(f"{text} workers and clients …", file=sys.stderr, flush=True)
        size = Size(
            nodes=int(text),
            warm_s=args.warm,
            measured_s=args.seconds,
            load=args.load,
            seed=args.seed,
        )
        found.append(simulate(size))
        if not args.json:
            print(row(found[-1]), flush=True)
    if args.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    failures = [name for each in found for name in missed(each)]
    for name in failures:
        print(f"MISSED: {name}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
