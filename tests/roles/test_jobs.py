"""Whole jobs in memory: real roles and stores, a fake network, a scripted engine."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from devnet.misbehave import KINDS
from node.protocol.fields import Signed
from node.protocol.frames import AwardFrame
from node.protocol.statements import Acceptance, CutoffReason, Finish, Voucher
from node.protocol.transcript_verify import verify
from node.roles.client import Outcome
from node.roles.generation import EngineLoad
from node.roles.stores import Duplicate, JobState
from node.roles.worker import AWARDS
from tests.roles.job_world import ScriptedEngine, Watch, answer, bought, order, world
from tests.roles.rogues import terms_of


@pytest.fixture
def clock() -> MockClock:
    """Waits cost nothing; the store's thread has time to answer."""
    return MockClock(autojump_threshold=0.002)


class Wide(ScriptedEngine):
    """Many slots, and a token a second: slower would be a stall."""

    def __init__(self) -> None:
        super().__init__(length=2000, step_s=0.9)
        self._sold = replace(self._sold, slots=512)

    def load(self) -> EngineLoad:
        return replace(super().load(), slots=512)


async def test_an_honest_job_leaves_a_transcript_that_verifies() -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy()
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert reply.ids[-1] == 0
        assert len(reply.ids) == 41
        job = outcome.attempt.job
        assert job.complete is Finish.STOP
        assert job.accepted_micro == 10 + 41 * 5
        report = verify(outcome.transcript, outcome.disclosure)
        assert report.passed, [check for check in report.checks if not check.passed]
        await w.payer.flush()
        with trio.fail_after(5):
            assert await w.payees[0].wait_paid_above(job.digest, 214) == 215
        assert w.engines[0].active == 0


async def test_many_jobs_side_by_side_share_vouchers_and_add_up() -> None:
    async with world() as w:
        await w.sell(1, jobs_per_client_max=64)
        client = await w.buy()
        outcomes: list[Outcome] = []

        async def one(number: int) -> None:
            outcome, _ = await bought(client, output_max=5 + number)
            outcomes.append(outcome)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert [outcome.failure for outcome in outcomes] == [""] * 12
        total = sum(outcome.attempt.job.accepted_micro for outcome in outcomes)
        await w.payer.flush()
        with trio.fail_after(5):
            for job in (outcome.attempt.job for outcome in outcomes):
                await w.payees[0].wait_paid_above(job.digest, job.accepted_micro - 1)
        [due] = w.payees[0].vouchers_to_redeem()
        assert (
            due.voucher.statement.cumulative
            == total
            == sum(10 + 5 * (5 + number) for number in range(12))
        )
        assert all(verify(o.transcript, o.disclosure).passed for o in outcomes)


async def test_a_worker_holds_its_third_of_a_thousand_streams(clock: MockClock) -> None:
    count = 340
    async with world() as w:
        await w.sell(1, engine=Wide(), jobs_per_client_max=512, credit_micro=10**9)
        client, watch = await w.buy(), Watch()
        ended: list[str] = []

        async def one() -> None:
            asked = order(output_max=90)
            outcome = await client.run(asked, answer(asked, []), watch)
            ended.append(outcome.failure)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
                await trio.sleep(1 / 25)  # a worker takes awards of one client at a bounded rate
            await trio.sleep(2)
            assert (w.workers[0].active, w.engines[0].active) == (count, count)
            assert not watch.refusals
            await client.cancel(CutoffReason.CANCELLED, "enough")
        assert ended == [""] * count
        assert w.engines[0].active == 0


async def test_awards_that_are_paid_for_are_not_rationed(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        client, watch = await w.buy(), Watch()

        async def one() -> None:
            outcome, _ = await bought(client, output_max=1, watch=watch)
            assert outcome.failure == ""

        began_s = trio.current_time()
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(one)
        assert not watch.refusals
        rationed = AWARDS.burst + AWARDS.per_s * (trio.current_time() - began_s)
        assert rationed < 20 * 16


async def test_a_small_quantum_is_paid_in_steps() -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=40)
        client = await w.buy()
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert len(reply.ids) == 41


CHEATS = {
    "overbill": "output tokens, delivered",
    "reprice": "where the terms come to",
    "after-end": "output after the end",
    "old-job": "another award",
    "silent": "no token for",
}


@pytest.mark.parametrize("cheat", sorted(KINDS))
async def test_a_cheat_is_cut_off_and_gets_no_more_than_it_delivered(cheat: str) -> None:
    async with world() as w:
        await w.sell(1, cheat=cheat, quantum_micro=60)
        client = await w.buy(silence_s=0.5)
        outcome, reply = await bought(client)
        assert CHEATS[cheat] in outcome.failure
        job = outcome.attempt.job
        assert job.accepted_micro <= 10 + 5 * len(reply.ids)
        assert job.cut is not None
        report = verify(outcome.transcript, outcome.disclosure)
        assert report.passed, [check for check in report.checks if not check.passed]
        await w.payer.flush()
        assert w.payer.promised_micro == job.accepted_micro


