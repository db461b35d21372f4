"""`scripts/failover`: workers die, freeze or are cut off in mid-answer; nobody must see a seam."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from node.app import logs
from tests.failover.runs import KINDS, PAUSE_S, Result, market, run


def main() -> int:
    """Run; the exit code is 1 if a token was lost, repeated, or paid for twice."""
    parser = argparse.ArgumentParser(prog="scripts/failover", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, help="per kind")
    parser.add_argument("--tokens", type=int, default=200, help="of each job")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--strict", action="store_true", help="the pause counts as well: for a quiet machine"
    )
    parser.add_argument("--keep", type=Path, help="folder for homes and logs, not there yet")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logs.configure("warning")

    def tell(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="gpunode-failover-") as temporary,
        market(options.keep or Path(temporary) / "d") as up,
    ):
        results = [
            run(kind, up, jobs=options.jobs, tokens=options.tokens, seed=options.seed, tell=tell)
            for kind in options.kind or KINDS
        ]
    show(results, as_json=options.json)
    passed = all(each.passed and (each.quick or not options.strict) for each in results)
    return 0 if passed else 1


def show(results: list[Result], *, as_json: bool) -> None:
    """A table, or one object."""
    if as_json:
        rows = [each.to_json() for each in results]
        print(json.dumps({"kinds": rows, "passed": all(each.passed for each in results)}))
        return
    print(f"{'kind':7} {'jobs':>4} {'struck':>6} {'p50':>7} {'p95':>7} {'aim':>6}  result")
    for each in results:
        print(
            f"{each.kind:7} {each.jobs:4} {each.struck:6} {each.pause_s(50):5.2f} s"
            f" {each.pause_s(95):5.2f} s {PAUSE_S[each.kind]:4.1f} s"
            f"  {'passed' if each.passed else 'FAILED'}"
        )
        for line in each.violations:
            print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
