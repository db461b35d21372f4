"""A market of thousands, event by event: production logic decides, a model of the network carries.

What decides is the node's own code: the auction's state machine with its ranking, draw and
measurements; a worker's promises and reservations; the book of announcements, its interval, its
answers to an exchange; what a client keeps and lets go.  What is modelled is what lies between:
latency, who hears what when, how long a job really takes.  No message is encoded: `costs` knows
what each would have weighed.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from node.protocol import auction, signing
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
from node.protocol.fields import ZERO_HASH, Address, Signed
from node.protocol.frames import Refused
from node.protocol.offers import Standing
from node.protocol.scoring import Need, Preferences
from node.protocol.statements import Terms, Tier
from node.roles.capacity import Promise, Reservations, promise
from node.roles.generation import EngineLoad, EngineRates
from node.roles.measurements import Measurements

MODEL = b"m" * 32
START_MS = 1_790_000_000_000
TOKENS_IN_MEAN, TOKENS_OUT_MEAN = 600, 1000
SLOTS = 4
DECODE_TPS = (30.0, 45.0, 70.0, 110.0)
"""Kinds of GPU: one job alone; four together make two and a half times that."""
BATCH_GAIN = 2.5
PRICE_SPREAD = 0.2
"""Standard deviation of the logarithm of prices."""
PREFS = Preferences(price_micro_max=10**9)
LATENCY_S = (0.003, 0.080)
"""One way, by distance."""
PUSH_GAP_S = 0.1


@dataclass(frozen=True, slots=True)
class Rated:
    """As much of an engine's model as a promise needs."""

    rates: EngineRates
    slots: int = SLOTS


@dataclass(slots=True)
class Job:
    client: "Client"
    need: Need
    arrived_s: float
    state: State | None = None
    awarded_s: float = 0.0
    refusals: int = 0
    deadline_s: float = 0.0


