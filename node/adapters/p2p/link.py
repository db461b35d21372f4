"""One session's bookkeeping without any I/O: which frame goes where, and under whose credit.

A channel's credit is counted in bytes as on the wire, length prefix included, of all its frames
except `Credit` and `ErrorFrame`.  Credit belongs to the channel's id for the life of the session:
a channel that is closed and opened again under the same id goes on with the same account, so that
both sides always agree, whatever was in flight.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum, auto

from node.errors import PeerError
from node.protocol import limits
from node.protocol.codec import LENGTH_SIZE
from node.protocol.frames import (
    NO_JOB,
    OPENERS,
    Credit,
    ErrorFrame,
    Frame,
    channel_of,
)

FRAME_SIZE_MAX = limits.FRAME_BYTES_MAX + LENGTH_SIZE
WINDOW_BYTES_MIN = 2 * FRAME_SIZE_MAX
"""A writer must get its largest frame through while the reader holds back a quarter."""
GRANT_SHARE = 4
CLOSED_CHANNELS_MAX = 1024
STRAY_FRAMES_MAX = 4096
"""Frames of channels that never were, after which the peer is not taken for slow but for broken."""
ERRORS_PER_CHANNEL_MAX = 4


class Route(Enum):
    """Where an accepted frame belongs."""

    SESSION = auto()
    CHANNEL = auto()
    OPENED = auto()
    """A channel that this frame has just opened."""
    REFUSED = auto()
    """An opener that found no room: the peer is told."""
    DROPPED = auto()


@dataclass(slots=True, kw_only=True)
class Lane:
    """A channel's account.  Sizes in bytes."""

    job: bytes
    send_left: int
    """What the peer still takes."""
    receive_left: int
    """What the peer may still send."""
    consumed: int = 0
    """Read here, and not yet credited to the peer."""
    errors: int = 0
    inbox: deque[tuple[Frame, int]] = field(default_factory=deque)


@dataclass(slots=True, kw_only=True)
class Link:
    """Lanes of one session, both directions."""

    window_bytes: int
    """What this side said in its hello."""
    peer_window_bytes: int
    """What the peer said; both at least `WINDOW_BYTES_MIN`, or a channel could stop for ever."""
    lanes: dict[bytes, Lane] = field(default_factory=dict)
    closed: OrderedDict[bytes, Lane] = field(default_factory=OrderedDict)
    credits_due: dict[bytes, Lane] = field(default_factory=dict)
    stray_frames: int = 0
    """Dropped because nobody has their channel open; for counters and for the limit."""
    _strangers: int = 0

    def open(self, job: bytes) -> Lane:
        """Open a channel from this side.

        Returns:
            Its lane; the one that is open already, if there is one.
        """
        assert job != NO_JOB
        return self.lanes.get(job) or self._open(job)

    def close(self, lane: Lane) -> None:
        """Forget a channel; what it had not read counts as read.  Idempotent."""
        if self.lanes.get(lane.job) is not lane:
            return
        del self.lanes[lane.job]
        lane.consumed += sum(size for frame, size in lane.inbox if _under_credit(frame))
        lane.inbox.clear()
        self._retire(lane)

    def debit(self, lane: Lane, frame: Frame, size: int) -> bool:
        """Take credit for a frame about to be sent; False if there is not enough."""
        if not _under_credit(frame):
            return True
        if lane.send_left < size:
            return False
        lane.send_left -= size
        return True

    def consumed(self, lane: Lane, frame: Frame, size: int) -> None:
        """The frame left the lane's inbox (or, as an opener, the session's)."""
        if not _under_credit(frame):
            return
        lane.consumed += size
        # Told in quarters of the window: one credit frame for many small frames.
        if lane.consumed >= self.window_bytes // GRANT_SHARE or lane.job in self.closed:
            self.credits_due[lane.job] = lane

    def credits(self) -> list[Credit]:
        """The credit frames that are due; they count as sent."""
        frames = []
        for lane in self.credits_due.values():
            if lane.consumed:
                frames.append(Credit(job=lane.job, size=lane.consumed))
                lane.receive_left += lane.consumed
                lane.consumed = 0
        self.credits_due.clear()
        return frames

    def accept(self, frame: Frame, size: int) -> Route:
        """Account for a frame that arrived, and say where it belongs.

        A frame for a channel is put into the lane's inbox; `Route.OPENED` leaves the opener to the
        caller.

        Raises:
            PeerError: The peer sent more than it had credit for, or too many stray frames.
        """
        job = channel_of(frame)
        if isinstance(frame, Credit):
            return self._credited(frame)
        if job == NO_JOB:
            if isinstance(frame, OPENERS):
                raise PeerError("a channel without a name")
            return Route.SESSION
        lane = self.lanes.get(job)
        if lane is not None:
            return self._to_lane(lane, frame, size)
        if isinstance(frame, OPENERS):
            return self._opener(frame, size)
        return self._stray(job, frame, size)

    def lane_of(self, frame: Frame) -> Lane:
        """The open lane that a frame of `Route.CHANNEL` or `OPENED` belongs to."""
        return self.lanes[channel_of(frame)]

    def _open(self, job: bytes) -> Lane:
        lane = self.closed.pop(job, None) or Lane(
            job=job, send_left=self.peer_window_bytes, receive_left=self.window_bytes
        )
        lane.errors = 0
        self._strangers //= 2
        self.lanes[job] = lane
        return lane

    def _retire(self, lane: Lane) -> None:
        self.closed[lane.job] = lane
        if lane.consumed:
            self.credits_due[lane.job] = lane
        while len(self.closed) > CLOSED_CHANNELS_MAX:
            self.closed.popitem(last=False)

    def _credited(self, credit: Credit) -> Route:
        lane = self.lanes.get(credit.job) or self.closed.get(credit.job)
        if lane is None:
            return self._strange()
        lane.send_left += credit.size
        if lane.send_left > self.peer_window_bytes:
            raise PeerError("credit for more than was sent")
        return Route.CHANNEL if credit.job in self.lanes else Route.DROPPED

    def _to_lane(self, lane: Lane, frame: Frame, size: int) -> Route:
        if isinstance(frame, ErrorFrame):
            lane.errors += 1
            if lane.errors > ERRORS_PER_CHANNEL_MAX:
                return self._strange()
        else:
            self._charge(lane, size)
        lane.inbox.append((frame, size))
        return Route.CHANNEL

    def _opener(self, frame: Frame, size: int) -> Route:
        full = len(self.lanes) >= limits.JOBS_PER_SESSION_MAX
        lane = self._open(channel_of(frame))
        self._charge(lane, size)
        if full:
            # Its account is kept: frames that follow the opener are still credited.
            lane.consumed += size
            del self.lanes[lane.job]
            self._retire(lane)
            return Route.REFUSED
        return Route.OPENED

    def _stray(self, job: bytes, frame: Frame, size: int) -> Route:
        lane = self.closed.get(job)
        if lane is None:
            return self._strange()
        self.stray_frames += 1
        if not isinstance(frame, ErrorFrame):
            self._charge(lane, size)
            self.consumed(lane, frame, size)
        return Route.DROPPED

    def _strange(self) -> Route:
        self.stray_frames += 1
        self._strangers += 1
        if self._strangers > STRAY_FRAMES_MAX:
            raise PeerError("too many frames of unknown channels")
        return Route.DROPPED

    def _charge(self, lane: Lane, size: int) -> None:
        if lane.receive_left < size:
            raise PeerError("sent more on a channel than it had credit for")
        lane.receive_left -= size


def _under_credit(frame: Frame) -> bool:
    return not isinstance(frame, Credit | ErrorFrame)
