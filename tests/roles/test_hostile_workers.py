"""Workers that cheat, stall or break rules, against a real client."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.errors import NoPeers, PeerError
from node.protocol import limits, logprobs, signing
from node.protocol.frames import (
    CutoffFrame,
    End,
    ErrorFrame,
    ProgressFrame,
    ReceiptFrame,
    Refused,
    RequestData,
)
from node.protocol.logprobs import TokenLogprob
from node.protocol.scoring import Preferences
from node.protocol.statements import CutoffReason, Finish, Progress, Split
from node.protocol.stops import Output
from node.protocol.transcript_verify import verify
from node.roles.answer import Answer
from node.roles.client import Outcome
from tests.roles.fakes import DOMAIN, key_of
from tests.roles.job_world import PLAIN, Watch, World, bought, order, world
from tests.roles.rogues import RogueSale, Script, rogue_worker, terms_of

CHEAPEST = Preferences(price_micro_max=1_000_000, sort="price")
CHEAP = {"price_in": 100_000, "price_out": 500_000}


@pytest.fixture
def clock() -> MockClock:
    """Waits cost nothing; the store's thread has time to answer."""
    return MockClock(autojump_threshold=0.05)


def check(outcome: Outcome, w: World) -> None:
    """The transcript holds, and nothing is promised beyond what it says."""
    report = verify(outcome.transcript, outcome.disclosure)
    assert report.passed, [each for each in report.checks if not each.passed]
    assert w.payer.promised_micro == outcome.attempt.job.accepted_micro
    assert not w.payer.reservations


async def sold(sale: RogueSale, ids: tuple[int, ...] = (2, 3, 4)) -> None:
    await sale.accept()
    await sale.deliver(ids)


# ------------------------------------------------------------------- nothing came: another worker


async def no_answer(sale: RogueSale) -> None:
    await trio.sleep_forever()


async def accepts_and_no_more(sale: RogueSale) -> None:
    await sale.accept()


async def leaves(sale: RogueSale) -> None:
    sale.session.cut("the peer is gone")


async def gives_up(sale: RogueSale) -> None:
    await sale.send(ErrorFrame(job=sale.award.job, code=6, detail="\x1b[31mno"))


async def garbage(sale: RogueSale) -> None:
    await sale.accept()
    await sale.send(RequestData(job=sale.award.job, offset=0, data=b"x"))


async def accepts_another_award(sale: RogueSale) -> None:
    await sale.accept(award=b"\x99" * 32)


async def accepts_in_another_age(sale: RogueSale) -> None:
    await sale.accept(accepted_ms=1)
    await sale.deliver((2, 3))


async def output_at_once(sale: RogueSale) -> None:
    await sale.deliver((2, 3))


async def ends_at_once(sale: RogueSale) -> None:
    await sale.accept()
    await sale.send(End(job=sale.award.job, finish=Finish.STOP, position=0))


async def refuses_then_accepts(sale: RogueSale) -> None:
    await sale.send(sale.refusal(code=Refused.DRAINING))
    await sale.accept()
    await sale.deliver((2, 3))


async def refuses_with_forged_terms(sale: RogueSale) -> None:
    forged = replace(sale.terms, serial=10**6, price_out=1)
    signed = signing.sign(forged, DOMAIN, key_of(5))
    await sale.send(sale.refusal(code=Refused.BUSY, offer=signed))


@pytest.mark.parametrize(
    "script",
    [
        no_answer,
        accepts_and_no_more,
        leaves,
        gives_up,
        garbage,
        accepts_another_award,
        accepts_in_another_age,
        output_at_once,
        ends_at_once,
        refuses_then_accepts,
        refuses_with_forged_terms,
    ],
)
async def test_a_worker_that_gives_nothing_costs_nothing_and_another_is_found(
    clock: MockClock, script: Script
) -> None:
    async with world() as w:
        await w.sell(1)
        await rogue_worker(w, script, **CHEAP)
        client, watch = await w.buy(), Watch()
        outcome, reply = await bought(client, watch=watch, preferences=CHEAPEST)
        assert [each.session.peer for each in watch.awards] == [
            w.transports[1].address,
            w.transports[0].address,
        ]
        assert outcome.failure == ""
        assert len(reply.ids) == 41
        assert outcome.attempt.job.accepted_micro == 10 + 41 * 5
        check(outcome, w)


