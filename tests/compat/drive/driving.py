"""What the drivers have in common.  They run in foreign environments: only the standard library."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

PROMPT = "What is a voucher?"
REFUSED = "refused as documented"


@dataclass(frozen=True)
class Target:
    """The gateway, and the model that is asked."""

    base_url: str
    model: str


Check = Callable[[Target], str | None]
"""Raises if the program does not work; returns `REFUSED` where that is what had to happen."""


def drive(distribution: str, checks: Mapping[str, Check]) -> None:
    """Make all checks; a line of JSON about each on stdout."""
    target = Target(sys.argv[1], sys.argv[2])
    print(json.dumps({"program": distribution, "version": version(distribution)}), flush=True)
    for what, check in checks.items():
        result, detail = "passed", ""
        try:
            result = check(target) or result
        except Exception as error:  # whatever a program does is this check's result
            where = traceback.extract_tb(error.__traceback__)[1:2]
            detail = f"{type(error).__name__}: {error} (line {where[0].lineno if where else 0})"
            result = "FAILED"
        print(json.dumps({"what": what, "result": result, "detail": detail}), flush=True)


def expect(condition: object, what: object = "") -> None:
    """
    Raises:
        AssertionError: It is not so; unlike `assert`, with what was found instead.
    """
    if not condition:
        raise AssertionError(f"found {what!r}")
