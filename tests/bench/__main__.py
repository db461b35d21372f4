"""`scripts/bench-*`: which bench to run, and how."""

import argparse
import sys
from importlib import import_module


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench-*", description=__doc__)
    parser.add_argument("bench", choices=("conversation", "engine", "gateway", "market", "store"))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: at most a minute")
    chosen = parser.parse_args()
    bench = import_module(f"tests.bench.{chosen.bench}_bench")
    return int(bench.main(quick=chosen.quick, json=chosen.json))


if __name__ == "__main__":
    sys.exit(main())
