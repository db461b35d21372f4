"""What a payer can rely on: nothing is forgotten, nothing is there twice."""

from dataclasses import replace
from functools import partial

import pytest
import trio

from node.errors import NodeError
from node.protocol import signing
from node.protocol.payer_state import SignedLock
from node.protocol.receipts_tree import root, verify_inclusion
from node.protocol.statements import Lock, LockRelease
from node.roles.stores import Duplicate, Stores
from tests.adapters.store.samples import (
    KEY,
    PAYEE,
    PAYER,
    PAYER_TAB,
    TAB_ID,
    draft,
    job,
    reservation,
)
from tests.roles.fakes import DOMAIN


async def test_an_empty_home_has_nothing(stores: Stores) -> None:
    rows = await stores.payer.load()
    assert (rows.tabs, rows.reservations, rows.locks, rows.halted) == ((), (), (), "")


async def test_a_reservation_is_there_once(stores: Stores) -> None:
    await stores.payer.reserve(reservation(1), PAYER_TAB)
    with pytest.raises(Duplicate):
        await stores.payer.reserve(reservation(1), PAYER_TAB)
    rows = await stores.payer.load()
    assert rows.tabs == (PAYER_TAB,)
    assert rows.reservations == (reservation(1),)


async def test_vouchers_change_everything_at_once(stores: Stores) -> None:
    await stores.payer.reserve(reservation(1), PAYER_TAB)
    receipt = b"r" * 32
    made, frame = draft(PAYER_TAB, 1, 40, receipt=receipt)
    await stores.payer.save_vouchers([(made, frame)])
    rows = await stores.payer.load()
    assert rows.tabs == (made.tab,)
    assert rows.vouchers == {TAB_ID: frame.voucher}
    assert rows.reservations == made.reservations
    found = await stores.payer.receipt_proof((job(1), 0))
    assert found is not None
    assert found.voucher == frame.voucher
    assert verify_inclusion(receipt, found.proof, root(made.tab.tree))
    assert await stores.payer.receipt_proof((job(2), 0)) is None


async def test_resent_vouchers_are_the_same_bytes(stores: Stores) -> None:
    await stores.payer.reserve(reservation(1), PAYER_TAB)
    first, frame_1 = draft(PAYER_TAB, 1, 40)
    second, frame_2 = draft(first.tab, 1, 2)
    await stores.payer.save_vouchers([(first, frame_1)])
    await stores.payer.save_vouchers([(second, frame_2)])
    after = partial(stores.payer.vouchers_after, TAB_ID)
    assert await after(cumulative_micro=0, count_max=9) == (frame_1, frame_2)
    assert await after(cumulative_micro=0, count_max=1) == (frame_1,)
    assert await after(cumulative_micro=40, count_max=9) == (frame_2,)
    await stores.payer.save_redeemed({TAB_ID: 42}, ())
    assert await after(cumulative_micro=0, count_max=9) == (frame_1, frame_2)
    await stores.payer.forget_vouchers(TAB_ID, cumulative_micro=40)
    assert await after(cumulative_micro=0, count_max=9) == (frame_2,)


async def test_no_second_voucher_for_one_cumulative(stores: Stores) -> None:
    await stores.payer.reserve(reservation(1), PAYER_TAB)
    await stores.payer.reserve(reservation(2), PAYER_TAB)
    await stores.payer.save_vouchers([draft(PAYER_TAB, 1, 40)])
    for again in (draft(PAYER_TAB, 2, 40), draft(PAYER_TAB, 2, 50), draft(PAYER_TAB, 2, 30)):
        with pytest.raises(Duplicate):
            await stores.payer.save_vouchers([again])
    rows = await stores.payer.load()
    assert [tab.cumulative_micro for tab in rows.tabs] == [40]
    assert {each.job: each.paid_micro for each in rows.reservations} == {job(1): 40, job(2): 0}


async def test_of_ten_that_save_the_same_voucher_one_wins(stores: Stores) -> None:
    await stores.payer.reserve(reservation(1), PAYER_TAB)
    won: list[int] = []

    async def attempt(number: int) -> None:
        try:
            await stores.payer.save_vouchers([draft(PAYER_TAB, 1, number)])
            won.append(number)
        except Duplicate:
            pass

    async with trio.open_nursery() as nursery:
        for number in range(1, 11):
            nursery.start_soon(attempt, number)
    assert len(won) == 1
    rows = await stores.payer.load()
    assert [tab.cumulative_micro for tab in rows.tabs] == won


async def test_locks_and_their_nonces_outlive_them(stores: Stores) -> None:
    for nonce in (1, 2):
        lock = Lock(payer=PAYER, payee=PAYEE, total=5, nonce=nonce, expiry=9)
        await stores.payer.save_lock(signing.sign(lock, DOMAIN, KEY))
    with pytest.raises(Duplicate):
        await stores.payer.save_lock(signing.sign(lock, DOMAIN, KEY))
    ended = SignedLock(payee=PAYEE, total_micro=5, nonce=2, expiry_s=9)
    await stores.payer.save_redeemed({}, [ended])
    rows = await stores.payer.load()
    assert [lock.statement.nonce for lock in rows.locks] == [1]
    assert rows.lock_nonces == {PAYEE: 2}


async def test_the_newest_release_counts(stores: Stores) -> None:
    for nonce, total in ((1, 5), (3, 2), (2, 4)):
        release = LockRelease(payer=PAYER, payee=PAYEE, total=total, nonce=nonce)
        await stores.payer.save_release(signing.sign(release, DOMAIN, KEY))
    assert [each.statement.nonce for each in await stores.payer.releases()] == [3]


async def test_a_closed_reservation_is_loaded_while_a_voucher_owes_it_something(
    stores: Stores,
) -> None:
    one = reservation(1)
    await stores.payer.reserve(one, PAYER_TAB)
    for changed, open_after in (
        ({"closed": True, "due_micro": 5, "accepted_micro": 5}, True),
        ({"closed": True, "due_micro": 5, "paid_micro": 5, "receipt_due": True}, True),
        ({"closed": True, "due_micro": 5, "paid_micro": 5, "receipt_due": False}, False),
    ):
        await stores.payer.save_reservation(replace(one, **changed), PAYER_TAB)  # type: ignore[arg-type]
        assert bool((await stores.payer.load()).reservations) is open_after


async def test_the_first_reason_to_stop_is_kept(stores: Stores) -> None:
    await stores.payer.save_halt("restored from an old copy")
    await stores.payer.save_halt("something later")
    assert (await stores.payer.load()).halted == "restored from an old copy"


async def test_a_refused_write_undoes_nothing_of_its_neighbours(stores: Stores) -> None:
    """Writes asked for in one loop turn share a commit, each in a savepoint of its own."""
    await stores.payer.reserve(reservation(0), PAYER_TAB)
    refused: list[int] = []

    async def reserve(number: int) -> None:
        try:
            await stores.payer.reserve(reservation(number // 2), PAYER_TAB)
        except NodeError:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(reserve, number)
    rows = await stores.payer.load()
    assert {each.job for each in rows.reservations} == {job(number) for number in range(20)}
    assert len(refused) == 21
