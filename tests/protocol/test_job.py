"""The worker's and the client's machine joined by two queues, like two ends of a session."""

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import PeerError
from node.protocol import chain_hash, codec, logprobs, signing
from node.protocol import job_client as client
from node.protocol import job_worker as worker
from node.protocol.frames import Chunk, End, Refusal, Refused
from node.protocol.logprobs import TokenLogprob
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    CutoffReason,
    Finish,
    Progress,
    Receipt,
    Terms,
    Tier,
)

DIGEST = b"\xaa" * 32
CLIENT, WORKER, JOB = b"\x01" * 20, b"\x02" * 20, b"\x03" * 16


def terms(*, quantum: int = 200, price_in: int = 1_000_000, price_out: int = 7_000_000) -> Terms:
    return Terms(
        worker=WORKER,
        payee=WORKER,
        model=bytes(32),
        tier=Tier.IDS,
        tokenizer=bytes(32),
        price_in=price_in,
        price_cached=0,
        price_out=price_out,
        splits=(),
        quantum=quantum,
        prepay=0,
        context_max=4096,
        output_max=4096,
        first_token_ms=1,
        rate_mtps=1,
        prefill_tps=1,
        slots_free=1,
        queued=0,
        region="",
        serial=1,
        expires_ms=1,
        ask=bytes(32),
    )


def award(*, tokens_in: int = 10, output_max: int = 50, cap: int = 10**6) -> Award:
    return Award(
        client=CLIENT,
        payer=CLIENT,
        worker=WORKER,
        job=JOB,
        attempt=0,
        terms=bytes(32),
        request=bytes(32),
        request_bytes=100,
        tokens_in=tokens_in,
        output_max=output_max,
        cap=cap,
        seed=1,
        position=0,
        chain=chain_hash.start(CLIENT, JOB),
        previous=bytes(32),
        issued_ms=0,
    )


class Link:
    """Both machines and what is under way between them; `eos` is the id that completes output."""

    def __init__(self, *, the_award: Award, the_terms: Terms, eos: int = 0) -> None:
        self.eos = eos
        self.w = worker.start(the_award, DIGEST, the_terms)
        self.c = client.start(the_award, DIGEST, the_terms)
        self.to_client: deque[client.Event] = deque()
        self.to_worker: deque[worker.Event] = deque()
        self.shown: list[int] = []
        self.sent: list[int] = []
        self.engine_stopped = False
        self.unpaid_max = 0
        self.receipt: Receipt | None = None

    def work(self, event: worker.Event) -> None:
        self.w, effects = worker.step(self.w, event, 1_000)
        for effect in effects:
            match effect:
                case worker.Issue(statement=Acceptance() as acceptance):
                    self.to_client.append(client.Accepted(acceptance=acceptance))
                case worker.Issue(statement=Progress() as progress):
                    self.to_client.append(client.Progressed(progress=progress))
                case worker.Issue(statement=Receipt() as receipt):
                    self.receipt = receipt
                    self.to_client.append(client.Receipted(receipt=receipt, digest=b"r" * 32))
                case worker.Emit(frame=Chunk() as chunk):
                    ids = codec.unpack_ids(chunk.data)
                    self.sent += ids
                    self.to_client.append(self.received(chunk.position, ids))
                case worker.Emit(frame=End() as end):
                    self.to_client.append(client.Ended(finish=end.finish, position=end.position))
                case worker.StopEngine():
                    self.engine_stopped = True
        self.unpaid_max = max(self.unpaid_max, self.w.earned_micro - self.w.paid_micro)

    def received(self, position: int, ids: tuple[int, ...]) -> client.Received:
        done = ids.index(self.eos) + 1 if self.eos in ids else None
        finish = Finish.STOP if done is not None else None
        return client.Received(position=position, items=ids, complete_after=done, finish=finish)

    def hear(self, event: client.Event) -> None:
        self.c, effects = client.step(self.c, event)
        for effect in effects:
            match effect:
                case client.Show(items=items):
                    self.shown += [each for each in items if isinstance(each, int)]
                case client.Pay(accepted_micro=amount):
                    self.to_worker.append(worker.Paid(total_micro=amount))
                case client.Cut(cutoff=cutoff):
                    here = chain_hash.extend(
                        self.w.award.chain, self.sent[: cutoff.position - self.w.award.position]
                    )
                    self.to_worker.append(worker.CutOff(cutoff=cutoff, chain_here=here))

    def settle(self) -> None:
        while self.to_client or self.to_worker:
            while self.to_client:
                self.hear(self.to_client.popleft())
            while self.to_worker:
                self.work(self.to_worker.popleft())

    def begin(self) -> None:
        self.work(worker.Awarded())
        self.work(worker.RequestPart(offset=0, size=100))
        self.work(worker.RequestChecked())


