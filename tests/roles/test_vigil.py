"""When a silent worker is given up: never due without anything to do."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import job_client
from node.protocol.job_client import ClientJob, GiveUp, Phase
from node.protocol.scoring import Figures
from node.roles.deliveries import WORKERS_MAX, Deliveries
from node.roles.vigil import BUSY_TIMES, Vigil
from tests.protocol.sample_job import award_of, terms_of

WORKER = bytes(20)
EXPECTED = Figures(first_token_ms=200, token_us=10_000)


class HandClock:
    """Moved by hand."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_ms(self) -> int:
        return int(1000 * self.now_s)


def streaming(tokens_out: int) -> ClientJob:
    terms = terms_of(0)
    award = award_of(terms, b"")
    job = job_client.start(award, bytes(32), terms)
    return replace(job, phase=Phase.STREAMING, tokens_out=tokens_out)


@given(
    began_s=st.floats(0, 1e6),
    silence_s=st.floats(0.1, 100),
    tokens_out=st.sampled_from([0, 5]),
)
def test_who_has_nobody_else_waits_to_the_limit_and_no_longer(
    began_s: float, silence_s: float, tokens_out: int
) -> None:
    """A limit that rounding put beyond its own time was waited for without end (seed 421)."""
    clock, job = HandClock(began_s), streaming(tokens_out)
    vigil = Vigil(
        clock=clock,
        deliveries=Deliveries(),
        worker=WORKER,
        silence_s=silence_s,
        expected=EXPECTED,
        replaceable=lambda: False,
        prepaid_micro=10**6,
    )
    vigil.stirred()
    for _ in range(10_000):
        due_s = vigil.due_s(job)
        if due_s > clock.now_s:
            clock.now_s = due_s
            continue
        event = vigil.overdue(job, due_s)
        if event is not None:
            break
        assert vigil.due_s(job) > clock.now_s, "due, and nothing to do"
    assert isinstance(event, GiveUp)
    assert clock.now_s - began_s == pytest.approx(due_s - began_s)


def awarded() -> tuple[HandClock, ClientJob, Vigil]:
    """A job whose acceptance is waited for from now on."""
    clock = HandClock(100.0)
    vigil = watching(clock, Deliveries())
    return clock, replace(streaming(0), phase=Phase.AWARDED), vigil


def watching(clock: HandClock, deliveries: Deliveries) -> Vigil:
    """Another worker would go on at any time."""
    vigil = Vigil(
        clock=clock,
        deliveries=deliveries,
        worker=WORKER,
        silence_s=10,
        expected=EXPECTED,
        replaceable=lambda: True,
        prepaid_micro=10**6,
    )
    vigil.stirred()
    return vigil


def test_a_node_that_woke_late_reads_what_came_before_it_gives_up() -> None:
    clock, job, vigil = awarded()
    due_s = vigil.due_s(job)
    clock.now_s = due_s + 3
    assert vigil.overdue(job, due_s) is None
    assert clock.now_s < vigil.due_s(job) < clock.now_s + 1
    clock.now_s = due_s = vigil.due_s(job)
    assert isinstance(vigil.overdue(job, due_s), GiveUp)


def test_a_node_that_is_always_late_gives_up_all_the_same() -> None:
    clock, job, vigil = awarded()
    for _ in range(1000):
        due_s = vigil.due_s(job)
        clock.now_s = due_s + 1
        if (event := vigil.overdue(job, due_s)) is not None:
            break
    assert isinstance(event, GiveUp)
    assert clock.now_s < 112


def given_up_s(*, delivers: Callable[[float], bool], by: bytes = WORKER, tokens_out: int) -> float:
    """After how long a stream that stands still is given up.

    Args:
        delivers: Whether, so many seconds later, some other stream gets a token.
        by: From whom.
        tokens_out: That this one had before.
    """
    clock, job, deliveries = HandClock(100.0), streaming(tokens_out), Deliveries()
    vigil = watching(clock, deliveries)
    if tokens_out:
        clock.now_s += 0.05
        vigil.delivered()
        vigil.stirred()
    began_s = clock.now_s
    for _ in range(1000):
        clock.now_s += 0.05
        if delivers(clock.now_s - began_s):
            deliveries.note(by, clock.now_s)
        due_s = vigil.due_s(job)
        if due_s <= clock.now_s and vigil.overdue(job, due_s) is not None:
            return clock.now_s - began_s
    raise AssertionError("it is waited for without end")


@pytest.mark.parametrize(("tokens_out", "limit_s"), [(0, 2.0), (5, 1.0)])
def test_who_delivers_to_others_has_longer_and_not_for_ever(
    tokens_out: int, limit_s: float
) -> None:
    usual_s = given_up_s(delivers=lambda _: False, tokens_out=tokens_out)
    assert usual_s == pytest.approx(limit_s, abs=0.3)
    busy_s = given_up_s(delivers=lambda _: True, tokens_out=tokens_out)
    assert busy_s == pytest.approx(BUSY_TIMES * limit_s, abs=0.3)
    other_s = given_up_s(delivers=lambda _: True, by=b"b" * 20, tokens_out=tokens_out)
    assert other_s == usual_s


def test_who_delivers_to_nobody_any_more_is_given_up_at_once() -> None:
    """A worker that froze while it was busy: its streams wait no longer than the others did."""
    assert given_up_s(delivers=lambda s: s < 0.2, tokens_out=5) < 1.1
    assert given_up_s(delivers=lambda s: s < 2.0, tokens_out=5) < 3.0


def test_a_wait_that_was_granted_does_not_make_the_next_one_longer() -> None:
    clock, job, deliveries = HandClock(100.0), streaming(5), Deliveries()
    vigil = watching(clock, deliveries)
    for gap_s in (0.1,) * 20 + (2.5,):  # as long as a busy worker may have
        clock.now_s += gap_s
        vigil.delivered()
        vigil.stirred()
    assert vigil.due_s(job) - clock.now_s < 2.5


def test_only_so_many_workers_are_remembered() -> None:
    deliveries = Deliveries()
    for number in range(WORKERS_MAX + 1):
        deliveries.note(number.to_bytes(20, "big"), 1.0)
    assert not deliveries.just_now(bytes(20), 1.0)
    assert deliveries.just_now((1).to_bytes(20, "big"), 1.0)
