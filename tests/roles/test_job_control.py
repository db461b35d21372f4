"""Jobs that are cancelled, need a lock, outlive their process, or meet a broken disk."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from node.adapters.store import open_stores
from node.errors import NoPeers, UsageError
from node.protocol.frames import Refused, VoucherFrame
from node.protocol.scoring import Preferences
from node.protocol.statements import CutoffReason
from node.protocol.transcript_verify import verify
from node.roles.client import Client, Outcome
from node.roles.job_run import Abandoned
from node.roles.market import Candidate
from node.roles.stores import StoreFailed, Stores
from tests.roles.fakes import DOMAIN
from tests.roles.job_world import PLAIN, Watch, answer, bought, order, world
from tests.roles.rogues import RogueSale, rogue_worker


@pytest.fixture
def clock() -> MockClock:
    """Waits cost nothing; the store's thread has time to answer."""
    return MockClock(autojump_threshold=0.05)


async def cancel_after(client: Client, delay_s: float) -> None:
    await trio.sleep(delay_s)
    await client.cancel(CutoffReason.CANCELLED, "cancelled")


async def test_a_cancel_ends_the_search_at_once(clock: MockClock) -> None:
    async with world() as w:
        client = await w.buy()
        w.nursery.start_soon(cancel_after, client, 1.0)
        began_s = trio.current_time()
        with pytest.raises(Abandoned, match="cancelled"):
            await bought(client)
        assert trio.current_time() - began_s < 1.5


@pytest.mark.parametrize(
    "changes",
    [
        {"stop": ("x" * 257,)},
        {"stop": ("x",) * 17},
        {"sampling": replace(PLAIN, top_k=2**32)},
        {"sampling": replace(PLAIN, temperature=10**9)},
        {"prompt": (1,) * 600_000},
    ],
)
async def test_what_no_worker_can_be_asked_for_is_asked_of_nobody(
    clock: MockClock, changes: dict[str, Any]
) -> None:
    async with world() as w:
        await w.sell(1)
        watch = Watch()
        with pytest.raises(UsageError):
            await bought(await w.buy(), watch=watch, **changes)
        assert not watch.awards


async def test_one_job_is_cancelled_and_its_neighbour_goes_on(clock: MockClock) -> None:
    ids = (b"one of two jobs.", b"the other of it.")
    ended: dict[bytes, Outcome] = {}

    async def buy(client: Client, job: bytes) -> None:
        the_order = order(output_max=40)
        ended[job] = await client.run(the_order, answer(the_order, []), Watch(), job=job)

    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.1
        client = await w.buy()
        async with trio.open_nursery() as nursery:
            for job in ids:
                nursery.start_soon(buy, client, job)
            await trio.sleep(3.0)
            await client.cancel(CutoffReason.CANCELLED, "the user left", job=ids[0])
        jobs = [ended[job].attempt.job for job in ids]
        assert [ended[job].job for job in ids] == list(ids)
        assert [job.cut is None for job in jobs] == [False, True]
        assert jobs[0].tokens_out < 40
        assert jobs[1].tokens_out == 40
        assert w.payer.promised_micro == sum(job.accepted_micro for job in jobs)


class CancelsAtTheAward(Watch):
    """The user presses Ctrl-C while the award is being prepared."""

    def __init__(self, client: Client, nursery: trio.Nursery) -> None:
        super().__init__()
        self._client, self._nursery = client, nursery

    def awarded(self, candidate: Candidate, record: object) -> None:
        self._nursery.start_soon(cancel_after, self._client, 0.0)


async def test_a_cancel_while_the_award_is_prepared_keeps_it_here(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy()
        with pytest.raises(Abandoned):
            await bought(client, watch=CancelsAtTheAward(client, w.nursery))
        assert w.engines[0].made == 0
        assert not w.payer.reservations


async def test_a_cancel_before_the_acceptance_waits_for_nobody(clock: MockClock) -> None:
    async def deaf(sale: RogueSale) -> None:
        await trio.sleep_forever()

    async with world() as w:
        await rogue_worker(w, deaf)
        client = await w.buy()
        began_s = trio.current_time()
        w.nursery.start_soon(cancel_after, client, 2.0)
        outcome, _ = await bought(client)
        assert trio.current_time() - began_s < 3.0
        assert outcome.failure == ""
        assert outcome.attempt.job.cut is not None
        assert outcome.attempt.job.cut.reason == CutoffReason.CANCELLED
        assert verify(outcome.transcript, outcome.disclosure).passed


@pytest.mark.parametrize("tenths", range(0, 30, 3))
async def test_a_cancel_at_any_moment_leaves_the_books_right(clock: MockClock, tenths: int) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=30)
        w.engines[0].step_s = 0.1
        client = await w.buy()
        w.nursery.start_soon(cancel_after, client, tenths / 10)
        w.nursery.start_soon(cancel_after, client, tenths / 10)
        try:
            outcome, reply = await bought(client)
        except Abandoned:
            assert not w.payer.reservations
            return
        job = outcome.attempt.job
        due_micro = 10 + 5 * len(reply.ids) if reply.ids else 0
        assert job.accepted_micro == due_micro
        assert w.payer.promised_micro == due_micro
        report = verify(outcome.transcript, outcome.disclosure)
        assert report.passed, [each for each in report.checks if not each.passed]