@pytest.mark.parametrize("script", [no_answer, accepts_and_no_more])
async def test_a_worker_that_takes_no_request_is_not_waited_for_for_ever(
    clock: MockClock, script: Script
) -> None:
    async with world() as w:
        await rogue_worker(w, script, context_max=10**6, price_in=1, price_out=1)
        client = await w.buy()
        with pytest.raises(NoPeers):
            await bought(client, prompt=(1,) * 100_000)  # more than a channel's credit
        assert trio.current_time() < 60
        assert not w.payer.reservations


# ------------------------------------------------------------------ something came: it is the job


async def no_receipt(sale: RogueSale) -> None:
    await sold(sale, (2, 3, 0))
    await sale.send(End(job=sale.award.job, finish=Finish.STOP, position=3))


async def receipt_twice(sale: RogueSale) -> None:
    await no_receipt(sale)
    for finish in (Finish.STOP, Finish.LENGTH):
        receipt = sale.sign(sale.receipt((2, 3, 0), finish=finish))
        await sale.send(ReceiptFrame(job=sale.award.job, receipt=receipt))


async def receipt_out_of_time(sale: RogueSale) -> None:
    await no_receipt(sale)
    receipt = sale.sign(sale.receipt((2, 3, 0), ended_ms=0))
    await sale.send(ReceiptFrame(job=sale.award.job, receipt=receipt))


async def cached_in_the_end(sale: RogueSale) -> None:
    await progress_over()(sale)
    await sale.deliver((0,), position=3)
    await sale.send(End(job=sale.award.job, finish=Finish.STOP, position=4))
    ids, tokens_in = (2, 3, 4, 0), sale.award.tokens_in
    receipt = sale.receipt(ids, tokens_in=tokens_in - 1, tokens_cached=1, amount=9 + 4 * 5)
    await sale.send(ReceiptFrame(job=sale.award.job, receipt=sale.sign(receipt)))


async def accepts_twice(sale: RogueSale) -> None:
    await sold(sale)
    await sale.accept(accepted_ms=sale.award.issued_ms + 1)


async def refuses_late(sale: RogueSale) -> None:
    await sold(sale)
    await sale.send(sale.refusal())


async def untold_logprobs(sale: RogueSale) -> None:
    await sold(sale)
    told = logprobs.encode((TokenLogprob(chosen=-1.0, top=()),))
    await sale.deliver((5,), position=3, told=told)


async def of_another_model(sale: RogueSale) -> None:
    await sold(sale)
    await sale.deliver((5, 2**32 - 1), position=3)


async def another_position(sale: RogueSale) -> None:
    await sold(sale)
    await sale.deliver((5,), position=7)


async def half_an_id(sale: RogueSale) -> None:
    await sold(sale)
    from node.protocol.frames import Chunk

    await sale.send(Chunk(job=sale.award.job, position=3, data=b"\x00\x00", logprobs=b""))


def progress_over(**changes: Any) -> Script:
    async def script(sale: RogueSale) -> None:
        await sold(sale)
        right = sale.receipt((2, 3, 4))
        progress = Progress(
            award=right.award,
            tokens_in=right.tokens_in,
            tokens_cached=0,
            tokens_out=3,
            amount=right.amount,
            chain=right.chain,
            at_ms=sale.award.issued_ms,
        )
        signed = sale.sign(replace(progress, **changes))
        await sale.send(ProgressFrame(job=sale.award.job, progress=signed))

    return script


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (no_receipt, CutoffReason.STALLED),
        (receipt_twice, None),
        (receipt_out_of_time, CutoffReason.BAD_STATEMENT),
        (accepts_twice, CutoffReason.BAD_STATEMENT),
        (cached_in_the_end, CutoffReason.BAD_STATEMENT),
        (progress_over(at_ms=1), CutoffReason.BAD_STATEMENT),
        (refuses_late, CutoffReason.BAD_STATEMENT),
        (untold_logprobs, CutoffReason.BAD_DATA),
        (another_position, CutoffReason.BAD_DATA),
        (of_another_model, CutoffReason.BAD_DATA),
        (half_an_id, CutoffReason.BAD_DATA),
        (progress_over(amount=10**6), CutoffReason.OVERBILLED),
        (progress_over(tokens_cached=2**31), CutoffReason.OVERBILLED),
    ],
)
async def test_what_was_delivered_is_paid_and_no_more(
    clock: MockClock, script: Script, reason: CutoffReason | None
) -> None:
    async with world() as w:
        await rogue_worker(w, script)
        outcome, reply = await bought(await w.buy())
        job = outcome.attempt.job
        assert len(reply.ids) >= 3
        assert job.accepted_micro == 10 + len(reply.ids) * 5
        assert (job.cut.reason if job.cut else None) == reason
        assert bool(outcome.failure) == (reason is not None)
        check(outcome, w)


