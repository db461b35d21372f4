"""`scripts/fuzz`: each decoder for a while; says what it tried, and stops at what escapes."""

import argparse
import json
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.decoders import Decoder, decoders
from tests.fuzz.mutate import mutated

BATCH = 500
SLOW_S = 5.0
"""Of CPU for one input of at most some ten kilobytes: slower is a fault as well."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of one decoder."""

    name: str
    inputs: int = 0
    slowest_s: float = 0.0
    fault: str = ""

    @property
    def passed(self) -> bool:
        """Nothing escaped, and nothing took long."""
        return not self.fault and self.slowest_s < SLOW_S


def fuzz(decoder: Decoder, seconds: float, first_seed: int) -> Result:
    """One decoder, for some seconds or until something escapes."""
    result = Result(name=decoder.name)

    def attempt(data: bytes) -> None:
        result.inputs += 1
        began_s = time.thread_time()
        with suppress(*decoder.errors):
            decoder.decode(data)
        result.slowest_s = max(result.slowest_s, time.thread_time() - began_s)

    until_s, number = time.monotonic() + seconds, first_seed
    while time.monotonic() < until_s and not result.fault:
        test = given(data=mutated(decoder.valid))(attempt)
        test = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(test)
        try:
            seed(number)(test)()
        # Whatever escapes is what this program looks for.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            result.fault = "".join(traceback.format_exception(error)[-4:])[-2000:]
        number += 1
    return result


def main() -> int:
    """Every decoder in turn; 0 only if nothing escaped."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="per decoder (20)")
    parser.add_argument("--only", default="", help="decoders whose name contains this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for name, decoder in decoders().items():
        if options.only in name:
            result = fuzz(decoder, options.seconds, options.seed)
            results.append(result)
            verdict = "ok" if result.passed else "FAIL"
            line = (
                f"{name:28} {result.inputs:>9,} inputs, slowest {result.slowest_s:.3f} s  {verdict}"
            )
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
            if result.fault:
                print(result.fault, file=sys.stderr)
    if options.json:
        rows = [{s: getattr(r, s) for s in Result.__slots__} for r in results]
        print(json.dumps(rows, indent=1))
    return 0 if results and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
