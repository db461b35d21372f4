"""Jobs whose worker stops in mid-answer: another goes on, and the user sees no seam."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from devnet.misbehave import KINDS
from node.errors import NoPeers, PeerError
from node.protocol import limits, signing
from node.protocol.frames import AwardFrame, CutoffFrame, End, ReceiptFrame, Refused
from node.protocol.scoring import Preferences
from node.protocol.statements import CutoffReason, Finish
from node.protocol.stops import Output
from node.protocol.transcript_verify import verify
from node.roles.answer import Answer
from node.roles.client import Outcome
from node.roles.job_run import Attempt
from tests.roles.fakes import DOMAIN, key_of
from tests.roles.job_world import Watch, World, bought, order, world
from tests.roles.rogues import RogueSale, Script, rogue_worker

CHEAPEST = Preferences(price_micro_max=1_000_000, sort="price")
CHEAP = {"price_in": 100_000, "price_out": 500_000}
WHOLE = [*range(2, 42), 0]
"""What a job of the scripted engine comes to, undisturbed."""


@pytest.fixture
def clock() -> MockClock:
    """Waits cost nothing; the store's thread has time to answer."""
    return MockClock(autojump_threshold=0.05)


def cost_micro(segment: Attempt) -> int:
    """What a segment's tokens come to at its own prices, prefill and all."""
    job, terms = segment.job, segment.job.terms
    cost = job.award.tokens_in * terms.price_in + job.tokens_out * terms.price_out
    return -(-cost // 10**6) if job.tokens_out else 0


def check(outcome: Outcome, w: World) -> None:
    """The transcript holds, each segment costs what it is worth, and nothing else is promised."""
    report = verify(outcome.transcript, outcome.disclosure)
    assert report.passed, [each for each in report.checks if not each.passed]
    assert report.sealed is not None
    assert len(report.sealed.transcript.segments) == len(outcome.segments)
    paid = [segment.job.accepted_micro for segment in outcome.segments]
    assert paid == [cost_micro(segment) for segment in outcome.segments]
    assert w.payer.promised_micro == outcome.amount_micro
    assert not w.payer.reservations


def workers_of(outcome: Outcome) -> list[bytes]:
    return [segment.job.award.worker for segment in outcome.segments]


async def in_mid_answer(w: World, strike: Callable[[int], Awaitable[None]]) -> None:
    """Strike, in its tenth token, whichever worker has the job."""
    for engine in w.engines:
        engine.step_s = 0.02

    async def watch(number: int) -> None:
        await w.engines[number].tenth.wait()
        w.engines[number].fails_after = None
        scope.cancel()
        with trio.CancelScope(shield=True):
            await strike(number)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for number in range(len(w.engines)):
                nursery.start_soon(watch, number)


async def dies(w: World, number: int) -> None:
    w.client_transport.sessions()[w.transports[number].address].cut("the peer is gone")


async def freezes(w: World, number: int) -> None:
    w.engines[number].step_s = 10**6


async def drains(w: World, number: int) -> None:
    w.workers[number].end_all()


async def breaks(w: World, number: int) -> None:
    w.engines[number].fails_after = 12


STRIKES: dict[str, tuple[Callable[[World, int], Awaitable[None]], str, float]] = {
    "dies": (dies, "the peer is gone", 0.5),
    "freezes": (freezes, "no token for", 1.5),
    "drains": (drains, "the worker is shutting down", 0.5),
    "breaks": (breaks, "the worker's engine failed", 0.5),
}


@pytest.mark.parametrize("how", sorted(STRIKES))
async def test_another_worker_goes_on_without_a_lost_or_a_repeated_token(
    clock: MockClock, how: str
) -> None:
    strike, why, pause_s = STRIKES[how]
    async with world() as w:
        for number in (2, 3, 4):
            await w.sell(number)
        client, watch = await w.buy(), Watch()
        arrivals: list[float] = []
        the_order = order()
        reply = text_answer(lambda _: arrivals.append(trio.current_time()))
        w.nursery.start_soon(in_mid_answer, w, lambda number: strike(w, number))
        with trio.fail_after(60):
            outcome = await client.run(the_order, reply, watch)
        assert outcome.failure == ""
        assert reply.ids == WHOLE
        assert reply.text == "".join(f"{each} " for each in WHOLE[:-1])
        assert len(outcome.segments) == 2
        [(stopped, said)] = watch.stops
        assert why in said
        first, second = workers_of(outcome)
        assert stopped.session.peer == first != second
        assert max(b - a for a, b in pairwise(arrivals)) <= pause_s
        before, after = (segment.job for segment in outcome.segments)
        assert after.award.previous == before.digest
        assert after.award.chain == before.chain
        assert after.award.position == before.position == before.tokens_out
        assert after.award.attempt == before.award.attempt + 1
        assert after.award.output_max == the_order.output_max - before.position
        assert outcome.tokens_out == len(WHOLE)
        check(outcome, w)


def text_answer(on_text: Callable[[str], None]) -> Answer:
    output = Output(
        decode=lambda ids: "".join(f"{each} " for each in ids if each),
        eos_ids=(0,),
        max_tokens=100,
    )
    return Answer(output, on_text=on_text)


@pytest.mark.parametrize("cheat", sorted(KINDS))
async def test_an_honest_worker_goes_on_after_a_cheat(clock: MockClock, cheat: str) -> None:
    async with world() as w:
        await w.sell(1)
        await w.sell(2, cheat=cheat, quantum_micro=60, price_out=4_000_000)
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch, preferences=CHEAPEST)
        assert workers_of(outcome)[0] == w.transports[1].address
        if cheat == "after-end":  # the answer was whole: there was nothing to go on with
            assert "after the end" in outcome.failure
        else:
            assert outcome.failure == ""
            assert len(watch.stops) == 1
            assert workers_of(outcome)[1:] == [w.transports[0].address]
        assert reply.ids == WHOLE
        check(outcome, w)


