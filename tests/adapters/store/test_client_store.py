"""What a client and its market can rely on."""

import pytest

from node.errors import CorruptState
from node.protocol import signing
from node.protocol.fields import ZERO_HASH
from node.protocol.statements import Acceptance, Cutoff, CutoffReason, Progress
from node.roles.stores import Duplicate, JobState, Measurement, Stores
from tests.adapters.store.samples import KEY, MODEL, award, digest_of, job, receipt, terms
from tests.roles.fakes import DOMAIN


async def test_a_job_from_beginning_to_end(stores: Stores) -> None:
    client = stores.client
    await client.begin_job(job=job(1), model=MODEL, at_ms=10)
    with pytest.raises(Duplicate):
        await client.begin_job(job=job(1), model=MODEL, at_ms=11)
    await client.save_auction(job(1), b'{"mode":"direct"}')
    row = await client.job(job(1))
    assert row is not None
    assert (row.state, row.begun_ms, row.ended_ms) == (JobState.RUNNING, 10, 0)
    await client.finish_job(
        job=job(1), state=JobState.DONE, at_ms=20, summary=b"{}", transcript=b"sealed"
    )
    row = await client.job(job(1))
    assert row is not None
    assert (row.state, row.ended_ms, row.transcript) == (JobState.DONE, 20, b"sealed")
    assert row.auction == b'{"mode":"direct"}'
    assert await client.job(job(2)) is None
    with pytest.raises(CorruptState):
        await client.save_auction(job(2), b"{}")


async def test_lists_leave_transcripts_out(stores: Stores) -> None:
    for number in range(4):
        await stores.client.begin_job(job=job(number), model=MODEL, at_ms=number)
    await stores.client.finish_job(
        job=job(3), state=JobState.FAILED, at_ms=9, summary=b"{}", transcript=b"sealed"
    )
    rows = await stores.client.jobs(count_max=3)
    assert [row.begun_ms for row in rows] == [3, 2, 1]
    assert rows[0].transcript == b""
    assert [row.begun_ms for row in await stores.client.jobs(count_max=9, before_ms=1)] == [0]


async def test_bought_segments_keep_their_statements(stores: Stores) -> None:
    client = stores.client
    signed = award(1)
    digest = digest_of(signed)
    await client.save_award(digest=digest, award=signed, terms=terms())
    with pytest.raises(Duplicate):
        await client.save_award(digest=b"x" * 32, award=signed, terms=terms())
    acceptance = signing.sign(Acceptance(award=digest, accepted_ms=5), DOMAIN, KEY)
    progress = signing.sign(
        Progress(
            award=digest,
            tokens_in=1,
            tokens_cached=0,
            tokens_out=2,
            amount=3,
            chain=ZERO_HASH,
            at_ms=4,
        ),
        DOMAIN,
        KEY,
    )
    cutoff = signing.sign(
        Cutoff(award=digest, position=3, chain=ZERO_HASH, reason=CutoffReason.STALLED), DOMAIN, KEY
    )
    other = signing.sign(
        Cutoff(award=digest, position=2, chain=ZERO_HASH, reason=CutoffReason.STALLED), DOMAIN, KEY
    )
    await client.save_acceptance(acceptance)
    await client.save_progress(progress)
    await client.save_receipt(receipt(digest)[0])
    await client.save_cutoff(cutoff)
    await client.save_cutoff(cutoff)
    with pytest.raises(Duplicate):
        await client.save_cutoff(other)
    (row,) = await client.bought(job(1))
    assert (row.digest, row.award, row.terms) == (digest, signed, terms())
    assert (row.acceptance, row.progress, row.cutoff) == (acceptance, progress, cutoff)
    assert row.receipt == receipt(digest)[0]
    assert await client.bought(job(2)) == ()


async def test_attempts_come_in_order(stores: Stores) -> None:
    for attempt in (2, 0, 1):
        signed = award(1, attempt=attempt)
        await stores.client.save_award(digest=digest_of(signed), award=signed, terms=terms())
    rows = await stores.client.bought(job(1))
    assert [row.award.statement.attempt for row in rows] == [0, 1, 2]


def measured(number: int, *, updated_ms: int) -> Measurement:
    return Measurement(
        worker=number.to_bytes(20, "big"),
        model=MODEL,
        count=3,
        failures=1,
        first_token_s=0.25,
        rate_tps=12.5,
        updated_ms=updated_ms,
    )


async def test_measurements_come_latest_first(stores: Stores) -> None:
    for number, at_ms in ((1, 5), (2, 9), (1, 7)):
        await stores.market.save_measurement(measured(number, updated_ms=at_ms))
    assert await stores.market.measurements() == (
        measured(2, updated_ms=9),
        measured(1, updated_ms=7),
    )


async def test_old_measurements_make_room(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.adapters.store.client.MEASUREMENTS_MAX", 3)
    for number in range(6):
        await stores.market.save_measurement(measured(number, updated_ms=number))
    kept = await stores.market.measurements()
    assert [row.updated_ms for row in kept] == [5, 4, 3]
