"""What a worker or a client has on its disk, read beside it: it judges what an attack achieved."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TabSaved:
    """A tab at its payee, in micro."""

    cumulative: int
    best: int
    redeemed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSaved:
    """A segment at its worker, in micro."""

    cap: int
    earned: int
    paid: int
    tokens_out: int
    accepted: bool
    cut: bool


NO_TAB = TabSaved(cumulative=0, best=0, redeemed=0)


def _rows(home: Path, query: str, *values: object) -> list[tuple[object, ...]]:
    uri = f"file:{home / 'node.sqlite'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        return connection.execute(query, values).fetchall()


def number(home: Path, query: str, *values: object) -> int:
    """The one number that a query gives."""
    value = _rows(home, query, *values)[0][0]
    return int(value) if isinstance(value, int) else 0


def tab(home: Path, tab_id: bytes) -> TabSaved | None:
    """A payee's tab."""
    found = _rows(home, "SELECT cumulative, best, redeemed FROM payee_tabs WHERE id = ?", tab_id)
    if not found:
        return None
    cumulative, best, redeemed = (int(str(each)) for each in found[0])
    return TabSaved(cumulative=cumulative, best=best, redeemed=redeemed)


def segments(home: Path, client: bytes) -> dict[bytes, SegmentSaved]:
    """A worker's segments for one client, by award digest."""
    query = (
        "SELECT digest, cap, earned, paid, tokens_out, acceptance IS NOT NULL, cutoff IS NOT NULL"
        " FROM segments WHERE client = ?"
    )
    found = {}
    for digest, cap, earned, paid, tokens_out, accepted, cut in _rows(home, query, client):
        assert isinstance(digest, bytes)
        figures = [int(str(each)) for each in (cap, earned, paid, tokens_out)]
        found[digest] = SegmentSaved(
            cap=figures[0],
            earned=figures[1],
            paid=figures[2],
            tokens_out=figures[3],
            accepted=bool(accepted),
            cut=bool(cut),
        )
    return found


def locks(home: Path) -> set[bytes]:
    """Signed locks that a worker keeps to submit."""
    found = (lock for (lock,) in _rows(home, "SELECT lock FROM locks_got"))
    return {lock for lock in found if isinstance(lock, bytes)}


def releases(home: Path) -> set[bytes]:
    """Consents to lower a lock that a client keeps."""
    found = (release for (release,) in _rows(home, "SELECT release FROM releases_got"))
    return {release for release in found if isinstance(release, bytes)}


def jobs(home: Path, client: bytes) -> set[bytes]:
    """A client's jobs that a worker has begun."""
    found = (job for (job,) in _rows(home, "SELECT job FROM segments WHERE client = ?", client))
    return {job for job in found if isinstance(job, bytes)}


def payer_tabs(home: Path, payer: bytes) -> list[TabSaved]:
    """What a payee has of one payer, over all tabs."""
    query = "SELECT cumulative, best, redeemed FROM payee_tabs WHERE payer = ?"
    rows = [[int(str(each)) for each in row] for row in _rows(home, query, payer)]
    return [
        TabSaved(cumulative=cumulative, best=best, redeemed=redeemed)
        for cumulative, best, redeemed in rows
    ]