def joined(**changes: Any) -> Link:
    link = Link(the_award=award(), the_terms=terms())
    link = Link(the_award=replace(award(), **changes), the_terms=terms()) if changes else link
    link.begin()
    link.settle()
    return link


def run_to_end(link: Link, output: list[int]) -> None:
    for token in output:
        while link.w.held:
            link.settle()
        link.work(worker.Generated(items=(token,)))
    link.settle()
    if link.w.ending is None:
        link.work(worker.Stopped(finish=Finish.STOP))
    link.settle()


def test_an_honest_job_is_paid_to_the_unit() -> None:
    link = joined()
    run_to_end(link, [5, 6, 7, 0])
    assert link.shown == [5, 6, 7, 0]
    assert link.receipt is not None
    assert link.receipt.amount == 10 + 4 * 7 == link.c.accepted_micro == link.w.paid_micro
    assert (link.w.phase, link.c.phase) == (worker.Phase.DONE, client.Phase.DONE)
    assert link.c.failure == ""


def test_output_beyond_the_quantum_waits_for_the_voucher() -> None:
    link = joined()
    link.work(worker.Generated(items=tuple(range(1, 41))))
    assert len(link.sent) == (200 - 10) // 7
    assert link.w.blocked
    link.settle()
    assert link.sent == list(range(1, 41))


def test_the_cap_ends_the_answer() -> None:
    link = joined(cap=10 + 7 * 3)
    run_to_end(link, [1, 2, 3, 4, 5])
    assert link.shown == [1, 2, 3]
    assert link.c.complete is Finish.LENGTH
    assert link.c.accepted_micro == 31


def test_the_output_limit_ends_the_answer() -> None:
    link = joined(output_max=2)
    run_to_end(link, [1, 2, 3])
    assert link.shown == [1, 2]
    assert link.c.complete is Finish.LENGTH
    assert link.c.failure == ""


def test_no_output_costs_nothing() -> None:
    link = joined()
    link.work(worker.Stopped(finish=Finish.FAILED))
    link.settle()
    assert link.receipt is not None
    assert link.receipt.amount == 0
    assert "engine failed" in link.c.failure


def test_cached_tokens_are_billed_at_their_own_price() -> None:
    link = joined()
    link.work(worker.Generated(items=(5,), tokens_cached=8))
    link.work(worker.Generated(items=(6,), tokens_cached=8))
    link.settle()
    run_to_end(link, [7, 0])
    assert link.receipt is not None
    assert (link.receipt.tokens_in, link.receipt.tokens_cached) == (2, 8)
    assert link.receipt.amount == 2 + 4 * 7 == link.c.accepted_micro
    assert link.c.tokens_cached == 8
    assert link.c.failure == ""


def test_what_is_said_with_the_first_output_holds() -> None:
    link = joined()
    link.work(worker.Generated(items=(5,), tokens_cached=8))
    link.work(worker.Generated(items=(6,), tokens_cached=0))
    assert link.w.tokens_cached == 8


def test_a_cancelled_job_does_not_pay_for_a_prompt_that_was_cached() -> None:
    link = joined()
    link.work(worker.Generated(items=(5, 6), tokens_cached=10))
    link.settle()
    link.hear(client.GiveUp(reason=CutoffReason.CANCELLED, why="the user left"))
    assert link.c.accepted_micro == 2 * 7
    link.settle()
    assert link.receipt is not None
    assert link.receipt.amount == link.c.accepted_micro == 2 * 7


