"""Who trades in the simulated market: workers, clients, their jobs."""

import math
import random
from dataclasses import dataclass, replace

from node.protocol import signing
from node.protocol.auction_state import State
from node.protocol.fields import ZERO_HASH, Address, Signed
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
VALUE_OF_TIME = PREFS.value_of_time_micro_per_s
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
    number: int = 0
    """From 1 in the measured time; the same job has the same one in every market of a seed."""
    state: State | None = None
    awarded_s: float = 0.0


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
        self.ends_s: list[float] = []
        """When the jobs that are being computed will be done, which nobody in the market knows."""
        self.clock = clock
        self.places = Reservations(load=self._load, clock=clock, hold_s=10.0, queue_max=16)
        self._promised: tuple[tuple[int, float], Promise] | None = None
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
        """What it would promise a job of this size now."""
        return promise(self.engine, self.places, tokens_in=tokens_in, tokens_per_s_max=0.0)  # type: ignore[arg-type]

    def real_score(self, need: Need) -> int:
        """What a job would cost with it as it is now, time at its value: at its real speed.

        Asked of every worker all the time, so that a promise is kept while nothing changes.
        """
        now = (self.places.used(), self.places.job_s)
        if self._promised is None or self._promised[0] != now:
            self._promised = (now, self.speed(0))
        speed = self._promised[1]
        first_s = speed.first_token_ms / 1000 + need.tokens_in / self.engine.rates.prefill_tps
        total_s = first_s + (need.output_max - 1) * 1000 / speed.rate_mtps
        return self.price_micro(need) + int(VALUE_OF_TIME * total_s * self.honesty)

    def price_micro(self, need: Need) -> int:
        """Of a job."""
        return (need.tokens_in * self.price_in + need.output_max * self.price_out) // 10**6

    def alone_score(self) -> int:
        """Of a usual job, if it had no other: what it competes with."""
        rates = self.engine.rates
        total_s = TOKENS_IN_MEAN / rates.prefill_tps + TOKENS_OUT_MEAN / rates.decode_tps
        price = (TOKENS_IN_MEAN * self.price_in + TOKENS_OUT_MEAN * self.price_out) // 10**6
        return price + int(VALUE_OF_TIME * total_s * self.honesty)

    def full(self) -> bool:
        """Whether it has no place left, not even in its queue."""
        return self.places.used() >= self.places.places()

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
        self.new: dict[Address, float] = {}
        """Workers that it noticed as new in the market, and until when they are."""
        self.measured = Measurements(store=None, clock=clock)
        self.last_need = Need(
            model=MODEL, tier=Tier.IDS, tokens_in=TOKENS_IN_MEAN, output_max=TOKENS_OUT_MEAN
        )


def latency_s(a: tuple[float, float], b: tuple[float, float]) -> float:
    distance = math.dist(a, b)
    return LATENCY_S[0] + distance * (LATENCY_S[1] - LATENCY_S[0])
