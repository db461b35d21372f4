"""Watches what processes hold, in a thread, while faults strike them."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, NamedTuple

from devnet.network import Worker
from node.errors import NodeError
from tests.soak.party import Buyer, Sample, sample

EVERY_S: Final = 5.0
WARM_UP_SHARE: Final = 1 / 6
"""Ten minutes of an hour."""
QUARTERS: Final = 4
RSS_GROWTH_MAX: Final = 0.05
COUNT_GROWTH_MAX: Final = 25
"""Descriptors and tasks come and go with jobs and sessions: one session more is eleven tasks.  A
leak of one per job would be thousands in an hour, of one per fault about fifty."""


class Figure(NamedTuple):
    """What was held after the warm-up."""

    quarters: tuple[float, ...]
    """Medians, by quarter of that time."""
    peak: float


class Sampler:
    """Samples of the processes that live from the first minute to the last."""

    def __init__(self, workers: Sequence[Worker], buyers: Sequence[Buyer]) -> None:
        self._workers, self._buyers = workers, buyers
        self._began_s = time.monotonic()
        self._ended = threading.Event()
        self._series: dict[str, list[Sample]] = defaultdict(list)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sample no more."""
        self._ended.set()
        self._thread.join()

    def figures(self) -> dict[str, dict[str, Figure]]:
        """By process, what it held; samples taken while a fault froze it are left out."""
        return {name: _figures(samples) for name, samples in sorted(self._series.items())}

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            at_s = time.monotonic() - self._began_s
            for worker in self._workers:
                with suppress(NodeError):  # frozen just now
                    status: Any = worker.process.ask("status")
                    tasks = int(status["process"]["tasks"])
                    self._add(worker.identity.home.name, worker.process.pid, at_s, tasks)
            for buyer in self._buyers:
                self._add(buyer.home.name, buyer.pid, at_s, buyer.tasks)

    def _add(self, name: str, pid: int, at_s: float, tasks: int) -> None:
        found = sample(pid, at_s=at_s, tasks=tasks)
        if found is not None:
            self._series[name].append(found)


def grown(figures: dict[str, Figure]) -> list[str]:
    """What a process holds more of at the end than it may."""
    problems = []
    for what, figure in figures.items():
        first, last = figure.quarters[0], figure.quarters[-1]
        allowed = first * RSS_GROWTH_MAX if what == "rss_mb" else COUNT_GROWTH_MAX
        if last - first > allowed:
            problems.append(f"{what} grew from {first:.1f} to {last:.1f}")
    return problems


def _figures(samples: list[Sample]) -> dict[str, Figure]:
    steady = samples[int(len(samples) * WARM_UP_SHARE) :]
    marks = [len(steady) * number // QUARTERS for number in range(QUARTERS + 1)]
    found = {}
    for what in ("rss_mb", "descriptors", "tasks"):
        values = [getattr(each, what) for each in steady]
        found[what] = Figure(
            quarters=tuple(
                statistics.median(values[begin : max(end, begin + 1)])
                for begin, end in pairwise(marks)
            ),
            peak=max(values),
        )
    return found