async def test_as_many_workers_may_stop_as_a_transcript_holds(clock: MockClock) -> None:
    async def one_token(sale: RogueSale) -> None:
        await sale.accept()
        await sale.deliver((sale.award.position + 2,), position=sale.award.position)
        await sale.send(End(job=sale.award.job, finish=Finish.FAILED, position=0))

    async with world() as w:
        for number in range(limits.SEGMENTS_MAX + 2):
            await rogue_worker(w, one_token, number=200 + number)
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch)
        assert len(outcome.segments) == limits.SEGMENTS_MAX
        assert len(set(workers_of(outcome))) == limits.SEGMENTS_MAX
        assert reply.ids == WHOLE[: limits.SEGMENTS_MAX]
        assert f"{limits.SEGMENTS_MAX} workers have stopped" in outcome.failure
        check(outcome, w)


async def test_a_failed_worker_is_measured_and_not_asked_by_the_next_job(clock: MockClock) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        client = await w.buy()
        w.nursery.start_soon(in_mid_answer, w, lambda number: dies(w, number))
        first, _ = await bought(client)
        again, _ = await bought(client)
        assert workers_of(again) == workers_of(first)[1:]


# ---------------------------------------------------------------------------- who must not be cut


async def test_a_slow_but_steady_worker_keeps_its_job(clock: MockClock) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        for engine in w.engines:
            engine.step_s = 1.5
        outcome, reply = await bought(await w.buy())
        assert len(outcome.segments) == 1
        assert reply.ids == WHOLE


async def test_a_stream_that_waits_for_our_vouchers_is_not_the_workers_fault(
    clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number, quantum_micro=80, payment_s=60.0)
        client = await w.buy(silence_s=30.0)
        for engine in w.engines:
            engine.step_s = 0.02
        pay = w.payer.pay

        async def pay_late(**what: Any) -> Any:
            await trio.sleep(5.0)
            return await pay(**what)

        monkeypatch.setattr(w.payer, "pay", pay_late)
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert len(outcome.segments) == 1
        assert reply.ids == WHOLE


