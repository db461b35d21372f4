"""Figures with their targets: percentiles, a table for people, JSON for programs.

A figure that is short of its target is no failure: time depends on the machine and on what else it
does.  A bench fails when something of it could not be run.
"""

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number."""

    name: str
    measured: float
    unit: str
    target: float | None = None
    """None: told, not judged."""
    at_least: bool = False
    """Whether the target is a floor; else it is a ceiling."""
    note: str = ""

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "measured": round(self.measured, 4) if math.isfinite(self.measured) else None,
            "unit": self.unit,
            "target": self.target,
            "at_least": self.at_least,
            "ok": self.ok,
            "note": self.note,
        }


@dataclass(slots=True)
class Report:
    """What a bench has found so far."""

    json: bool
    title: str
    figures: list[Figure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What could not be run, and why."""
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def say(self, line: str) -> None:
        """Progress, on stderr."""
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        self.say(f"  {_line(figure)}")

    def end(self) -> int:
        """Print everything; the exit code."""
        if self.json:
            sys.stdout.write(json.dumps(self._document()) + "\n")
        else:
            sys.stdout.write(f"\n{self.title}\n{machine()}, load {self.load_before:.1f} before\n")
            sys.stdout.write("\n".join(map(_line, self.figures)) + "\n")
            for failure in self.failures:
                sys.stdout.write(f"FAILED TO RUN: {failure}\n")
        return 1 if self.failures else 0

    def _document(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "machine": machine(),
            "load_before": self.load_before,
            "figures": [figure.to_json() for figure in self.figures],
            "failures": self.failures,
        }


def machine() -> str:
    """The machine, as far as figures depend on it."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; `share` from 0 to 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    return percentile(values, 0.5)


def _line(figure: Figure) -> str:
    verdict = {True: "ok", False: "SHORT", None: ""}[figure.ok]
    target = "" if figure.target is None else f"{'≥' if figure.at_least else '≤'} {figure.target:g}"
    measured = f"{figure.measured:,.{_digits(figure.measured)}f} {figure.unit}"
    return f"{figure.name:<52} {target:>9}  {measured:>18}  {verdict:<5}  {figure.note}".rstrip()


def _digits(value: float) -> int:
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