def reads(decode: Callable[[Sequence[int]], str]) -> Answer:
    output = Output(decode=decode, eos_ids=(0,), max_tokens=100)
    return Answer(output, on_text=lambda _: None)


def fails_on_nine(ids: Sequence[int]) -> str:
    if 9 in ids:
        raise PeerError("tokenizer: it can't be used")
    return "x" * len(ids)


@pytest.mark.parametrize(
    "decode", [fails_on_nine, lambda ids: "y" * (limits.OUTPUT_BYTES_MAX * ids.count(9))]
)
async def test_ids_that_have_no_text_or_too_much_end_the_job_with_what_came_before(
    clock: MockClock, decode: Callable[[Sequence[int]], str]
) -> None:
    async def script(sale: RogueSale) -> None:
        await sold(sale)
        await sale.deliver((5, 9, 9, 9), position=3)

    async with world() as w:
        await rogue_worker(w, script)
        client, reply = await w.buy(), reads(decode)
        with trio.fail_after(60):
            outcome = await client.run(order(), reply, Watch())
        assert reply.ids == [2, 3, 4]
        assert outcome.attempt.job.cut is not None
        assert outcome.attempt.job.cut.reason == CutoffReason.BAD_DATA
        assert len(reply.text) <= limits.OUTPUT_BYTES_MAX
        check(outcome, w)


async def test_a_tokenizer_that_fails_at_the_very_end_costs_no_more_than_that_text(
    clock: MockClock,
) -> None:
    def decode(ids: Sequence[int]) -> str:
        if len(ids) > 2:
            raise PeerError("tokenizer: it can't be used")
        return "\N{REPLACEMENT CHARACTER}" * len(ids)

    async def script(sale: RogueSale) -> None:
        await sold(sale, (2, 3))

    async with world() as w:
        await rogue_worker(w, script)
        client, reply = await w.buy(), reads(decode)
        with trio.fail_after(60):
            outcome = await client.run(order(), reply, Watch())
        assert "no token for" in outcome.failure
        check(outcome, w)


async def test_what_came_after_a_cut_is_not_in_the_answer(clock: MockClock) -> None:
    """Half a stop string is held back: what follows must not complete it, or be shown with it."""

    async def script(sale: RogueSale) -> None:
        await sold(sale, (2, 3))
        await sale.channel.receive()  # the award's request
        while not isinstance(await sale.channel.receive(), CutoffFrame):
            continue
        await sale.deliver((4, 5), position=2)

    async with world() as w:
        await rogue_worker(w, script)
        client = await w.buy()
        output = Output(
            decode=lambda ids: "".join(map(str, ids)), eos_ids=(0,), stops=("34x",), max_tokens=100
        )
        shown = trio.Event()
        reply = Answer(output, on_text=lambda _: shown.set())
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await shown.wait()
                await client.cancel(CutoffReason.CANCELLED, "cancelled")

            nursery.start_soon(cancel)
            with trio.fail_after(60):
                outcome = await client.run(order(), reply, Watch())
        assert (reply.ids, reply.text) == ([2, 3], "23")
        check(outcome, w)


