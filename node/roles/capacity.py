"""How full a worker is: reservations that expire, and what it can promise at its load."""

from collections.abc import Callable
from dataclasses import dataclass

from node.protocol.fields import Hash
from node.roles.generation import EngineLoad, EngineModel
from node.roles.ports import Clock

JOB_S_GUESS = 3.0
"""Length of a job before any was seen."""
JOB_S_WEIGHT = 0.2


@dataclass(slots=True)
class _Held:
    since_s: float
    started: bool = False


class Reservations:
    """Places for jobs: slots, and a queue before them.

    An accepted award holds a place.  One whose request does not arrive in time loses it.
    """

    def __init__(
        self, *, load: Callable[[], EngineLoad], clock: Clock, hold_s: float, queue_max: int
    ) -> None:
        """
        Args:
            load: The engine's.
            clock: Monotonic.
            hold_s: How long a place is held for a job that does not start.
            queue_max: Jobs that may wait, the engine's own limit aside.
        """
        self._load = load
        self._clock = clock
        self._hold_s = hold_s
        self._queue_max = queue_max
        self._held: dict[Hash, _Held] = {}
        self.job_s = JOB_S_GUESS
        """Moving average of how long jobs ran."""
        self.expired = 0

    def reserve(self, key: Hash) -> bool:
        """Take a place; False if there is none."""
        if key in self._held or self.used() >= self.places():
            return False
        self._held[key] = _Held(self._clock.monotonic_s())
        return True

    def started(self, key: Hash) -> bool:
        """The job's request is here: its place stays until `free`; False if it was lost."""
        self._sweep()
        held = self._held.get(key)
        if held is None:
            return False
        held.started = True
        return True

    def free(self, key: Hash) -> bool:
        """Give a place back; False if it was not held."""
        held = self._held.pop(key, None)
        if held is None:
            return False
        if held.started:
            took_s = self._clock.monotonic_s() - held.since_s
            self.job_s += JOB_S_WEIGHT * (took_s - self.job_s)
        return True

    def places(self) -> int:
        """Slots and queue together."""
        load = self._load()
        return load.slots + min(self._queue_max, load.queue_max)

    def used(self) -> int:
        """Places taken, by reservations or in the engine."""
        self._sweep()
        load = self._load()
        return max(len(self._held), load.active + load.queued)

    def slots_free(self) -> int:
        """Jobs that would be computed at once."""
        return max(self._load().slots - self.used(), 0)

    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return max(self.used() - self._load().slots, 0)

    def wait_s(self) -> float:
        """How long one more job would wait for its slot."""
        slots = max(self._load().slots, 1)
        ahead = self.used() - slots + 1
        return max(ahead, 0) * self.job_s / slots

    def _sweep(self) -> None:
        limit_s = self._clock.monotonic_s() - self._hold_s
        for key in [k for k, h in self._held.items() if not h.started and h.since_s < limit_s]:
            del self._held[key]
            self.expired += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What terms say about speed."""

    first_token_ms: int
    rate_mtps: int
    prefill_tps: int


def promise(
    model: EngineModel, places: Reservations, *, tokens_in: int, tokens_per_s_max: float
) -> Promise:
    """What one more job may count on.

    The first token waits for a slot and for the prompt to be computed; the output rate is that of
    the batch as it would be with this job in it, interpolated between one job alone and all slots.

    Args:
        model: With the rates that the engine measured of itself.
        places: How full the worker is.
        tokens_in: Prompt size.
        tokens_per_s_max: The operator's limit on one job's rate; 0 for none.
    """
    rates = model.rates
    first_s = rates.first_token_ms / 1000 + places.wait_s() + tokens_in / rates.prefill_tps
    together = min(places.used() + 1, model.slots)
    share = (together - 1) / (model.slots - 1) if model.slots > 1 else 0.0
    total_tps = rates.decode_tps + share * (rates.decode_batch_tps - rates.decode_tps)
    rate_tps = min(total_tps / together, rates.decode_tps)
    if tokens_per_s_max:
        rate_tps = min(rate_tps, tokens_per_s_max)
    return Promise(
        first_token_ms=min(int(first_s * 1000) + 1, 2**32 - 1),
        rate_mtps=max(int(rate_tps * 1000), 1),
        prefill_tps=max(int(rates.prefill_tps), 1),
    )
