"""Clients that cheat, stall, flood or break rules, against a real worker."""

import gc
import weakref
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.errors import SessionLost
from node.protocol.fields import Address
from node.protocol.frames import (
    AcceptanceFrame,
    Chunk,
    End,
    ErrorFrame,
    ReceiptFrame,
    Refusal,
    Refused,
)
from node.protocol.job_worker import WorkerJob
from node.protocol.logprobs import TokenLogprob
from node.protocol.statements import Finish
from node.roles import worker as worker_module
from node.roles.segment import Segment
from tests.roles.job_world import PLAIN, World, bought, world
from tests.roles.rogues import RogueClient, request_body


@pytest.fixture
def clock() -> MockClock:
    """Waits cost nothing; the store's thread has time to answer."""
    return MockClock(autojump_threshold=0.05)


async def serves_others(w: World) -> None:
    """The worker is alive, holds no slot, and sells to the next client."""
    with trio.fail_after(60):
        await w.workers[0].wait_idle()
    assert w.engines[0].active == 0
    w.engines[0].step_s = 0.0
    outcome, _ = await bought(await w.buy())
    assert outcome.failure == ""


@pytest.mark.parametrize("named", [b"\x99" * 32, None])
async def test_a_cutoff_for_another_award_costs_its_sender_the_session(
    clock: MockClock, named: bytes | None
) -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.05
        victim = await RogueClient.join(w, number=65)
        theirs = await victim.begin()
        rogue = await RogueClient.join(w)
        job = await rogue.begin()
        await job.until(Chunk)
        await job.cut(0, award=named or theirs.digest)
        with trio.fail_after(10):
            assert "cutoff" in await rogue.session.wait_lost()
        row = await w.stores[0].worker.segment(theirs.digest)
        assert row is not None
        assert row.cutoff is None
        victim.session.cut()
        await serves_others(w)


@pytest.mark.parametrize(
    ("format", "says"),
    [
        ('{"type":"object"}', "the terms do not offer"),
        ('{"type":"string"}', "the terms do not offer"),
        ('{"not":{}}', "not is not supported"),
        ("[" * 30_000, "not JSON"),
        ('{"multipleOf":99991}', "a whole number"),
    ],
)
async def test_a_format_that_was_not_offered_costs_its_sender_the_session(
    clock: MockClock, format: str, says: str
) -> None:
    async with world() as w:
        await w.sell(1)
        rogue = await RogueClient.join(w)
        job = await rogue.open(request=request_body(format=format, ignore_eos=False))
        await job.send_request()
        with trio.fail_after(10):
            assert says in await rogue.session.wait_lost()
        await serves_others(w)


async def test_a_second_cutoff_costs_its_sender_the_session(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.05
        rogue = await RogueClient.join(w)
        job = await rogue.begin()
        await job.until(Chunk)
        await job.cut(1)
        await job.cut(1)
        with trio.fail_after(10):
            assert "second cutoff" in await rogue.session.wait_lost()
        await serves_others(w)


async def test_an_answer_that_is_not_paid_frees_its_slot_even_if_the_engine_is_done(
    clock: MockClock,
) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=60)
        rogue = await RogueClient.join(w)
        job = await rogue.begin(output_max=11)
        end = await job.until(End)
        assert end.finish == Finish.UNPAID
        receipt = await job.until(ReceiptFrame)
        assert receipt.receipt.statement.amount <= 60
        await serves_others(w)


async def test_micro_payments_do_not_hold_a_slot(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=100)
        rogue = await RogueClient.join(w)
        job = await rogue.begin()
        began_s = trio.current_time()

        async def drip() -> None:
            for paid in range(1, 1000):
                frame = rogue.voucher(job.award, cumulative=paid, rise=1)
                await rogue.session.send(frame)
                await trio.sleep(3)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            end = await job.until(End)
            nursery.cancel_scope.cancel()
        assert end.finish == Finish.UNPAID
        assert trio.current_time() - began_s < 15
        await serves_others(w)


async def test_log_probabilities_of_many_tokens_at_once_fit_their_frames(
    clock: MockClock,
) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=10**6)
        w.engines[0].told = TokenLogprob(chosen=-0.5, top=((7, -0.5),) * 20)
        w.engines[0].burst = 500
        rogue = await RogueClient.join(w)
        body = request_body(sampling=replace(PLAIN, logprobs=21))
        job = await rogue.begin(request=body, output_max=1000)
        await job.until(End)
        assert len(job.ids) == 1000
        rogue.session.cut()
        await serves_others(w)


@pytest.mark.parametrize("cuts", [1, 2])
async def test_answers_cannot_be_had_for_nothing_by_disowning_them(
    clock: MockClock, cuts: int
) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=400)
        w.engines[0].step_s = 0.01
        rogue = await RogueClient.join(w)
        had = 0
        for _ in range(20):
            job = await rogue.open()
            await job.send_request()
            answer = await job.channel.receive()
            if isinstance(answer, Refusal):
                break
            while len(job.ids) < 50:
                await job.until(Chunk)
            for _ in range(cuts):
                await job.cut(0)
            had += 10 + 5 * len(job.ids)
            if cuts > 1:  # a broken rule ends the session: it comes back
                await rogue.session.wait_lost()
                rogue = await RogueClient.join(w)
                rogue.jobs = had
            else:
                await job.until(ReceiptFrame)
        else:
            pytest.fail("served for ever")
        assert answer.code == Refused.UNPAID
        assert had <= 2 * 400 + 100
        rogue.session.cut()
        await serves_others(w)


