"""`scripts/attack`: runs attacks in full, and prints what was measured against the table."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from tests.attack.harness import NICE, Attack, Check, Figures, judge, open_world
from tests.attack.suite import ATTACKS


def main() -> int:
    """Run them; 0 only if every check of every attack held."""
    options = _parse()
    chosen = _chosen(options.only)
    rows: list[tuple[Attack, Figures]] = []
    for _, group in groupby(chosen, key=lambda each: repr(each.options)):
        attacks = list(group)
        with open_world(
            attacks[0].options, full=not options.short, say=_say, nice=options.nice
        ) as world:
            for attack in attacks:
                figures = _run(attack, world)
                rows.append((attack, figures))
                _say(f"{attack.number} {attack.name}: {'passed' if figures.passed else 'FAIL'}")
    print(_json(rows) if options.json else _table(rows))
    return 0 if all(figures.passed for _, figures in rows) else 1


def _run(attack: Attack, world: Any) -> Figures:
    try:
        return judge(attack, world)
    # One attack that can't be run is a failure of its row, and no reason to skip the others.
    except Exception as error:
        _say(f"{attack.number} {attack.name}: {error!r}")
        broken = Check(name=repr(error), measured=1, unit="", limit="must run", passed=False)
        return Figures(checks=(broken,))


def _chosen(only: str) -> list[Attack]:
    if not only:
        return list(ATTACKS)
    numbers = [int(each) for each in only.split(",")]
    unknown = set(numbers) - {attack.number for attack in ATTACKS}
    if unknown:
        sys.exit(f"no attack has the number {', '.join(map(str, sorted(unknown)))}")
    return [attack for attack in ATTACKS if attack.number in numbers]


def _table(rows: Sequence[tuple[Attack, Figures]]) -> str:
    lines = []
    for attack, figures in rows:
        verdict = "passed" if figures.passed else "FAIL"
        lines.append(f"{attack.number:>2}  {attack.name}  [{verdict}]")
        lines.append(f"    target:   {attack.target}")
        for check in figures.checks:
            lines.append(f"    {'ok  ' if check.passed else 'FAIL'}  {check}")
        p95 = figures.details.get("honest_p95_s"), figures.details.get("honest_baseline_p95_s")
        if None not in p95:
            lines.append(f"          honest p95 {p95[0]:.3f} s, before the attack {p95[1]:.3f} s")
    return "\n".join(lines)


def _json(rows: Sequence[tuple[Attack, Figures]]) -> str:
    return json.dumps(
        [
            {
                "number": attack.number,
                "name": attack.name,
                "target": attack.target,
                "passed": figures.passed,
                "checks": [asdict(check) for check in figures.checks],
                "details": dict(figures.details),
            }
            for attack, figures in rows
        ],
        indent=1,
        default=str,
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__)
    parser.add_argument("--only", default="", metavar="N,…", help="these numbers of the table")
    parser.add_argument("--short", action="store_true", help="smaller counts, no time ratios")
    parser.add_argument(
        "--nice", type=int, default=NICE, help="of attackers; 0 where the machine does other work"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
