"""What a payee and its worker can rely on."""

from dataclasses import replace

import pytest
import trio

from node.errors import CorruptState
from node.protocol import signing
from node.protocol.fields import ZERO_HASH
from node.protocol.payee_state import Segment
from node.protocol.statements import Acceptance, Cutoff, CutoffReason, Lock, Progress
from node.roles.stores import Duplicate, Stores
from tests.adapters.store.samples import (
    KEY,
    PAYEE,
    PAYER,
    TAB_ID,
    award,
    digest_of,
    job,
    payee_row,
    receipt,
    terms,
)
from tests.roles.fakes import DOMAIN


async def begin(stores: Stores, number: int, *, at_ms: int = 0) -> bytes:
    signed = award(number)
    digest = digest_of(signed)
    await stores.worker.begin_segment(digest=digest, award=signed, terms=terms(), at_ms=at_ms)
    return digest


def paid(number: int, digest: bytes, micro: int, *, taken: bool = False) -> Segment:
    return Segment(
        award=digest,
        client=PAYER,
        job=job(number),
        attempt=0,
        payer=PAYER,
        tab=TAB_ID,
        cap_micro=100,
        need_micro=100,
        paid_micro=micro,
        receipt_taken=taken,
    )


async def progress(stores: Stores, digest: bytes, amount: int) -> None:
    statement = Progress(
        award=digest,
        tokens_in=1,
        tokens_cached=0,
        tokens_out=amount,
        amount=amount,
        chain=ZERO_HASH,
        at_ms=0,
    )
    await stores.worker.save_progress(signing.sign(statement, DOMAIN, KEY))


async def test_of_ten_parallel_attempts_one_begins(stores: Stores) -> None:
    begun, refused = [], []

    async def attempt(number: int) -> None:
        # The same client, job and attempt under ten different awards.
        signed = award(1)
        signed = signing.sign(replace(signed.statement, seed=number), DOMAIN, KEY)
        try:
            await stores.worker.begin_segment(
                digest=digest_of(signed), award=signed, terms=terms(), at_ms=0
            )
            begun.append(number)
        except Duplicate:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(attempt, number)
    assert (len(begun), len(refused)) == (1, 9)
    assert len(await stores.worker.segments(count_max=99)) == 1


async def test_a_segment_keeps_its_statements(stores: Stores) -> None:
    digest = await begin(stores, 1, at_ms=77)
    acceptance = signing.sign(Acceptance(award=digest, accepted_ms=5), DOMAIN, KEY)
    await stores.worker.save_acceptance(acceptance)
    await progress(stores, digest, 30)
    cutoff = signing.sign(
        Cutoff(award=digest, position=3, chain=ZERO_HASH, reason=CutoffReason.CANCELLED),
        DOMAIN,
        KEY,
    )
    await stores.worker.save_cutoff(cutoff)
    signed, receipt_digest = receipt(digest)
    await stores.worker.save_receipt(signed, digest=receipt_digest)
    await stores.worker.save_receipt(signed, digest=receipt_digest)  # the same is no harm
    row = await stores.worker.segment(digest)
    assert row is not None
    assert (row.begun_ms, row.award, row.terms) == (77, award(1), terms())
    assert (row.acceptance, row.receipt, row.cutoff) == (acceptance, signed, cutoff)
    assert row.progress is not None
    assert row.progress.statement.amount == 30
    assert (row.earned_micro, row.paid_micro) == (50, 0)
    assert await stores.worker.segment(b"?" * 32) is None


async def test_a_segment_has_one_receipt(stores: Stores) -> None:
    digest = await begin(stores, 1)
    await stores.worker.save_receipt(receipt(digest)[0], digest=receipt(digest)[1])
    other, other_digest = receipt(digest, amount=51)
    with pytest.raises(Duplicate):
        await stores.worker.save_receipt(other, digest=other_digest)


async def test_a_statement_needs_its_segment(stores: Stores) -> None:
    with pytest.raises(CorruptState):
        await progress(stores, b"?" * 32, 5)


async def test_a_voucher_pays_its_segments_in_the_same_write(stores: Stores) -> None:
    digest = await begin(stores, 1)
    await stores.payee.save_tab(payee_row(0))
    await stores.payee.save_voucher(
        payee_row(40), segments=[paid(1, digest, 40)], advances={(PAYER, job(9), 0): 7}
    )
    rows = await stores.payee.load()
    assert rows.tabs == (payee_row(40),)
    assert rows.advances == {(PAYER, job(9), 0): 7}
    found = await stores.worker.segment(digest)
    assert found is not None
    assert found.paid_micro == 40


async def test_a_voucher_that_overtakes_its_segment_on_the_way_to_the_disk_is_paid_there(
    stores: Stores,
) -> None:
    # Admitted in memory, where the voucher was credited at once; the award's row comes second.
    digest = digest_of(award(1))
    await stores.payee.save_tab(payee_row(0))
    await stores.payee.save_voucher(payee_row(40), segments=[paid(1, digest, 40)], advances={})
    assert await begin(stores, 1) == digest
    row = await stores.worker.segment(digest)
    assert row is not None
    assert row.paid_micro == 40
    assert (await stores.payee.load()).advances == {}