async def test_more_logprobs_than_asked_for_are_not_taken(clock: MockClock) -> None:
    async def script(sale: RogueSale) -> None:
        await sold(sale)
        told = logprobs.encode((TokenLogprob(chosen=-1.0, top=((1, -1.0), (2, -2.0))),))
        await sale.deliver((5,), position=3, told=told)

    async with world() as w:
        await rogue_worker(w, script)
        client = await w.buy()
        output = Output(decode=lambda ids: "", eos_ids=(0,), max_tokens=100)
        reply = Answer(output, on_text=lambda _: None, logprobs_asked=2)
        the_order = order(sampling=replace(PLAIN, logprobs=2))
        with trio.fail_after(60):
            outcome = await client.run(the_order, reply, Watch())
        assert "more log probabilities" in outcome.failure
        assert len(reply.ids) == 3


async def test_the_first_token_may_take_as_long_as_was_promised(clock: MockClock) -> None:
    async def script(sale: RogueSale) -> None:
        await sale.accept()
        await trio.sleep(25)
        await sale.deliver((2, 3, 0))
        await sale.send(End(job=sale.award.job, finish=Finish.STOP, position=3))
        receipt = sale.sign(sale.receipt((2, 3, 0)))
        await sale.send(ReceiptFrame(job=sale.award.job, receipt=receipt))

    async with world() as w:
        await rogue_worker(w, script, first_token_ms=20_000)
        outcome, _ = await bought(await w.buy(silence_s=10.0))
        assert outcome.failure == ""


async def test_a_promise_of_a_far_first_token_is_not_waited_for(clock: MockClock) -> None:
    async with world() as w:
        await rogue_worker(w, accepts_and_no_more, first_token_ms=2**32 - 1)
        with pytest.raises(NoPeers):
            await bought(await w.buy(silence_s=10.0))
        assert trio.current_time() < 100


# ---------------------------------------------------------------------------- advances and locks


async def test_an_advance_is_lost_once_per_job_at_most(clock: MockClock) -> None:
    async def script(sale: RogueSale) -> None:
        await sale.send(sale.refusal(code=Refused.DRAINING))

    async with world() as w:
        await w.sell(1)
        for number in (70, 71, 72):
            await rogue_worker(w, script, number=number, prepay=40, **CHEAP)
        await rogue_worker(w, script, number=73, prepay=52, price_in=90_000, price_out=500_000)
        client = await w.buy()
        wanted = replace(CHEAPEST, prepay_micro_max=60)
        outcome, _ = await bought(client, preferences=wanted)
        assert outcome.failure == ""
        lost_micro = w.payer.promised_micro - outcome.attempt.job.accepted_micro
        assert lost_micro == 40


@pytest.mark.parametrize(
    "changes", [{"prepay": 10**6}, {"splits": (Split(payee=DOMAIN.escrow, bps=1),)}]
)
async def test_terms_that_no_job_can_be_paid_on_don_t_end_the_job(
    clock: MockClock, changes: dict[str, Any]
) -> None:
    async with world() as w:
        await w.sell(1)
        await rogue_worker(w, sold, **CHEAP, **changes)
        wanted = replace(CHEAPEST, prepay_micro_max=10**9)
        outcome, _ = await bought(await w.buy(), preferences=wanted)
        assert outcome.failure == ""
        check(outcome, w)


async def test_no_more_is_locked_than_a_worker_could_lose(clock: MockClock) -> None:
    async def script(sale: RogueSale) -> None:
        total = sale.award.cap + 1
        await sale.send(sale.refusal(code=Refused.LOCK_REQUIRED, lock_total=total))

    async with world() as w:
        await rogue_worker(w, script)
        client, watch = await w.buy(), Watch()
        with pytest.raises(NoPeers):
            await bought(client, watch=watch)
        assert watch.refusals
        assert not watch.locks
        assert w.payer.promised_micro == 0


def test_terms_that_rogues_offer_are_good_ones() -> None:
    """Else these tests would show nothing."""
    from node.protocol.offers import terms_fault
    from tests.roles.fakes import Net

    assert terms_fault(terms_of(Net().transport(key_of(1), sells=True))) is None