def test_without_a_receipt_a_prompt_counts_as_computed() -> None:
    link = joined()
    link.work(worker.Generated(items=(5, 6), tokens_cached=10))
    link.settle()
    link.hear(client.GiveUp(reason=CutoffReason.CANCELLED, why="the user left"))
    link.hear(client.ReceiptOverdue())
    assert link.c.accepted_micro == 10 + 2 * 7


def test_a_cancelled_job_pays_what_was_delivered() -> None:
    link = joined()
    for token in (5, 6, 7):
        link.work(worker.Generated(items=(token,)))
    link.settle()
    link.hear(client.GiveUp(reason=CutoffReason.CANCELLED, why="cancelled"))
    link.work(worker.Generated(items=(8,)))  # was under way
    link.settle()
    assert link.engine_stopped
    assert link.receipt is not None
    assert link.receipt.finish == Finish.CUTOFF
    assert link.receipt.amount == link.c.accepted_micro == link.w.paid_micro == 10 + 3 * 7
    assert link.c.phase is client.Phase.DONE


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"tokens_out": 9}, CutoffReason.OVERBILLED, "billed 9 output tokens, delivered 2"),
        ({"amount": 25}, CutoffReason.OVERBILLED, "billed 25 micro where the terms come to 24"),
        ({"tokens_in": 11}, CutoffReason.OVERBILLED, "billed 11 prompt tokens"),
        ({"award": b"o" * 32}, CutoffReason.BAD_STATEMENT, "another award"),
        ({"chain": b"o" * 32}, CutoffReason.BAD_STATEMENT, "other tokens"),
    ],
)
@pytest.mark.parametrize("what", ["progress", "receipt"])
def test_a_false_bill_is_cut_off_and_only_delivery_is_paid(
    what: str, change: dict[str, Any], reason: CutoffReason, words: str
) -> None:
    link = joined()
    link.work(worker.Generated(items=(5, 0)))
    if what == "progress":
        bill = replace(worker._progress(link.w, 1), **change)
        link.to_client.append(client.Progressed(progress=bill))
    else:
        link.work(worker.Stopped(finish=Finish.STOP))
        honest = link.to_client.pop()
        assert isinstance(honest, client.Receipted)
        bad = replace(honest.receipt, **change)
        link.to_client.append(client.Receipted(receipt=bad, digest=b"r" * 32))
    while link.to_client:
        link.hear(link.to_client.popleft())
    assert link.c.cut is not None
    assert link.c.cut.reason == reason
    assert words in link.c.failure
    assert link.c.accepted_micro == 10 + 2 * 7


def test_ids_after_the_end_are_not_shown_and_not_owed() -> None:
    link = joined()
    link.hear(link.received(0, (5, 0, 6)))
    assert link.shown == [5, 0]
    assert link.c.cut is not None
    assert link.c.cut.reason == CutoffReason.AFTER_END
    assert link.c.accepted_micro == 10 + 2 * 7


def test_ids_in_a_later_chunk_after_the_end() -> None:
    link = joined()
    link.hear(link.received(0, (5, 0)))
    link.hear(link.received(2, (6,)))
    assert link.shown == [5, 0]
    assert link.c.cut is not None
    assert link.c.cut.reason == CutoffReason.AFTER_END


def test_output_before_the_acceptance() -> None:
    link = Link(the_award=award(), the_terms=terms())
    link.hear(link.received(0, (5,)))
    assert link.c.failure == "output before the acceptance"
    assert link.c.accepted_micro == 0


def test_an_early_end_is_not_taken_for_the_answer() -> None:
    link = joined()
    link.hear(link.received(0, (5,)))
    link.hear(client.Ended(finish=Finish.STOP, position=1))
    assert link.c.failure == "an end before the output was complete"


def test_a_lost_worker_is_paid_for_what_came() -> None:
    link = joined()
    link.hear(link.received(0, (5, 6)))
    link.hear(client.Gone(why="connection lost"))
    assert link.c.accepted_micro == 10 + 2 * 7
    assert link.c.failure == "connection lost"
    assert link.c.phase is client.Phase.DONE
    assert link.c.cut is not None
    assert (link.c.cut.position, link.c.cut.reason) == (2, CutoffReason.LOST)


