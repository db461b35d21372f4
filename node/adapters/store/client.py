"""`roles.stores.ClientStore` and `MarketStore` on SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from node.adapters.store.packing import maybe_in, signed_in, signed_out
from node.adapters.store.writer import Writer
from node.errors import CorruptState
from node.protocol.fields import Hash, JobId, Signed
from node.protocol.statements import Acceptance, Award, Cutoff, Progress, Receipt, Terms
from node.roles.stores import BoughtSegment, Duplicate, JobRow, JobState, Measurement

MEASUREMENTS_MAX = 4_096

_JOB = "job, model, begun_ms, ended_ms, state, auction, summary"


class SqliteClientStore:
    """The client's statements and jobs."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def begin_job(self, *, job: JobId, model: Hash, at_ms: int) -> None:
        """Save that a job was begun.

        Raises:
            Duplicate: There was one with this id.
        """
        await self._insert(
            "INSERT INTO jobs (job, model, begun_ms, state) VALUES (?, ?, ?, ?)",
            (job, model, at_ms, JobState.RUNNING.value),
            "there was a job with this id before",
        )

    async def save_auction(self, job: JobId, record: bytes) -> None:
        """Save how the worker was chosen, as JSON."""
        await self._update("UPDATE jobs SET auction = ? WHERE job = ?", (record, job))

    async def save_award(self, *, digest: Hash, award: Signed[Award], terms: Signed[Terms]) -> None:
        """Save before it is sent.  `digest` is the award's.

        Raises:
            Duplicate: This (job, attempt) was awarded before.
        """
        order = award.statement
        await self._insert(
            "INSERT INTO bought (digest, job, attempt, award, terms) VALUES (?, ?, ?, ?, ?)",
            (digest, order.job, order.attempt, signed_out(award), signed_out(terms)),
            "this attempt of the job was awarded before",
        )

    async def save_acceptance(self, acceptance: Signed[Acceptance]) -> None:
        """Save a worker's acceptance; its `award` names the segment."""
        await self._set("acceptance", acceptance, acceptance.statement.award)

    async def save_progress(self, progress: Signed[Progress]) -> None:
        """Save the last progress that was accepted."""
        await self._set("progress", progress, progress.statement.award)

    async def save_receipt(self, receipt: Signed[Receipt]) -> None:
        """Save the receipt that was accepted."""
        await self._set("receipt", receipt, receipt.statement.award)

    async def save_cutoff(self, cutoff: Signed[Cutoff]) -> None:
        """Save before it is sent.

        Raises:
            Duplicate: The segment has another cutoff already.
        """
        blob, digest = signed_out(cutoff), cutoff.statement.award

        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE bought SET cutoff = ? WHERE digest = ? AND coalesce(cutoff, ?) = ?",
                (blob, digest, blob, blob),
            ).rowcount
            if changed != 1:
                raise Duplicate("the segment has another cutoff, or was never awarded")

        await self._writer.write(work)

    async def finish_job(
        self, *, job: JobId, state: JobState, at_ms: int, summary: bytes, transcript: bytes
    ) -> None:
        """Save how a job ended: its summary as JSON and the sealed transcript."""
        await self._update(
            "UPDATE jobs SET state = ?, ended_ms = ?, summary = ?, transcript = ? WHERE job = ?",
            (state.value, at_ms, summary, transcript, job),
        )

    async def job(self, job: JobId) -> JobRow | None:
        """One job."""
        query = f"SELECT {_JOB}, transcript FROM jobs WHERE job = ?"
        row = await self._writer.read(lambda c: c.execute(query, (job,)).fetchone())
        return None if row is None else _job_in(row)

    async def jobs(self, *, count_max: int, before_ms: int = 2**62) -> tuple[JobRow, ...]:
        """The newest jobs begun before a time, newest first; transcripts left empty."""
        query = (
            f"SELECT {_JOB}, x'' FROM jobs WHERE begun_ms < ? ORDER BY begun_ms DESC, job LIMIT ?"
        )
        rows = await self._writer.read(
            lambda c: c.execute(query, (before_ms, count_max)).fetchall()
        )
        return tuple(_job_in(row) for row in rows)

    async def bought(self, job: JobId) -> tuple[BoughtSegment, ...]:
        """A job's segments, by attempt."""
        query = (
            "SELECT digest, award, terms, acceptance, progress, receipt, cutoff FROM bought"
            " WHERE job = ? ORDER BY attempt"
        )
        rows = await self._writer.read(lambda c: c.execute(query, (job,)).fetchall())
        return tuple(_bought_in(row) for row in rows)

    async def _insert(self, query: str, values: Sequence[bytes | int | str], why: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(query, values)
            except sqlite3.IntegrityError:
                raise Duplicate(why) from None

        await self._writer.write(work)

    async def _set(self, column: str, statement: Signed[Any], digest: Hash) -> None:
        query = f"UPDATE bought SET {column} = ? WHERE digest = ?"
        await self._update(query, (signed_out(statement), digest))

    async def _update(self, query: str, values: Sequence[bytes | int | str]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(query, values).rowcount != 1:
                raise CorruptState("a statement of a job that was never begun")

        await self._writer.write(work)


class SqliteMarketStore:
    """What the client measured."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def save_measurement(self, measurement: Measurement) -> None:
        """Insert or replace; the oldest go when there are too many."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    measurement.worker,
                    measurement.model,
                    measurement.count,
                    measurement.failures,
                    measurement.first_token_s,
                    measurement.rate_tps,
                    measurement.updated_ms,
                ),
            )
            connection.execute(
                "DELETE FROM measurements WHERE updated_ms <"
                " (SELECT updated_ms FROM measurements ORDER BY updated_ms DESC LIMIT 1 OFFSET ?)",
                (MEASUREMENTS_MAX - 1,),
            )

        await self._writer.write(work)

    async def measurements(self) -> tuple[Measurement, ...]:
        """All, the latest first."""
        query = (
            "SELECT worker, model, count, failures, first_token_s, rate_tps, updated_ms"
            " FROM measurements ORDER BY updated_ms DESC, worker, model"
        )
        rows = await self._writer.read(lambda c: c.execute(query).fetchall())
        return tuple(
            Measurement(
                worker=row[0],
                model=row[1],
                count=row[2],
                failures=row[3],
                first_token_s=row[4],
                rate_tps=row[5],
                updated_ms=row[6],
            )
            for row in rows
        )


def _job_in(row: Sequence[Any]) -> JobRow:
    return JobRow(
        job=row[0],
        model=row[1],
        begun_ms=row[2],
        ended_ms=row[3],
        state=JobState(row[4]),
        auction=row[5],
        summary=row[6],
        transcript=row[7],
    )


def _bought_in(row: Sequence[Any]) -> BoughtSegment:
    return BoughtSegment(
        digest=row[0],
        award=signed_in(Award, row[1]),
        terms=signed_in(Terms, row[2]),
        acceptance=maybe_in(Acceptance, row[3]),
        progress=maybe_in(Progress, row[4]),
        receipt=maybe_in(Receipt, row[5]),
        cutoff=maybe_in(Cutoff, row[6]),
    )