class Clock:
    """The simulation's time, as the node's own parts read it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_ms(self) -> int:
        return START_MS + int(self.now_s * 1000)


class Worker:
    """One that sells: its prices, its engine, and who listens."""

    def __init__(self, number: int, clock: Clock, rng: random.Random, joined_s: float) -> None:
        self.number = number
        self.key = number.to_bytes(32, "big")
        self.address: Address = signing.address_of_key(self.key)
        self.joined_s = joined_s
        self.left_s: float | None = None
        self.at = (rng.random(), rng.random())
        dear = rng.lognormvariate(0.0, PRICE_SPREAD)
        self.price_in, self.price_out = int(100_000 * dear), int(400_000 * dear)
        tps = rng.choice(DECODE_TPS)
        self.engine = Rated(
            EngineRates(
                prefill_tps=40.0 * tps,
                decode_tps=tps,
                decode_batch_tps=BATCH_GAIN * tps,
                first_token_ms=40.0,
            )
        )
        self.honesty = rng.uniform(0.9, 1.15)
        """Real time over promised time."""
        self.active = 0
        self.waiting: list[tuple[bytes, Job]] = []
        self.clock = clock
        self.places = Reservations(load=self._load, clock=clock, hold_s=10.0, queue_max=16)
        self.subscribers: dict[Client, None] = {}
        self.changed_s = joined_s
        self.serial = 0
        self.standing = self._stand()
        self.before = self.standing
        self.pushes = 0
        self.busy_s = 0.0
        self.jobs = 0
        self.sessions: dict[Client, None] = {}
        self.first_award_s: float | None = None

    def _load(self) -> EngineLoad:
        return EngineLoad(active=self.active, slots=SLOTS, queued=len(self.waiting), queue_max=16)

    def speed(self, tokens_in: int) -> Promise:
        return promise(self.engine, self.places, tokens_in=tokens_in, tokens_per_s_max=0.0)  # type: ignore[arg-type]

    def _stand(self) -> Standing:
        """An offer to anyone, as of now; the auction never looks at signatures."""
        self.serial += 1
        speed = self.speed(1024)
        terms = Terms(
            worker=self.address,
            payee=self.address,
            model=MODEL,
            tier=Tier.IDS,
            tokenizer=ZERO_HASH,
            price_in=self.price_in,
            price_cached=self.price_in // 4,
            price_out=self.price_out,
            splits=(),
            quantum=2_000,
            prepay=0,
            context_max=8192,
            output_max=8192,
            first_token_ms=speed.first_token_ms,
            rate_mtps=speed.rate_mtps,
            prefill_tps=speed.prefill_tps,
            slots_free=self.places.slots_free(),
            queued=self.places.queued(),
            region="",
            serial=self.serial,
            expires_ms=0,
            ask=ZERO_HASH,
        )
        digest = self.address.ljust(24, b"\0") + self.serial.to_bytes(8, "big")
        return Standing(signed=Signed(terms, b""), digest=digest, arrived_s=self.clock.now_s)

    def load_changed(self) -> None:
        """New terms for everybody who listens, at most one push each 0.1 s."""
        self.before = self.standing
        if self.clock.now_s - self.changed_s > PUSH_GAP_S:
            self.pushes += len(self.subscribers)
        self.changed_s = self.clock.now_s
        self.standing = self._stand()

    def seen_from(self, lag_s: float) -> Standing:
        """The offer that a client holds now: what was sent before the lag, and is kept alive."""
        fresh = self.clock.now_s - self.changed_s > lag_s
        return replace(self.standing if fresh else self.before, arrived_s=self.clock.now_s)


class Client:
    """One that buys: its sessions, and what it measured."""

    def __init__(self, number: int, clock: Clock, rng: random.Random, *, active: bool) -> None:
        self.number = number
        self.at = (rng.random(), rng.random())
        self.active = active
        """Whether it has jobs; else it sits by."""
        self.gone = False
        self.joined_s = 0.0
        self.sessions: dict[Address, Worker] = {}
        self.busy: dict[Address, int] = {}
        self.put_off: dict[Address, float] = {}
        self.measured = Measurements(store=None, clock=clock)
        self.last_need = Need(
            model=MODEL, tier=Tier.IDS, tokens_in=TOKENS_IN_MEAN, output_max=TOKENS_OUT_MEAN
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


def latency_s(a: tuple[float, float], b: tuple[float, float]) -> float:
    distance = math.dist(a, b)
    return LATENCY_S[0] + distance * (LATENCY_S[1] - LATENCY_S[0])


class Jobs:
    """Jobs from their arrival to their end; who knows whom lies with `population`."""

    def __init__(self, heap: Heap, clock: Clock, rng: random.Random, tally: Tally) -> None:
        self.heap, self.clock, self.rng, self.tally = heap, clock, rng, tally
        self.rules = Rules()
        self.measuring = False
        self.omniscient: Callable[[Need], int] | None = None
        self.omniscient_every = 50
        self.wants_more: Callable[[Client], None] = lambda _: None

    def arrive(self, client: Client) -> None:
        tokens_in = max(16, int(self.rng.lognormvariate(0, 0.6) * TOKENS_IN_MEAN * 0.83))
        output = max(16, int(self.rng.lognormvariate(0, 0.6) * TOKENS_OUT_MEAN * 0.83))
        need = Need(
            model=MODEL, tier=Tier.IDS, tokens_in=min(tokens_in, 4000), output_max=min(output, 4000)
        )
        client.last_need = need
        job = Job(client, need, self.clock.now_s)
        if self.measuring:
            self.tally.jobs += 1
        self._begin(job)

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
            reached=Reached(workers=frozenset(client.sessions), pending=0),
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
            self.tally.ratios.append(self.true_score(worker, job.need) / self.omniscient(job.need))
        lag_s = latency_s(job.client.at, worker.at)
        self.heap.after(lag_s, lambda: self._award_comes(job, worker, lag_s))

    def true_score(self, worker: Worker, need: Need) -> int:
        """What the job would cost with a worker as it is now, time at its value."""
        speed = worker.speed(need.tokens_in)
        total_s = speed.first_token_ms / 1000 + (need.output_max - 1) * 1000 / speed.rate_mtps
        price = (need.tokens_in * worker.price_in + need.output_max * worker.price_out) // 10**6
        return price + int(PREFS.value_of_time_micro_per_s * total_s * worker.honesty)

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
        self.heap.after(
            took_s, lambda: self._done(job, worker, key, began_s, first_s * noise, rate_tps / noise)
        )

    def _done(
        self, job: Job, worker: Worker, key: bytes, began_s: float, first_s: float, rate: float
    ) -> None:
        worker.active -= 1
        worker.places.free(key)
        if self.measuring:
            worker.busy_s += self.clock.now_s - began_s
            worker.jobs += 1
        if worker.waiting and worker.active < SLOTS:
            next_key, next_job = worker.waiting.pop(0)
            self._start(next_job, worker, next_key, worker.speed(next_job.need.tokens_in))
        worker.load_changed()
        ok = worker.left_s is None
        self._note(job, worker, ok=ok, first_s=began_s - job.awarded_s + first_s, rate=rate)

    def _note(self, job: Job, worker: Worker, *, ok: bool, first_s: float, rate: float) -> None:
        self._release(job.client, worker)
        job.client.measured.note(
            worker=worker.address,
            model=MODEL,
            tokens_in=job.need.tokens_in,
            first_token_s=first_s if ok else None,
            rate_tps=rate if ok else None,
            ok=ok,
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
