"""One line for each check, and what all of them come to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

PASSED: Final = "passed"
REFUSED: Final = "refused as documented"
FAILED: Final = "FAILED"


@dataclass
class Report:
    """Prints as it goes."""

    failures: int = 0
    checks: int = 0
    program: str = field(default="", init=False)
    version: str = field(default="", init=False)

    def about(self, program: str, version: str) -> None:
        """The checks that follow are of this program."""
        self.program, self.version = program, version

    def line(self, what: str, result: str, detail: str = "") -> None:
        """One check's result."""
        self.checks += 1
        self.failures += result not in (PASSED, REFUSED)
        name = f"{self.program} {self.version}"
        print(f"{name:<28} {what:<58} {result}{': ' + detail if detail else ''}", flush=True)

    @contextmanager
    def check(self, what: str) -> Iterator[None]:
        """A check that fails if its block raises anything; the next one goes on."""
        try:
            yield
        except Exception as error:  # whatever a program does is this check's result
            self.line(what, FAILED, f"{type(error).__name__}: {error}"[:2000])
        else:
            self.line(what, PASSED)

    def run(self, what: str, check: Callable[[], object]) -> None:
        """The same, of a function."""
        with self.check(what):
            check()

    def end(self) -> int:
        """The exit code."""
        print(f"{self.checks} checks, {self.failures} failed")
        return 1 if self.failures or not self.checks else 0
