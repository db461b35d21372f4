"""`node earnings`: what this home sold, from its own store; a running node is not disturbed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from node.adapters.store import open_stores_read_only
from node.app.home import Home
from node.protocol.fields import Hash
from node.roles.stores import Earnings, SegmentRow, WorkerStore
from node.units import MS_PER_S

_HOUR_MS: Final = 3600 * MS_PER_S
_PAGE: Final = 500
"""More than can begin in one millisecond."""


@dataclass(slots=True, kw_only=True)
class HourRow:
    """What one model brought in one hour."""

    hour_ms: int
    """Unix time at which the hour began."""
    model: str
    segments: int = 0
    """That delivered or earned something."""
    tokens_in: int = 0
    tokens_out: int = 0
    earned_micro: int = 0
    paid_micro: int = 0
    """Vouchered for these segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything since ever, and the hours asked for, newest first."""

    totals: Earnings
    hours: tuple[HourRow, ...]


async def report(home: Home, *, since_ms: int) -> Report:
    """Sums over all time, and per model and hour for segments begun since a time.

    Raises:
        ConfigError: There is no home, or it has no store yet.
        StoreFailed: The store can't be read.
    """
    home.check()
    async with open_stores_read_only(home.store) as stores:
        totals = await stores.worker.totals()
        hours: dict[tuple[int, Hash], HourRow] = {}
        async for segment in _segments(stores.worker, since_ms):
            _add(hours, segment)
    newest_first = sorted(hours.values(), key=lambda row: (-row.hour_ms, row.model))
    return Report(totals=totals, hours=tuple(newest_first))


async def _segments(store: WorkerStore, since_ms: int) -> AsyncIterator[SegmentRow]:
    """Newest first.  A page may end amid several of one millisecond: the next begins with them."""
    before_ms, seen = 2**62, set[Hash]()
    while True:
        page = await store.segments(count_max=_PAGE, before_ms=before_ms)
        fresh = [segment for segment in page if segment.digest not in seen]
        for segment in fresh:
            if segment.begun_ms < since_ms:
                return
            yield segment
        if len(page) < _PAGE or not fresh:
            return
        last_ms = page[-1].begun_ms
        before_ms = last_ms + 1
        seen = {segment.digest for segment in page if segment.begun_ms == last_ms}


def _add(hours: dict[tuple[int, Hash], HourRow], segment: SegmentRow) -> None:
    last = segment.receipt or segment.progress
    if last is None or not (last.statement.tokens_out or segment.earned_micro):
        return  # an award that came to nothing
    hour_ms = segment.begun_ms - segment.begun_ms % _HOUR_MS
    model = segment.terms.statement.model
    row = hours.setdefault((hour_ms, model), HourRow(hour_ms=hour_ms, model="0x" + model.hex()))
    row.segments += 1
    row.tokens_in += last.statement.tokens_in
    row.tokens_out += last.statement.tokens_out
    row.earned_micro += segment.earned_micro
    row.paid_micro += segment.paid_micro
