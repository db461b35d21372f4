"""Who knows everything: the scheduler that the market is compared with.

It has the same workers and the same jobs as the market of its seed, and places each job at once,
where it costs least: at every worker's real speed, with the very moment at which a slot will be
free.  It is greedy, as each client is: it does not hold a good place back for a job to come.
"""

import heapq
import random
from collections.abc import Iterable, Mapping

from node.protocol.fields import Address
from node.protocol.scoring import Need
from tests.sim_market.parties import (
    BATCH_GAIN,
    SLOTS,
    VALUE_OF_TIME,
    Clock,
    Job,
    Worker,
)
from tests.sim_market.world import Heap, Jobs, Tally


class Scheduler(Jobs):
    """Jobs that are placed by knowledge, not by a market."""

    def __init__(
        self, heap: Heap, clock: Clock, rng: random.Random, sizes: random.Random, tally: Tally
    ) -> None:
        super().__init__(heap, clock, rng, sizes, tally)
        self.workers: Mapping[Address, Worker] = {}

    def _begin(self, job: Job) -> None:
        worker = cheapest(self.workers.values(), job.need, self.clock.now_s)
        if worker is not None:
            self._award_comes(job, worker, 0.0)

    def _note(self, job: Job, worker: Worker, *, ok: bool, first_s: float, rate: float) -> None:
        """It has nothing to learn."""


def cheapest(workers: Iterable[Worker], need: Need, now_s: float) -> Worker | None:
    """The worker with which a job costs least in truth; None if all are full."""
    best, best_cost = None, float("inf")
    for worker in workers:
        waits = worker.active >= SLOTS
        # With a wait it can only cost more than at full speed at once.
        if worker.full() or (waits and _full_speed_cost(worker, need) >= best_cost):
            continue
        cost = _cost_after_wait(worker, need, now_s) if waits else worker.real_score(need)
        if cost < best_cost:
            best, best_cost = worker, cost
    return best


def _full_speed_cost(worker: Worker, need: Need) -> float:
    return worker.price_micro(need) + VALUE_OF_TIME * _took_s(worker, need)


def _cost_after_wait(worker: Worker, need: Need, now_s: float) -> float:
    ends_s = worker.ends_s.copy()
    heapq.heapify(ends_s)
    for _, waiting in worker.waiting:
        heapq.heapreplace(ends_s, ends_s[0] + _took_s(worker, waiting.need))
    return _full_speed_cost(worker, need) + VALUE_OF_TIME * (ends_s[0] - now_s)


def _took_s(worker: Worker, need: Need) -> float:
    """In the last free slot: all of them busy from then on."""
    rates = worker.engine.rates
    rate_tps = BATCH_GAIN * rates.decode_tps / SLOTS
    first_s = need.tokens_in / rates.prefill_tps + rates.first_token_ms / 1000
    return (first_s + (need.output_max - 1) / rate_tps) * worker.honesty