async def test_what_a_process_that_died_had_set_aside_is_free_again(clock: MockClock) -> None:
    async def slow(sale: RogueSale) -> None:
        await sale.accept()
        await sale.deliver((2, 3))
        await trio.sleep_forever()

    async with world() as w:
        await rogue_worker(w, slow)
        client = await w.buy(silence_s=10**6)
        w.nursery.start_soon(bought_forever, client)
        await trio.sleep(5)
        assert w.payer.promised_micro
        await w.buy(stores=w.stores[-1])  # the next process, while the first is as good as dead
        assert not w.payer.reservations
        assert w.payer.promised_micro == 0


async def bought_forever(client: Client) -> None:
    with trio.move_on_after(3600):
        await bought(client)


# ----------------------------------------------------------------------------------------- locks


async def test_a_worker_that_gives_no_credit_is_given_a_lock_and_serves(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, credit_micro=0)
        await w.redeem()
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch)
        assert [each.code for each in watch.refusals] == [Refused.LOCK_REQUIRED]
        assert len(watch.locks) == 1
        assert outcome.failure == ""
        assert len(reply.ids) == 41
        # The lock is there: the next job needs no other, as long as it covers both.
        again, _ = await bought(client, watch=watch, output_max=10)
        assert again.failure == ""


async def test_whoever_gives_credit_comes_before_a_lock(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, credit_micro=0, price_out=1_000_000)
        await w.sell(2)
        client, watch = await w.buy(), Watch()
        cheapest = Preferences(price_micro_max=10**6, sort="price")
        outcome, _ = await bought(client, watch=watch, preferences=cheapest)
        assert watch.refusals
        assert outcome.failure == ""
        assert not watch.locks
        assert w.payer.promised_micro == outcome.attempt.job.accepted_micro


async def test_where_nobody_gives_credit_one_is_given_a_lock(clock: MockClock) -> None:
    async with world() as w:
        for number in (1, 2, 3):
            await w.sell(number, credit_micro=0)
            await w.redeem(number - 1)
        client, watch = await w.buy(), Watch()
        outcome, _ = await bought(client, watch=watch)
        assert outcome.failure == ""
        assert len(watch.locks) == 1


async def test_a_lock_that_never_lands_is_not_waited_for_for_ever(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, credit_micro=0)
        client = await w.buy()
        wanted = Preferences(price_micro_max=10**6, worker=w.transports[0].address)
        with pytest.raises(NoPeers, match="LOCK_REQUIRED"):
            await bought(client, preferences=wanted)
        assert trio.current_time() < 120


async def test_a_cancel_ends_the_wait_for_a_lock(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, credit_micro=0)
        client = await w.buy()
        w.nursery.start_soon(cancel_after, client, 10.0)
        with pytest.raises(Abandoned):
            await bought(client)
        assert trio.current_time() < 15


# ------------------------------------------------------------------------------------------ disk


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


async def break_disk(stores: Stores) -> None:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")

    await stores.client._writer.read(work)  # type: ignore[attr-defined]


@pytest.mark.parametrize("whose", [0, 1])
async def test_a_disk_that_breaks_ends_the_node_with_that_error_and_nothing_unsaved_sent(
    clock: MockClock, whose: int, tmp_path: Path
) -> None:
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with world(tmp_path) as w:
            await w.sell(1, quantum_micro=60)
            w.engines[0].step_s = 0.1
            client = await w.buy()
            w.nursery.start_soon(bought_forever, client)
            await w.engines[0].tenth.wait()
            [session] = w.client_transport.sessions().values()
            await break_disk(w.stores[whose])
            await trio.sleep(3600)
    assert {type(each) for each in leaves(caught.value)} == {StoreFailed}
    sent = [f.voucher.statement.cumulative for f in session.sent if isinstance(f, VoucherFrame)]
    async with open_stores(tmp_path / "1.sqlite", domain=DOMAIN) as stores:
        [tab] = (await stores.payer.load()).tabs
    assert max(sent) <= tab.cumulative_micro