async def test_an_advance_waits_for_its_segment(stores: Stores) -> None:
    await stores.payee.save_voucher(
        payee_row(40), segments=[], advances={(PAYER, job(1), 0): 40, (PAYER, job(2), 0): 900}
    )
    for number, expected in ((1, 40), (2, 100)):  # never beyond the award's cap
        row = await stores.worker.segment(await begin(stores, number))
        assert row is not None
        assert row.paid_micro == expected
    assert (await stores.payee.load()).advances == {}


async def test_a_tab_never_goes_back(stores: Stores) -> None:
    await stores.payee.save_tab(payee_row(40, best=60))
    await stores.payee.save_tab(payee_row(30, best=60))
    await stores.payee.save_tab(payee_row(50, best=50))
    (row,) = (await stores.payee.load()).tabs
    assert (row.tab.cumulative_micro, row.tab.best_micro) == (40, 60)
    assert row.best is not None
    assert row.best.statement.cumulative == 60


async def test_only_unsettled_segments_come_back(stores: Stores) -> None:
    unpaid = await begin(stores, 1, at_ms=1)
    await progress(stores, unpaid, 30)
    uncommitted = await begin(stores, 2, at_ms=2)
    settled = await begin(stores, 3, at_ms=3)
    for digest in (uncommitted, settled):
        signed, receipt_digest = receipt(digest)
        await stores.worker.save_receipt(signed, digest=receipt_digest)
    await begin(stores, 4, at_ms=4)  # earned nothing
    segments = [paid(2, uncommitted, 50), paid(3, settled, 50, taken=True)]
    await stores.payee.save_voucher(payee_row(100), segments=segments, advances={})
    rows = await stores.payee.load()
    assert [each.award for each in rows.segments] == [unpaid, uncommitted]
    assert [each.earned_micro for each in rows.segments] == [30, 50]


async def test_segments_are_found_by_reference_or_receipt(stores: Stores) -> None:
    one, two = await begin(stores, 1), await begin(stores, 2)
    signed, receipt_digest = receipt(two)
    await stores.worker.save_receipt(signed, digest=receipt_digest)
    find = stores.payee.find_segments
    assert [s.award for s in await find(client=PAYER, refs=[(job(1), 0)], receipts=[])] == [one]
    both = await find(client=PAYER, refs=[(job(2), 0)], receipts=[receipt_digest])
    assert [s.award for s in both] == [two]
    assert await find(client=PAYEE, refs=[(job(1), 0)], receipts=[receipt_digest]) == ()


async def test_redeeming_settles_what_is_owed(stores: Stores) -> None:
    await stores.payee.save_tab(payee_row(40))
    for micro, owed_since in ((10, 5), (40, 0), (20, 0)):
        await stores.payee.save_redeemed({TAB_ID: micro})
        (row,) = (await stores.payee.load()).tabs
        assert row.owed_since_ms == owed_since
    assert row.tab.redeemed_micro == 40


async def test_the_highest_lock_waits_to_be_submitted(stores: Stores) -> None:
    locks = [
        signing.sign(Lock(payer=PAYER, payee=PAYEE, total=5, nonce=n, expiry=9), DOMAIN, KEY)
        for n in (2, 3, 1)
    ]
    for lock in locks:
        await stores.payee.save_lock(lock)
    assert (await stores.payee.load()).locks == (locks[1],)
    await stores.payee.drop_lock(payer=PAYER, nonce=2)
    assert (await stores.payee.load()).locks == (locks[1],)
    await stores.payee.drop_lock(payer=PAYER, nonce=3)
    assert (await stores.payee.load()).locks == ()


async def test_serials_are_never_given_twice(stores: Stores) -> None:
    assert await stores.worker.next_serials(10) == 1
    assert await stores.worker.next_serials(1) == 11
    assert await stores.worker.next_serials(5) == 12
    assert await stores.worker.next_serials(5, at_least=100) == 100
    assert await stores.worker.next_serials(5, at_least=100) == 105


async def test_lists_and_totals(stores: Stores) -> None:
    digests = [await begin(stores, number, at_ms=number) for number in range(5)]
    await progress(stores, digests[0], 30)
    await stores.payee.save_tab(payee_row(25))
    await stores.payee.save_redeemed({TAB_ID: 20})
    newest = await stores.worker.segments(count_max=2)
    assert [row.begun_ms for row in newest] == [4, 3]
    older = await stores.worker.segments(count_max=9, before_ms=3)
    assert [row.begun_ms for row in older] == [2, 1, 0]
    totals = await stores.worker.totals()
    assert (totals.segments, totals.tokens_out, totals.earned_micro) == (1, 30, 30)
    assert (totals.vouchered_micro, totals.redeemed_micro) == (25, 20)