async def test_a_cancelled_job_stops_the_engine_and_pays_for_what_came() -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.01
        client = await w.buy()

        async def cancel_soon() -> None:
            await w.engines[0].tenth.wait()
            await client.cancel(CutoffReason.CANCELLED, "cancelled")

        w.nursery.start_soon(cancel_soon)
        outcome, reply = await bought(client, ignore_eos=True, output_max=1000)
        assert outcome.failure == ""
        assert 0 < len(reply.ids) < 100
        assert w.engines[0].active == 0
        assert outcome.attempt.evidence.receipt is not None
        assert outcome.attempt.evidence.receipt.statement.finish == Finish.CUTOFF
        assert verify(outcome.transcript, outcome.disclosure).passed


async def test_a_lost_worker_ends_the_job_with_its_reason_and_keeps_the_answer() -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.01
        client = await w.buy()

        async def cut_soon() -> None:
            await w.engines[0].tenth.wait()
            for session in w.client_transport.sessions().values():
                session.cut("the peer is gone")

        w.nursery.start_soon(cut_soon)
        outcome, reply = await bought(client, ignore_eos=True, output_max=1000)
        assert outcome.failure.startswith("the peer is gone; nobody went on")
        assert reply.ids
        assert outcome.attempt.job.accepted_micro == 10 + 5 * len(reply.ids)
        assert verify(outcome.transcript, outcome.disclosure).passed
        with trio.fail_after(5):
            await w.engines[0].idle.wait()


async def test_an_engine_that_breaks_is_paid_for_what_it_made() -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].fails_after = 5
        client = await w.buy()
        outcome, reply = await bought(client)
        assert "engine failed" in outcome.failure
        assert len(reply.ids) == 4
        assert outcome.attempt.job.accepted_micro == 10 + 20
        assert verify(outcome.transcript, outcome.disclosure).passed


async def test_the_engine_works_while_the_acceptance_is_saved_and_nothing_leaves_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy()
        the_order = order()
        reply = answer(the_order, [])
        store, early = w.stores[0].worker, []
        save = store.save_acceptance

        async def save_late(acceptance: Signed[Acceptance]) -> None:
            await w.engines[0].tenth.wait()
            early.append(len(reply.ids))
            await save(acceptance)

        monkeypatch.setattr(store, "save_acceptance", save_late)
        with trio.fail_after(60):
            outcome = await client.run(the_order, reply, Watch())
        assert early == [0]
        assert outcome.failure == ""
        assert outcome.attempt.evidence.acceptance is not None


async def test_output_is_shown_while_the_acceptance_is_saved_and_nothing_is_paid_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=40)
        client = await w.buy()
        the_order, shown, kept = order(), trio.Event(), []
        reply = answer(the_order, [])
        monkeypatch.setattr(reply, "_on_text", lambda _: shown.set())
        store = w.stores[1].client
        save, pay = store.save_acceptance, w.payer.pay

        async def save_late(acceptance: Signed[Acceptance]) -> None:
            await shown.wait()
            await trio.sleep(0.05)  # in which it would be paid, if it were not waited for
            await save(acceptance)
            kept.append(acceptance)

        async def pay_watched(**what: Any) -> Signed[Voucher] | None:
            assert kept
            return await pay(**what)

        monkeypatch.setattr(store, "save_acceptance", save_late)
        monkeypatch.setattr(w.payer, "pay", pay_watched)
        with trio.fail_after(60):
            outcome = await client.run(the_order, reply, Watch())
        assert outcome.failure == ""
        assert len(reply.ids) == 41
        assert kept == [outcome.attempt.evidence.acceptance]


async def test_a_job_id_is_not_bought_under_twice() -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy()
        the_order, job = order(), bytes(15) + b"\7"
        await client.run(the_order, answer(the_order, []), Watch(), job=job)
        [session] = w.client_transport.sessions().values()
        awards = sum(isinstance(frame, AwardFrame) for frame in session.sent)
        with pytest.raises(Duplicate):
            await client.run(the_order, answer(the_order, []), Watch(), job=job)
        assert sum(isinstance(frame, AwardFrame) for frame in session.sent) == awards
        row = await w.stores[-1].client.job(job)
        assert row is not None
        assert row.state is JobState.DONE
        assert not w.payer.reservations


async def test_a_job_that_is_under_way_is_not_begun_again(clock: MockClock) -> None:
    """What it had set aside would be let go with the second one."""
    async with world() as w:
        await w.sell(1, engine=Wide())
        client = await w.buy()
        the_order, job = order(), bytes(15) + b"\7"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(client.run, the_order, answer(the_order, []), Watch(), job=job)
            )
            await trio.sleep(2)
            before = w.payer.reservations
            assert before
            with pytest.raises(Duplicate):
                await client.run(the_order, answer(the_order, []), Watch(), job=job)
            assert w.payer.reservations == before
        assert not w.payer.reservations


async def test_what_could_not_be_saved_beside_a_reservation_frees_it(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy()
        await bought(client)
        [session] = w.client_transport.sessions().values()
        terms = terms_of(w.transports[0])

        async def fails() -> None:
            raise Duplicate("it is there")

        available = w.payer.available_micro
        with pytest.raises(Duplicate):
            await w.payer.reserve(
                job=bytes(16),
                attempt=0,
                worker=session.peer,
                terms=terms,
                cap_micro=100,
                beside=(fails,),
            )
        assert w.payer.available_micro == available
        assert not w.payer.reservations
