"""`scripts/crash`: kills the nodes of a real market, and checks that nothing was lost."""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.crash.faults import run_chain, run_disk
from tests.crash.runs import ROLES, Result, run

FAULTS = {"chain": run_chain, "disk": run_disk}


def main() -> int:
    """Run; the exit code is 1 if anything was lost, or said twice."""
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__)
    parser.add_argument("--points", type=int, default=200, help="random kills per role")
    parser.add_argument(
        "--role", action="append", choices=[*ROLES, *FAULTS],
        help="default: worker, client and redeemer; chain: storms of RPC faults and reorganisations"
        " (--points of them); disk: full disks, with --points different amounts of room left",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--named", type=int, default=0, help="at most so many named points; 0: all")
    parser.add_argument("--keep", type=Path, help="folder for homes and logs, not there yet")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def tell(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="gpunode-crash-") as temporary:
        folder = options.keep or Path(temporary)
        results = []
        for role in options.role or ROLES:
            common = {"folder": folder / role, "points": options.points, "seed": options.seed}
            if role in FAULTS:
                results.append(FAULTS[role](**common, tell=tell))
            else:
                results.append(run(role, **common, named=options.named, tell=tell))
    show(results, as_json=options.json)
    return 0 if all(result.passed for result in results) else 1


def show(results: list[Result], *, as_json: bool) -> None:
    """A table, or one object."""
    if as_json:
        rows = [asdict(result) | {"passed": result.passed} for result in results]
        print(json.dumps({"roles": rows, "passed": all(each.passed for each in results)}))
        return
    head = f"{'role':9} {'kills':>5} {'named':>5} {'segments':>8} {'s/kill':>6} {'vouchered':>9}"
    print(f"{head} {'redeemed':>9}  result")
    for each in results:
        per_kill_s = each.seconds / max(1, each.kills)
        books = each.books
        print(
            f"{each.role:9} {each.kills:5} {each.points:5} {books.get('segments', 0):8}"
            f" {per_kill_s:6.2f}"
            f" {books.get('vouchered_micro', 0):9} {books.get('redeemed_micro', 0):9}"
            f"  {'passed' if each.passed else 'FAILED'}"
        )
        for line in each.violations:
            print(f"  {line}")
        if each.missed:
            print(f"  not on its way: {', '.join(each.missed)}")


if __name__ == "__main__":
    sys.exit(main())