async def test_an_honest_cut_now_and_then_is_forgiven(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, quantum_micro=100)
        w.engines[0].step_s = 0.01
        rogue = await RogueClient.join(w)
        for _ in range(10):
            job = await rogue.begin()
            await job.until(Chunk)
            await job.until(Chunk)
            await job.cut(len(job.ids) - 1)  # one token was on its way
            await job.until(ReceiptFrame)
        await w.workers[0].wait_idle()


async def test_a_client_has_only_so_many_jobs_and_those_refused_leave_nothing(
    clock: MockClock,
) -> None:
    async with world() as w:
        await w.sell(1, jobs_per_client_max=3)
        w.engines[0].step_s = 0.05
        rogue = await RogueClient.join(w)
        running = [await rogue.begin() for _ in range(3)]
        for _ in range(20):
            job = await rogue.open()
            refusal = await job.until(Refusal)
            assert refusal.code == Refused.BUSY
            job.channel.close()
        assert w.workers[0].active == 3
        [session] = w.transports[0].sessions().values()
        assert session.open_jobs == {job.award.job for job in running}
        rogue.session.cut()
        await serves_others(w)


async def test_a_flood_of_awards_costs_no_signatures_and_then_the_session(
    clock: MockClock,
) -> None:
    async with world() as w:
        await w.sell(1)
        rogue = await RogueClient.join(w)
        codes = []

        async def flood() -> None:
            for _ in range(2000):
                job = await rogue.open(cap=0)
                refusal = await job.until(Refusal)
                codes.append((refusal.code, refusal.offer is not None))
                job.channel.close()

        with pytest.raises(SessionLost, match="asks for too much"):
            await flood()
        assert codes.count((Refused.PRICE_TOO_LOW, True)) < 200
        assert (Refused.RATE_LIMITED, False) in codes
        await serves_others(w)


async def test_a_refusal_waits_for_a_deaf_peer_only_so_long(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        rogue = await RogueClient.join(w)
        [session] = w.transports[0].sessions().values()
        session.deaf = True
        await rogue.open(cap=0)
        await trio.sleep(30)
        assert not session.open_jobs
        session.cut()
        await serves_others(w)


@pytest.mark.parametrize("brings_micro", [0, 1, 49])
async def test_a_prepayment_has_to_be_the_whole_of_what_the_terms_ask(
    clock: MockClock, brings_micro: int
) -> None:
    async with world() as w:
        await w.sell(1, prepay_above_micro=1, quantum_micro=100)
        rogue = await RogueClient.join(w)
        job = await rogue.open_prepaid(tokens_in=50, brings_micro=brings_micro)
        assert rogue.terms.statement.prepay == 50
        assert (await job.until(Refusal)).code == Refused.PREPAY_REQUIRED
        assert w.engines[0].made == 0
        assert w.workers[0].active == 0


async def test_a_prepayment_is_credited_before_the_first_token(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, prepay_above_micro=1, quantum_micro=20)
        rogue = await RogueClient.join(w)
        job = await rogue.open_prepaid(tokens_in=50, brings_micro=50)
        end = await job.until(End)
        assert (end.finish, len(job.ids)) == (Finish.UNPAID, 4)  # the prompt, and one quantum


async def test_a_request_that_never_comes_frees_its_place(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1, reservation_s=10.0)
        rogue = await RogueClient.join(w)
        for _ in range(4):
            job = await rogue.open()
            assert isinstance(await job.channel.receive(), AcceptanceFrame)
        began_s = trio.current_time()
        with trio.fail_after(12):
            await w.workers[0].wait_idle()
        assert "too late" in (await job.until(ErrorFrame)).detail
        assert trio.current_time() - began_s <= 11
        rogue.session.cut()
        await serves_others(w)


async def test_a_reader_that_takes_nothing_holds_its_slot_for_one_patience(
    clock: MockClock,
) -> None:
    async with world() as w:
        await w.sell(1, payment_s=10.0)
        w.engines[0].step_s = 0.5
        rogue = await RogueClient.join(w)
        await rogue.begin(output_max=1500)
        [session] = w.transports[0].sessions().values()
        session.deaf = True
        with trio.fail_after(15):
            await w.workers[0].wait_idle()
        session.cut()
        await serves_others(w)


async def test_drained_segments_end_with_a_receipt(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.05
        rogue = await RogueClient.join(w)
        job = await rogue.begin()
        await job.until(Chunk)
        w.workers[0].end_all()
        end = await job.until(End)
        assert end.finish == Finish.DRAINED
        receipt = (await job.until(ReceiptFrame)).receipt.statement
        assert receipt.tokens_out == len(job.ids)


async def test_a_bad_request_goes_with_its_session(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept by its own error until garbage is looked for, a few of them were 20 MB."""
    ended: list[weakref.ref[Segment]] = []

    class Watched(Segment):
        async def run(self, client: Address) -> WorkerJob:
            ended.append(weakref.ref(self))
            return await super().run(client)

    monkeypatch.setattr(worker_module, "Segment", Watched)
    async with world() as w:
        await w.sell(1)
        gc.collect()
        gc.disable()
        try:
            for number in range(5):
                rogue = await RogueClient.join(w, number=70 + number)
                job = await rogue.open(request=bytes(2**20))
                await job.send_request()
                with pytest.raises(SessionLost):
                    await job.until(Refusal)
            await trio.sleep(1)
            assert [each() for each in ended] == [None] * 5
        finally:
            gc.enable()
