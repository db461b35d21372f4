"""A market of thousands, event by event: production logic decides, a model of the network carries.

What decides is the node's own code: the auction's state machine with its ranking, draw and
measurements; a worker's promises and reservations; the book of announcements, its interval, its
answers to an exchange; what a client keeps and lets go.  What is modelled is what lies between:
latency, who hears what when, how long a job really takes.  No message is encoded: `costs` knows
what each would have weighed.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from node.protocol import auction
from node.protocol.auction_state import (
    AwardLost,
    AwardRefused,
    Bound,
    Event,
    GiveAward,
    Phase,
    Reached,
    Rules,
    SendAsk,
    State,
    Tick,
)
from node.protocol.fields import Address
from node.protocol.frames import Refused
from node.protocol.offers import Standing
from node.protocol.scoring import Need
from node.protocol.statements import Tier
from node.roles.capacity import Promise
from node.roles.measurements import Report
from tests.sim_market.parties import (
    MODEL,
    PREFS,
    PUSH_GAP_S,
    SLOTS,
    TOKENS_IN_MEAN,
    TOKENS_OUT_MEAN,
    VALUE_OF_TIME,
    Client,
    Clock,
    Job,
    Worker,
    latency_s,
)


@dataclass(slots=True)
class Tally:
    """What happened in the measured time."""

    jobs: int = 0
    awards: int = 0
    refused: int = 0
    failed: int = 0
    dials: int = 0
    dials_failed: int = 0
    gossiped: int = 0
    asks: int = 0
    session_s: float = 0.0
    ratios: list[float] = field(default_factory=list)
    costs: dict[int, float] = field(default_factory=dict)
    """Per job of the measured time that ended well: its price and its time's worth, in micro."""


