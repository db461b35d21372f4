"""When a silent worker is given up: never due without anything to do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import job_client
from node.protocol.job_client import ClientJob, GiveUp, Phase
from node.protocol.scoring import Figures
from node.roles.vigil import Vigil
from tests.protocol.sample_job import award_of, terms_of

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
    vigil = Vigil(
        clock=clock, silence_s=10, expected=EXPECTED, replaceable=lambda: True, prepaid_micro=0
    )
    vigil.stirred()
    return clock, replace(streaming(0), phase=Phase.AWARDED), vigil


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
