"""What this client measured of workers: in memory for auctions, in the store for later runs."""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
import trio

from node.errors import NodeError
from node.protocol.fields import ZERO_ADDRESS, Address, Hash
from node.protocol.prefixes import Heads, savable
from node.protocol.scoring import OK_WHOLE, Track, Trust, newcomers_after, newcomers_refused
from node.roles.ports import Clock
from node.roles.pulse import Pulse
from node.roles.readers import Readers
from node.roles.stores import MarketStore, Measurement

log = structlog.get_logger("measurements")

TRACKS_MAX = 4096
FORGIVE_MS = 3600 * 1000
"""A worker that failed is given another first job after this."""
FLUSH_S = 2.0
NEWCOMERS = ZERO_ADDRESS
"""In the store: the row of all newcomers together, whatever the model."""
NEWCOMERS_COUNT = OK_WHOLE

SAMPLES_MAX = 64
"""Latest jobs per worker and model whose figures are kept one by one, in memory."""

Key = tuple[Address, Hash]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One job's figures; None for what could not be measured."""

    first_token_s: float | None
    rate_tps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a segment went."""

    worker: Address
    model: Hash
    tokens_in: int
    """Prompt size."""
    tokens_cached: int = 0
    """Of it, what was billed as cached."""
    heads: Heads = ()
    """Of the prompt and the output, both of which it has; empty where they are no ids."""
    first_token_s: float | None
    """From award to first token; None if none came."""
    rate_tps: float | None
    """Output tokens per second; None if it can't be told."""
    ok: bool
    """Whether the worker kept its word to the end."""


class Measurements:
    """Tracks per worker and model, and the record of newcomers together."""

    def __init__(self, *, store: MarketStore | None, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._tracks: OrderedDict[Key, Track] = OrderedDict()
        self._samples: dict[Key, deque[Sample]] = {}
        self._readers = Readers(clock)
        self._dirty: dict[Key, None] = {}
        self._changed = Pulse()
        self._lock = trio.Lock()
        self.newcomers_permille = OK_WHOLE

    async def load(self) -> None:
        """Read what earlier runs measured.

        Raises:
            StoreFailed: The disk is broken.
        """
        rows = await self._store.measurements() if self._store is not None else ()
        for row in reversed(rows[:TRACKS_MAX]):  # latest first in the store, last in memory
            if row.worker == NEWCOMERS:
                self.newcomers_permille = _ok_permille(row)
            else:
                self._tracks[row.worker, row.model] = _track(row)

    async def run(self) -> None:
        """Save what is noted, until cancelled; what is noted by then is still saved."""
        try:
            while True:
                await self.flush()
                await self._changed.wait()
        finally:
            with trio.move_on_after(FLUSH_S) as scope:
                scope.shield = True
                await self.flush()

    async def flush(self) -> None:
        """Return once everything noted is saved; a store that fails is only logged."""
        async with self._lock:
            while self._dirty and self._store is not None:
                key = next(iter(self._dirty))
                del self._dirty[key]
                try:
                    await self._store.save_measurement(self._row(key))
                except NodeError as error:
                    log.warning("not saved", reason=str(error))
                    self._dirty[key] = None  # with the next change, or at the end
                    return

    def tracks(self, model: Hash) -> dict[Address, Track]:
        """Per worker; those that failed long ago are newcomers again."""
        before_ms = self._clock.unix_ms() - FORGIVE_MS
        return {
            worker: Track() if _forgiven(track, before_ms) else track
            for (worker, each), track in self._tracks.items()
            if each == model
        }

    def track(self, worker: Address, model: Hash) -> Track:
        """One worker's."""
        return self._tracks.get((worker, model), Track())

    def samples(self, worker: Address, model: Hash) -> tuple[Sample, ...]:
        """The latest jobs of this run of the node, the oldest first: averages have no spread."""
        return tuple(self._samples.get((worker, model), ()))

    def known(self, model: Hash, heads: Heads) -> Mapping[Address, int]:
        """Tokens of a prompt that workers have read before, of those that have any."""
        return self._readers.known(model, heads)

    def note(self, report: Report) -> None:
        """One more segment."""
        key = worker, model = report.worker, report.model
        latest = self._samples.setdefault(key, deque(maxlen=SAMPLES_MAX))
        latest.append(Sample(first_token_s=report.first_token_s, rate_tps=report.rate_tps))
        track = self.track(worker, model)
        if track.jobs == 0:
            self._put_newcomers(newcomers_after(self.newcomers_permille, ok=report.ok))
        first_s, rate_tps = report.first_token_s, report.rate_tps
        known = self.known(model, report.heads).get(worker, 0)
        self._put(
            key,
            track.after(
                ok=report.ok,
                now_ms=self._clock.unix_ms(),
                tokens_in=report.tokens_in,
                first_token_ms=None if first_s is None else max(int(first_s * 1000), 1),
                rate_mtps=None if rate_tps is None else int(rate_tps * 1000),
                tokens_known=min(known, savable(report.tokens_in)),
                tokens_cached=report.tokens_cached,
            ),
        )
        if first_s is not None:
            self._readers.read(worker, model, report.heads)

    def note_refusal(self, worker: Address, model: Hash) -> None:
        """An award on its live terms was turned down, for no fault of ours."""
        track = self.track(worker, model)
        if track.jobs == 0:
            self._put_newcomers(newcomers_refused(self.newcomers_permille))
        self._put((worker, model), track.refused(now_ms=self._clock.unix_ms()))

    def _put_newcomers(self, ok_permille: int) -> None:
        self.newcomers_permille = ok_permille
        self._dirty[NEWCOMERS, bytes(32)] = None

    def _put(self, key: Key, track: Track) -> None:
        self._tracks[key] = track
        self._tracks.move_to_end(key)
        if len(self._tracks) > TRACKS_MAX:
            oldest, _ = self._tracks.popitem(last=False)
            self._dirty.pop(oldest, None)
            self._samples.pop(oldest, None)
        self._dirty[key] = None
        self._changed.ring()

    def _row(self, key: Key) -> Measurement:
        if key[0] == NEWCOMERS:
            return Measurement(
                worker=NEWCOMERS,
                model=key[1],
                count=NEWCOMERS_COUNT,
                failures=OK_WHOLE - self.newcomers_permille,
                first_token_s=0.0,
                rate_tps=0.0,
                updated_ms=self._clock.unix_ms(),
            )
        track = self._tracks[key]
        return Measurement(
            worker=key[0],
            model=key[1],
            count=track.jobs,
            # Moving like the other figures, not a sum: recent failures weigh more.
            failures=round(track.jobs * (OK_WHOLE - track.ok_permille) / OK_WHOLE),
            first_token_s=track.first_token_ms / 1000,
            rate_tps=track.rate_mtps / 1000,
            updated_ms=track.updated_ms,
        )


def _track(row: Measurement) -> Track:
    return Track(
        jobs=row.count,
        ok_permille=_ok_permille(row),
        first_token_ms=int(row.first_token_s * 1000),
        rate_mtps=int(row.rate_tps * 1000),
        updated_ms=row.updated_ms,
    )


def _ok_permille(row: Measurement) -> int:
    return OK_WHOLE - OK_WHOLE * row.failures // row.count if row.count else OK_WHOLE


def _forgiven(track: Track, before_ms: int) -> bool:
    return track.trust is Trust.FAILING and track.updated_ms < before_ms