async def test_with_nobody_else_a_silence_is_borne_to_the_limit(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy(silence_s=10.0)

        async def pause(number: int) -> None:
            w.engines[number].step_s = 8.0
            await trio.sleep(8.0)
            w.engines[number].step_s = 0.01

        w.nursery.start_soon(in_mid_answer, w, pause)
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert reply.ids == WHOLE


# ------------------------------------------------------------------------------ limits and cancel


async def test_with_nobody_to_go_on_the_text_is_kept_and_paid(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        client = await w.buy()
        w.nursery.start_soon(in_mid_answer, w, lambda number: dies(w, number))
        outcome, reply = await bought(client)
        assert outcome.failure.startswith("the peer is gone; nobody went on: ")
        assert 0 < len(reply.ids) < len(WHOLE)
        assert reply.ids == WHOLE[: len(reply.ids)]
        check(outcome, w)


async def test_the_wanted_worker_means_only_that_one(clock: MockClock) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        client = await w.buy()
        wanted = Preferences(price_micro_max=10**6, worker=w.transports[0].address)
        w.nursery.start_soon(in_mid_answer, w, lambda number: dies(w, number))
        outcome, _ = await bought(client, preferences=wanted)
        assert outcome.failure == "the peer is gone"
        assert len(outcome.segments) == 1


async def test_the_price_limit_holds_over_all_segments(clock: MockClock) -> None:
    limit = 10 + 100 * 5  # the undisturbed job at most; a second prefill does not fit
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        client = await w.buy()
        w.nursery.start_soon(in_mid_answer, w, lambda number: dies(w, number))
        outcome, reply = await bought(client, preferences=Preferences(price_micro_max=limit))
        assert "nobody went on: none of" in outcome.failure
        assert outcome.amount_micro <= limit
        assert reply.ids == WHOLE[: len(reply.ids)]
        check(outcome, w)


async def test_the_deadline_is_counted_from_the_beginning(clock: MockClock) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        client = await w.buy()

        async def late(number: int) -> None:
            await trio.sleep(0.5)
            await dies(w, number)

        w.nursery.start_soon(in_mid_answer, w, late)
        prefs = Preferences(price_micro_max=10**6, deadline_s=1.4)
        outcome, _ = await bought(client, preferences=prefs)
        assert "are left" in outcome.failure
        assert len(outcome.segments) == 1


@pytest.mark.parametrize("reason", [CutoffReason.CANCELLED, CutoffReason.DEADLINE])
async def test_a_cancel_is_never_continued(clock: MockClock, reason: CutoffReason) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        client = await w.buy()
        w.nursery.start_soon(in_mid_answer, w, lambda _: client.cancel(reason, "enough"))
        outcome, _ = await bought(client)
        assert outcome.failure == ("" if reason is CutoffReason.CANCELLED else "enough")
        assert len(outcome.segments) == 1
        check(outcome, w)


async def test_a_cancel_ends_the_search_for_who_goes_on(clock: MockClock) -> None:
    async def no_answer(_sale: RogueSale) -> None:
        await trio.sleep_forever()

    async with world() as w:
        await w.sell(1, price_out=400_000, price_in=90_000)
        await rogue_worker(w, no_answer, **CHEAP)
        client, watch = await w.buy(), Watch()

        async def strike(number: int) -> None:
            await dies(w, number)
            await trio.sleep(1.0)
            await client.cancel(CutoffReason.CANCELLED, "enough")

        w.nursery.start_soon(in_mid_answer, w, strike)
        outcome, reply = await bought(client, watch=watch, preferences=CHEAPEST)
        assert outcome.failure == ""
        assert watch.stops
        assert trio.current_time() < 5
        assert reply.ids == WHOLE[: len(reply.ids)]
        check(outcome, w)


async def test_a_deposit_for_one_cap_is_enough_to_go_on(clock: MockClock) -> None:
    async with world() as w:
        for number in (1, 2):
            await w.sell(number)
        w.escrow.deposit(signing.address_of_key(key_of(99)), 10 + 100 * 5 + 30)
        w.escrow.settle()
        client = await w.buy()
        w.nursery.start_soon(in_mid_answer, w, lambda number: freezes(w, number))
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert reply.ids == WHOLE
        check(outcome, w)


async def test_ids_that_have_no_text_are_not_in_the_way_of_who_goes_on(clock: MockClock) -> None:
    def decode(ids: Sequence[int]) -> str:
        if 999 in ids:
            raise PeerError("tokenizer: it can't be used")
        return "".join(f"{each} " for each in ids if each)

    async def script(sale: RogueSale) -> None:
        await sale.accept()
        await sale.deliver((2, 3, 4))
        await sale.deliver((5, 999, 6), position=3)

    async with world() as w:
        await w.sell(1)
        await rogue_worker(w, script, **CHEAP)
        client = await w.buy()
        reply = Answer(Output(decode=decode, eos_ids=(0,), max_tokens=100), on_text=lambda _: None)
        with trio.fail_after(60):
            outcome = await client.run(order(preferences=CHEAPEST), reply, Watch())
        assert outcome.failure == ""
        assert reply.ids == WHOLE
        assert reply.text == "".join(f"{each} " for each in WHOLE[:-1])
        assert outcome.segments[0].job.tokens_out == 3
        check(outcome, w)


async def test_what_the_first_worker_still_sends_is_not_in_the_answer(clock: MockClock) -> None:
    """It was frozen, not dead: it wakes up while the other one delivers, and goes on."""

    async def script(sale: RogueSale) -> None:
        await sale.accept()
        await sale.deliver((2, 3, 4))
        await trio.sleep(3.0)
        await sale.deliver((7, 8, 9), position=3)

    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.1
        await rogue_worker(w, script, **CHEAP)
        outcome, reply = await bought(await w.buy(), preferences=CHEAPEST)
        assert outcome.failure == ""
        assert reply.ids == WHOLE
        check(outcome, w)


async def test_a_worker_that_wakes_up_in_time_is_paid_for_its_part_by_receipt(
    clock: MockClock,
) -> None:
    async def script(sale: RogueSale) -> None:
        await sale.accept()
        await sale.deliver((2, 3, 4))
        while not isinstance(await sale.channel.receive(), CutoffFrame):
            continue
        receipt = sale.receipt((2, 3, 4), finish=Finish.CUTOFF)
        await sale.send(ReceiptFrame(job=sale.award.job, receipt=sale.sign(receipt)))

    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.1
        await rogue_worker(w, script, **CHEAP)
        outcome, reply = await bought(await w.buy(), preferences=CHEAPEST)
        assert reply.ids == WHOLE
        assert outcome.segments[0].evidence.receipt is not None
        check(outcome, w)


# ------------------------------------------------------------------------------------ hedges


async def no_answer(_sale: RogueSale) -> None:
    await trio.sleep_forever()


async def accepts_late(sale: RogueSale) -> None:
    await trio.sleep(3.0)
    await sale.accept()
    await sale.deliver((9, 9, 9))


async def accepts_after_a_moment(sale: RogueSale) -> None:
    await trio.sleep(0.41)
    await sale.accept()
    await sale.deliver((1, 2, 0))
    await sale.send(End(job=sale.award.job, finish=Finish.STOP, position=3))
    receipt = sale.sign(sale.receipt((1, 2, 0)))
    await sale.send(ReceiptFrame(job=sale.award.job, receipt=receipt))


@pytest.mark.parametrize("script", [no_answer, accepts_late])
async def test_a_late_acceptance_is_hedged_and_the_loser_is_cut_off(
    clock: MockClock, script: Script
) -> None:
    async with world() as w:
        await w.sell(1)
        w.engines[0].step_s = 0.1
        await rogue_worker(w, script, **CHEAP)
        client, watch = await w.buy(), Watch()
        started_s = trio.current_time()
        first_s: list[float] = []
        reply = text_answer(lambda _: first_s.append(trio.current_time()))
        with trio.fail_after(60):
            outcome = await client.run(order(preferences=CHEAPEST), reply, watch)
        assert outcome.failure == ""
        assert reply.ids == WHOLE
        assert len(watch.hedges) == 1
        assert first_s[0] - started_s < 3
        assert workers_of(outcome) == [w.transports[0].address]
        [session] = [
            each
            for peer, each in w.client_transport.sessions().items()
            if peer == w.transports[1].address
        ]
        cuts = [frame.cutoff.statement for frame in session.sent if isinstance(frame, CutoffFrame)]
        awards = [frame.award.statement for frame in session.sent if isinstance(frame, AwardFrame)]
        assert [cut.award for cut in cuts] == [signing.digest(each, DOMAIN) for each in awards]
        assert awards[0].attempt != outcome.attempt.job.award.attempt
        check(outcome, w)


async def test_whoever_accepts_first_has_the_job(clock: MockClock) -> None:
    async with world() as w:
        await rogue_worker(w, accepts_after_a_moment, **CHEAP)
        await rogue_worker(w, no_answer, number=78, price_in=110_000, price_out=510_000)
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch, preferences=CHEAPEST)
        assert outcome.failure == ""
        assert reply.ids == [1, 2, 0]
        assert workers_of(outcome) == [w.transports[0].address]
        assert trio.current_time() < 4
        check(outcome, w)


async def test_hedges_are_few(clock: MockClock) -> None:
    async with world() as w:
        for number in range(10):
            await rogue_worker(w, no_answer, number=100 + number, **CHEAP)
        client, watch = await w.buy(), Watch()
        with pytest.raises(NoPeers):
            await bought(client, watch=watch, preferences=CHEAPEST)
        assert 0 < len(watch.hedges) <= 3
        assert w.payer.promised_micro == 0
        assert not w.payer.reservations


async def test_whoever_was_asked_beside_another_is_not_asked_again(clock: MockClock) -> None:
    async with world() as w:
        for number in range(2):
            await rogue_worker(w, no_answer, number=100 + number, **CHEAP)
        client, watch = await w.buy(), Watch()
        with pytest.raises(NoPeers):
            await bought(client, watch=watch, preferences=CHEAPEST)
        assert len(watch.hedges) == 1
        for session in w.client_transport.sessions().values():
            assert sum(isinstance(frame, AwardFrame) for frame in session.sent) == 1
        assert not w.payer.reservations


async def test_a_hedge_that_the_deposit_does_not_cover_is_not_made(clock: MockClock) -> None:
    async with world() as w:
        await w.sell(1)
        await rogue_worker(w, no_answer, **CHEAP)
        w.escrow.deposit(signing.address_of_key(key_of(99)), 10 + 100 * 5 + 20)
        w.escrow.settle()
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch, preferences=CHEAPEST)
        assert outcome.failure == ""
        assert reply.ids == WHOLE
        assert not watch.hedges
        check(outcome, w)


async def test_a_hedge_that_is_refused_changes_nothing(clock: MockClock) -> None:
    async def refuses(sale: RogueSale) -> None:
        await sale.send(sale.refusal(code=Refused.BUSY))

    async with world() as w:
        await rogue_worker(w, accepts_after_a_moment, **CHEAP)
        await rogue_worker(w, refuses, number=78, price_in=110_000, price_out=510_000)
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch, preferences=CHEAPEST)
        assert outcome.failure == ""
        assert reply.ids == [1, 2, 0]
        check(outcome, w)
