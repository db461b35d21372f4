"""The bookkeeping of a session, two sides joined by queues: no I/O, any interleaving."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.adapters.p2p.link import (
    CLOSED_CHANNELS_MAX,
    ERRORS_PER_CHANNEL_MAX,
    STRAY_FRAMES_MAX,
    WINDOW_BYTES_MIN,
    Lane,
    Link,
    Route,
)
from node.errors import PeerError
from node.protocol import limits
from node.protocol.frames import NO_JOB, Credit, ErrorFrame, FileWanted, Frame, Ping, Refusal
from tests.adapters.p2p.peers import chunk, wanted

JOB = b"j" * 16
WINDOW = WINDOW_BYTES_MIN


def link() -> Link:
    return Link(window_bytes=WINDOW, peer_window_bytes=WINDOW)


def job_id(index: int) -> bytes:
    return index.to_bytes(16, "big")


def refusal(job: bytes) -> Refusal:
    return Refusal(job=job, subject=bytes(32), code=1, detail="", offer=None, lock_total=0)


def test_routes() -> None:
    here = link()
    assert here.accept(Ping(nonce=1), 10) is Route.SESSION
    assert here.accept(refusal(NO_JOB), 60) is Route.SESSION
    assert here.accept(chunk(JOB, 0), 60) is Route.DROPPED
    assert here.accept(wanted(JOB), 60) is Route.OPENED
    assert here.accept(chunk(JOB, 0), 60) is Route.CHANNEL
    assert here.accept(refusal(JOB), 60) is Route.CHANNEL
    assert [frame for frame, _ in here.lane_of(chunk(JOB, 0)).inbox] == [
        chunk(JOB, 0),
        refusal(JOB),
    ]
    assert here.stray_frames == 1


def test_an_opener_needs_a_name() -> None:
    with pytest.raises(PeerError, match="without a name"):
        link().accept(FileWanted(job=NO_JOB, sha256=bytes(32)), 60)


def test_overrun() -> None:
    here = link()
    here.open(JOB)
    assert here.accept(chunk(JOB, 0), WINDOW) is Route.CHANNEL
    with pytest.raises(PeerError, match="credit"):
        here.accept(chunk(JOB, 1), 1)


def test_credit_comes_back_in_quarters() -> None:
    here = link()
    lane = here.open(JOB)
    here.accept(chunk(JOB, 0), WINDOW // 4 - 1)
    here.accept(chunk(JOB, 1), 1)
    here.consumed(lane, *lane.inbox.popleft())
    assert here.credits() == []
    here.consumed(lane, *lane.inbox.popleft())
    assert here.credits() == [Credit(job=JOB, size=WINDOW // 4)]
    assert here.credits() == []


def test_sending_stops_without_credit_and_goes_on_with_it() -> None:
    here = link()
    lane = here.open(JOB)
    assert here.debit(lane, chunk(JOB, 0), WINDOW)
    assert not here.debit(lane, chunk(JOB, 1), 1)
    assert here.debit(lane, ErrorFrame(job=JOB, code=1, detail=""), 30)
    here.accept(Credit(job=JOB, size=1), 20)
    assert here.debit(lane, chunk(JOB, 1), 1)
    with pytest.raises(PeerError, match="more than was sent"):
        here.accept(Credit(job=JOB, size=WINDOW + 1), 20)


def test_closing_gives_back_what_was_not_read() -> None:
    here = link()
    lane = here.open(JOB)
    here.accept(chunk(JOB, 0), 100)
    here.close(lane)
    here.accept(chunk(JOB, 1), 50)
    assert here.stray_frames == 1
    assert here.credits() == [Credit(job=JOB, size=150)]
    assert here.open(JOB).receive_left == WINDOW


def test_too_many_jobs() -> None:
    here = link()
    for index in range(1, limits.JOBS_PER_SESSION_MAX + 1):
        assert here.accept(wanted(job_id(index)), 60) is Route.OPENED
    late = job_id(5000)
    assert here.accept(wanted(late), 60) is Route.REFUSED
    assert here.accept(chunk(late, 0), 40) is Route.DROPPED
    assert here.credits() == [Credit(job=late, size=100)]
    assert len(here.lanes) == limits.JOBS_PER_SESSION_MAX


def test_unknown_channels_are_bounded() -> None:
    here = link()
    for index in range(STRAY_FRAMES_MAX):
        here.accept(chunk(job_id(index + 1), 0), 60)
    with pytest.raises(PeerError, match="unknown channels"):
        here.accept(Credit(job=JOB, size=1), 20)


def test_errors_of_a_channel_are_bounded() -> None:
    here = link()
    lane = here.open(JOB)
    for _ in range(ERRORS_PER_CHANNEL_MAX + 3):
        here.accept(ErrorFrame(job=JOB, code=1, detail=""), 30)
    assert len(lane.inbox) == ERRORS_PER_CHANNEL_MAX


def test_closed_accounts_are_bounded() -> None:
    here = link()
    for index in range(CLOSED_CHANNELS_MAX + 10):
        here.close(here.open(job_id(index + 1)))
    assert len(here.closed) == CLOSED_CHANNELS_MAX


@dataclass
class End:
    """One side, and the frames on their way to it."""

    link: Link = field(default_factory=link)
    arriving: deque[tuple[Frame, int]] = field(default_factory=deque)
    unread_openers: deque[tuple[Lane, Frame, int]] = field(default_factory=deque)
    sent: dict[bytes, int] = field(default_factory=dict)


class TwoEnds(RuleBasedStateMachine):
    """Whatever two honest sides do, neither takes the other for a cheat, and credit is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = (End(), End())

    sides = st.integers(0, 1)
    jobs = st.integers(1, 3).map(job_id)

    @rule(side=sides, job=jobs)
    def open_from_here(self, side: int, job: bytes) -> None:
        here = self.ends[side]
        if job not in here.link.lanes:
            self._send(side, here.link.open(job), wanted(job), 60)

    @rule(side=sides, job=jobs, size=st.integers(30, WINDOW // 2))
    def send(self, side: int, job: bytes, size: int) -> None:
        lane = self.ends[side].link.lanes.get(job)
        if lane is not None:
            self._send(side, lane, chunk(job, 0), size)

    def _send(self, side: int, lane: Lane, frame: Frame, size: int) -> None:
        if self.ends[side].link.debit(lane, frame, size):
            self.ends[1 - side].arriving.append((frame, size))

    @rule(side=sides, count=st.integers(1, 5))
    def arrive(self, side: int, count: int) -> None:
        here = self.ends[side]
        for _ in range(min(count, len(here.arriving))):
            frame, size = here.arriving.popleft()
            if here.link.accept(frame, size) is Route.OPENED:
                here.unread_openers.append((here.link.lane_of(frame), frame, size))

    @rule(side=sides, job=jobs)
    def read(self, side: int, job: bytes) -> None:
        here = self.ends[side]
        if here.unread_openers:
            here.link.consumed(*here.unread_openers.popleft())
        lane = here.link.lanes.get(job)
        if lane is not None and lane.inbox:
            here.link.consumed(lane, *lane.inbox.popleft())

    @rule(side=sides)
    def write_credits(self, side: int) -> None:
        for credit in self.ends[side].link.credits():
            self.ends[1 - side].arriving.append((credit, 25))

    @rule(side=sides, job=jobs)
    def close(self, side: int, job: bytes) -> None:
        lane = self.ends[side].link.lanes.get(job)
        if lane is not None:
            self.ends[side].link.close(lane)

    @precondition(lambda self: any(end.arriving for end in self.ends))
    @rule()
    def settle(self) -> None:
        """After everything is delivered, read and credited, both sides have full windows."""
        for _ in range(6):
            for side, here in enumerate(self.ends):
                self.arrive(side, len(here.arriving))
                while here.unread_openers:
                    here.link.consumed(*here.unread_openers.popleft())
                for lane in list(here.link.lanes.values()):
                    here.link.close(lane)
                self.write_credits(side)
        for here in self.ends:
            for lane in here.link.closed.values():
                assert (lane.send_left, lane.receive_left) == (WINDOW, WINDOW)

    @invariant()
    def nobody_is_owed_more_than_a_window(self) -> None:
        for here in self.ends:
            for lane in (*here.link.lanes.values(), *here.link.closed.values()):
                assert 0 <= lane.send_left <= WINDOW
                assert 0 <= lane.receive_left <= WINDOW
                assert sum(size for _, size in lane.inbox) <= WINDOW


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