def test_who_did_not_accept_is_not_waited_for_after_the_cutoff() -> None:
    link = Link(the_award=award(), the_terms=terms())
    link.hear(client.GiveUp(reason=CutoffReason.STALLED, why="no acceptance"))
    assert link.c.phase is client.Phase.DONE
    link.hear(client.Accepted(acceptance=Acceptance(award=DIGEST, accepted_ms=1)))
    assert link.c.failure == "no acceptance"
    assert link.c.accepted_micro == 0


def test_a_refusal_ends_it_unpaid() -> None:
    link = Link(the_award=award(), the_terms=terms())
    refusal = Refusal(
        job=JOB, subject=DIGEST, code=Refused.BUSY, detail="", offer=None, lock_total=0
    )
    link.hear(client.Refused(refusal=refusal))
    assert link.c.refusal is refusal
    assert link.c.accepted_micro == 0


def test_missing_vouchers_end_the_job_with_its_delivery_on_record() -> None:
    link = joined()
    link.work(worker.Generated(items=tuple(range(1, 41))))
    delivered = len(link.sent)
    link.work(worker.Stopped(finish=Finish.UNPAID))
    assert link.receipt is not None
    assert link.receipt.tokens_out == delivered
    assert link.receipt.finish == Finish.UNPAID


def test_an_answer_that_ended_unpaid_is_given_up_like_any_other() -> None:
    """Without it the worker would wait for that payment for ever."""
    link = joined()
    link.work(worker.Generated(items=tuple(range(1, 41))))
    link.work(worker.Stopped(finish=Finish.STOP))  # the engine is done; the client pays nothing
    assert link.w.blocked
    delivered = len(link.sent)
    link.work(worker.Stopped(finish=Finish.UNPAID))
    assert link.receipt is not None
    assert (link.receipt.finish, link.receipt.tokens_out) == (Finish.UNPAID, delivered)
    assert link.engine_stopped


def test_more_than_a_chunk_holds_goes_out_in_several_at_once() -> None:
    link = Link(the_award=award(output_max=20_000, cap=10**9), the_terms=terms(quantum=10**9))
    link.begin()
    ids = tuple(n % 1000 + 1 for n in range(10_000))
    link.work(worker.Generated(items=ids))
    assert tuple(link.sent) == ids
    assert not link.w.held


def test_log_probabilities_travel_with_their_ids_however_these_are_split() -> None:
    told = tuple(TokenLogprob(chosen=-n / 8, top=((n, -1.0),) * 20) for n in range(300))
    records = tuple(logprobs.encode((each,)) for each in told)
    link = Link(the_award=award(output_max=400), the_terms=terms(quantum=400))
    link.begin()
    seen: list[TokenLogprob] = []
    job, effects = worker.step(
        link.w, worker.Generated(items=tuple(range(300)), logprobs=records), 0
    )
    while job.held:
        job, more = worker.step(job, worker.Paid(total_micro=job.earned_micro), 0)
        effects += more
    for effect in effects:
        if isinstance(effect, worker.Emit) and isinstance(effect.frame, Chunk):
            codec.decode_frame(codec.encode_frame(effect.frame)[codec.LENGTH_SIZE :])
            ids = codec.unpack_ids(effect.frame.data)
            seen += logprobs.decode(effect.frame.logprobs, len(ids))
    assert tuple(seen) == told


def test_what_a_cutoff_takes_back_is_disowned_unless_it_was_paid() -> None:
    link = joined()
    link.work(worker.Generated(items=tuple(range(1, 11))))
    start = Cutoff(award=DIGEST, position=0, chain=link.w.award.chain, reason=1)
    cut, _ = worker.step(link.w, worker.CutOff(cutoff=start, chain_here=start.chain), 0)
    assert cut.disowned_micro == 10 + 10 * 7
    assert cut.receipt is not None
    assert (cut.receipt.amount, cut.receipt.first_token_ms) == (0, 0)
    paid, _ = worker.step(link.w, worker.Paid(total_micro=30), 0)
    paid, _ = worker.step(paid, worker.CutOff(cutoff=start, chain_here=start.chain), 0)
    assert paid.disowned_micro == 50