class Heap:
    """Events in order of time, ties in order of arrival."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count: Iterator[int] = itertools.count()

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time_s, next(self._count), call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.at(self._clock.now_s + delay_s, call)

    def run_until(self, end_s: float) -> None:
        while self._heap and self._heap[0][0] <= end_s:
            time_s, _, call = heapq.heappop(self._heap)
            self._clock.now_s = time_s
            call()
        self._clock.now_s = end_s


class Jobs:
    """Jobs from their arrival to their end; who knows whom lies with `population`."""

    def __init__(
        self, heap: Heap, clock: Clock, rng: random.Random, sizes: random.Random, tally: Tally
    ) -> None:
        """
        Args:
            heap: What happens when.
            clock: The simulation's.
            rng: Of whatever happens.
            sizes: Of jobs alone, so that other markets can have the same.
            tally: What is counted.
        """
        self.heap, self.clock, self.rng, self.tally = heap, clock, rng, tally
        self.sizes = sizes
        self.rules = Rules()
        self.measuring = False
        self.omniscient: Callable[[Need], int] | None = None
        self.omniscient_every = 50

    def arrive(self, client: Client) -> None:
        tokens_in, output = (
            min(max(16, int(self.sizes.lognormvariate(0, 0.6) * mean * 0.83)), 4000)
            for mean in (TOKENS_IN_MEAN, TOKENS_OUT_MEAN)
        )
        need = Need(model=MODEL, tier=Tier.IDS, tokens_in=tokens_in, output_max=output)
        client.last_need = need
        job = Job(client, need, self.clock.now_s)
        if self.measuring:
            self.tally.jobs += 1
            job.number = self.tally.jobs
        self._begin(job)

    def is_new(self, client: Client, worker: Address) -> bool:
        return client.new.get(worker, 0.0) > self.clock.now_s

    def _offers(self, client: Client) -> tuple[Standing, ...]:
        return tuple(
            worker.seen_from(latency_s(client.at, worker.at) + PUSH_GAP_S / 2)
            for worker in client.sessions.values()
        )

    def _begin(self, job: Job) -> None:
        client = job.client
        state, effects = auction.start(
            need=job.need,
            prefs=PREFS,
            rules=self.rules,
            seed=self.rng.getrandbits(64),
            now_s=self.clock.now_s,
            offers=self._offers(client),
            reached=Reached(
                workers=frozenset(client.sessions),
                pending=0,
                new_here=frozenset(a for a in client.sessions if self.is_new(client, a)),
            ),
            tracks=client.measured.tracks(MODEL),
            newcomers_permille=client.measured.newcomers_permille,
        )
        self._took(job, state, effects)

    def _step(self, job: Job, event: Event) -> None:
        assert job.state is not None
        self._took(job, *auction.step(job.state, event, self.clock.now_s))

    def _took(self, job: Job, state: State, effects: tuple[object, ...]) -> None:
        job.state = state
        for effect in effects:
            match effect:
                case SendAsk(workers=workers):
                    self._ask(job, workers)
                case GiveAward(choice=choice):
                    self._award(job, choice.standing, choice.estimate.score)
                case _:
                    if self.measuring:
                        self.tally.failed += 1
        if state.phase is Phase.ASK:
            due_s = auction.wake_s(state, self.clock.now_s)
            assert due_s is not None
            self.heap.at(max(due_s, self.clock.now_s + 0.001), lambda: self._tick(job, state))

    def _tick(self, job: Job, state: State) -> None:
        if job.state is state:
            self._step(job, Tick())

    def _ask(self, job: Job, workers: tuple[Address, ...]) -> None:
        """Each answers after a round trip."""
        for address in workers:
            worker = job.client.sessions.get(address)
            if worker is None:
                continue
            if self.measuring:
                self.tally.asks += 1
            delay_s = 2 * latency_s(job.client.at, worker.at)
            self.heap.after(delay_s, partial(self._answer, job, worker))

    def _answer(self, job: Job, worker: Worker) -> None:
        if worker.left_s is None and worker.address in job.client.sessions:
            self._step(job, Bound(standing=worker.seen_from(0.0)))

    def _award(self, job: Job, standing: Standing, score: int) -> None:
        worker = job.client.sessions.get(standing.terms.worker)
        if self.measuring:
            self.tally.awards += 1
        if worker is None:
            self._step(job, AwardLost(reason="left"))
            return
        address = worker.address
        job.client.busy[address] = job.client.busy.get(address, 0) + 1
        job.awarded_s = self.clock.now_s
        if self.measuring and self.omniscient and self.tally.awards % self.omniscient_every == 0:
            self.tally.ratios.append(worker.real_score(job.need) / self.omniscient(job.need))
        lag_s = latency_s(job.client.at, worker.at)
        self.heap.after(lag_s, lambda: self._award_comes(job, worker, lag_s))

    def _award_comes(self, job: Job, worker: Worker, lag_s: float) -> None:
        key = self.rng.randbytes(32)
        if worker.left_s is not None:
            self.heap.after(3.0, lambda: self._lost(job, worker))
            return
        speed = worker.speed(job.need.tokens_in)
        if not worker.places.reserve(key):
            self.heap.after(lag_s, lambda: self._refused(job, worker))
            return
        if worker.first_award_s is None:
            worker.first_award_s = self.clock.now_s
        worker.places.started(key)
        if worker.active < SLOTS:
            self._start(job, worker, key, speed)
        else:
            worker.waiting.append((key, job))
        worker.load_changed()

    def _start(self, job: Job, worker: Worker, key: bytes, speed: Promise) -> None:
        worker.active += 1
        first_s = job.need.tokens_in / worker.engine.rates.prefill_tps + 0.04
        rate_tps = speed.rate_mtps / 1000
        noise = worker.honesty * self.rng.uniform(0.95, 1.05)
        took_s = (first_s + (job.need.output_max - 1) / rate_tps) * noise
        began_s = self.clock.now_s
        worker.ends_s.append(began_s + took_s)
        self.heap.after(
            took_s, lambda: self._done(job, worker, key, began_s, first_s * noise, rate_tps / noise)
        )

    def _done(
        self, job: Job, worker: Worker, key: bytes, began_s: float, first_s: float, rate: float
    ) -> None:
        worker.active -= 1
        worker.ends_s.remove(min(worker.ends_s))
        worker.places.free(key)
        if self.measuring:
            worker.busy_s += self.clock.now_s - began_s
            worker.jobs += 1
        if worker.waiting and worker.active < SLOTS:
            next_key, next_job = worker.waiting.pop(0)
            self._start(next_job, worker, next_key, worker.speed(next_job.need.tokens_in))
        worker.load_changed()
        ok = worker.left_s is None
        if ok and job.number:
            took_s = self.clock.now_s - job.arrived_s
            self.tally.costs[job.number] = worker.price_micro(job.need) + VALUE_OF_TIME * took_s
        self._note(job, worker, ok=ok, first_s=began_s - job.awarded_s + first_s, rate=rate)

    def _note(self, job: Job, worker: Worker, *, ok: bool, first_s: float, rate: float) -> None:
        self._release(job.client, worker)
        job.client.measured.note(
            Report(
                worker=worker.address,
                model=MODEL,
                tokens_in=job.need.tokens_in,
                first_token_s=first_s if ok else None,
                rate_tps=rate if ok else None,
                ok=ok,
            )
        )

    def _release(self, client: Client, worker: Worker) -> None:
        client.busy[worker.address] = max(client.busy.get(worker.address, 1) - 1, 0)

    def _refused(self, job: Job, worker: Worker) -> None:
        if self.measuring:
            self.tally.refused += 1
        self._release(job.client, worker)
        job.client.measured.note_refusal(worker.address, MODEL)
        event = AwardRefused(code=Refused.BUSY, detail="", fresh=worker.seen_from(0.0))
        self._step(job, event)

    def _lost(self, job: Job, worker: Worker) -> None:
        self._release(job.client, worker)
        self._step(job, AwardLost(reason="did not answer"))