def test_a_cutoff_is_saved_before_what_follows_from_it() -> None:
    link = joined()
    here = link.w.chain
    cutoff = Cutoff(award=DIGEST, position=0, chain=here, reason=1)
    _, effects = worker.step(link.w, worker.CutOff(cutoff=cutoff, chain_here=here), 0)
    assert effects[0] == worker.KeepCutoff()


@pytest.mark.parametrize(
    "cutoff",
    [
        Cutoff(award=DIGEST, position=99, chain=bytes(32), reason=1),
        Cutoff(award=b"o" * 32, position=0, chain=bytes(32), reason=1),
        Cutoff(award=DIGEST, position=0, chain=b"x" * 32, reason=1),
    ],
)
def test_a_cutoff_that_contradicts_the_delivery_is_refused(cutoff: Cutoff) -> None:
    link = joined()
    with pytest.raises(PeerError):
        link.work(worker.CutOff(cutoff=cutoff, chain_here=chain_hash.start(CLIENT, JOB)))


@pytest.mark.parametrize("part", [(5, 10), (0, 0), (0, 101)])
def test_request_data_must_fit_the_award(part: tuple[int, int]) -> None:
    job = worker.start(award(), DIGEST, terms())
    with pytest.raises(PeerError):
        worker.step(job, worker.RequestPart(offset=part[0], size=part[1]), 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 30), st.integers(1, 12)),
        st.tuples(st.sampled_from(["to_client", "to_worker"]), st.just(0), st.just(0)),
        st.tuples(
            st.sampled_from(["cancel", "drain", "lose", "stop", "unpaid"]), st.just(0), st.just(0)
        ),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(
    actions=ACTIONS,
    quantum=st.integers(20, 400),
    cap=st.integers(20, 400),
    tokens_in=st.integers(0, 10),
    output_max=st.integers(1, 40),
)
def test_money_rules_hold_under_any_interleaving(
    actions: list[tuple[str, int, int]], quantum: int, cap: int, tokens_in: int, output_max: int
) -> None:
    link = Link(
        the_award=award(tokens_in=tokens_in, output_max=output_max, cap=cap),
        the_terms=terms(quantum=quantum),
    )
    link.begin()
    for name, value, count in actions:
        if name == "make":
            link.work(worker.Generated(items=(value,) * count))
        elif name == "to_client" and link.to_client:
            link.hear(link.to_client.popleft())
        elif name == "to_worker" and link.to_worker:
            link.work(link.to_worker.popleft())
        elif name == "cancel":
            link.hear(client.GiveUp(reason=CutoffReason.CANCELLED, why=""))
        elif name == "drain":
            link.work(worker.Stopped(finish=Finish.DRAINED))
        elif name == "stop":
            link.work(worker.Stopped(finish=Finish.STOP))
        elif name == "unpaid":
            link.work(worker.Stopped(finish=Finish.UNPAID))
        elif name == "lose":
            link.hear(client.Gone(why="lost"))
            link.to_client.clear()
    link.settle()
    assert link.unpaid_max <= quantum
    assert link.w.earned_micro <= cap
    assert link.c.accepted_micro <= cap
    assert link.c.accepted_micro <= client.cost_at(link.c, len(link.shown))
    assert link.shown == link.sent[: len(link.shown)]
    assert len(link.shown) <= output_max
    if link.c.phase is client.Phase.DONE:
        assert link.c.receipt is not None or link.c.cut is not None, "nothing says where it ended"
    if link.c.receipt is not None:
        assert link.c.receipt.amount == link.c.accepted_micro
    link.work(worker.Stopped(finish=Finish.UNPAID))
    assert link.w.receipt is not None, "a client that does nothing any more holds it open"


def test_digest_is_of_the_award_alone() -> None:
    domain = signing.Domain(31337, bytes(20))
    assert signing.digest(award(), domain) != signing.digest(award(tokens_in=11), domain)
