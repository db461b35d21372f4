"""The session of a pair of peers: one stream, one reader, one writer, and the channels on it."""

from collections import deque
from collections.abc import Callable

import trio

from node.adapters.p2p.budget import UNITS_BURST, UNITS_PER_S, Bucket, cost
from node.adapters.p2p.channel import StreamChannel
from node.adapters.p2p.framing import FrameReader, WireStream, printable
from node.adapters.p2p.link import Lane, Link, Route
from node.errors import PeerError, SessionLost, Unavailable
from node.protocol import codec, limits
from node.protocol.fields import Address
from node.protocol.frames import (
    NO_JOB,
    ErrorFrame,
    Fault,
    Frame,
    Hello,
    Ping,
    Pong,
    channel_of,
)
from node.roles.ports import Inbound

WRITE_BYTES_MAX = 16 * 1024
"""Larger writes have been lost on peers whose TCP delivers small segments."""
GATHER_BYTES_MAX = 64 * 1024
OUTBOX_BYTES_MAX = 256 * 1024
INBOX_BYTES_MAX = 512 * 1024
CLOSE_S = 1.0
STALL_S = 30.0
LEAD = 0.75
IDLE_AFTER_S = 30.0
"""So long after the last frame of a job, or the start, a session is kept alive at its ease."""
GRACE_S = 0.2
"""Before a peer is given up: time to read what arrived while this process was busy itself."""


class StreamSession:
    """Implements `ports.Session` over a stream on which both hellos have been said."""

    def __init__(
        self,
        stream: WireStream,
        reader: FrameReader,
        *,
        peer: Address,
        peer_id: str,
        ours: Hello,
        hello: Hello,
        leads: bool,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        """
        Args:
            leads: Of the two sides one; it pings first.
            reader: What has read the peer's hello from `stream`, with what it read besides.
            now: Monotonic seconds, for `Inbound.arrived_s`.
        """
        self.link = Link(window_bytes=ours.job_window, peer_window_bytes=hello.job_window)
        self.peer_id = peer_id
        self.peer = peer
        self.hello = hello
        self.lost: str | None = None
        self._stream, self._reader, self._now, self._leads = stream, reader, now, leads
        self._channels: dict[bytes, StreamChannel] = {}
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._outbox_ready, self._outbox_room = trio.Event(), trio.Event()
        self._inbox: deque[tuple[Inbound, int]] = deque()
        self._inbox_bytes = 0
        self._inbox_ready, self._inbox_room = trio.Event(), trio.Event()
        self._ping_due: Ping | None = None
        self._pong_due: Ping | None = None
        self._ping_nonce = 0
        self._pong_came = trio.Event()
        self._heard_s = self._used_s = trio.current_time()
        self._stalled = False
        self._abort = False
        self._fault: Fault | None = None
        self._ended, self._gone = trio.Event(), trio.Event()
        self._written, self._all_read = trio.Event(), trio.Event()
        self._bucket = Bucket(
            units_per_s=UNITS_PER_S, units_max=UNITS_BURST, at_s=self._heard_s, units=UNITS_BURST
        )

    # What roles call (ports.Session).

    async def send(self, frame: Frame) -> None:
        """Queue a frame that belongs to no channel; waits while the queue is full.

        Raises:
            SessionLost: The session ended.
        """
        payload = codec.encode_frame(frame)
        await self.room()
        self.queue(payload)

    async def receive(self) -> Inbound:
        """The next frame that belongs to no open channel; one reader per session.

        Raises:
            SessionLost: The session ended, and every frame that came before has been read.
        """
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            self.check()
            self._inbox_ready = trio.Event()
            await self._inbox_ready.wait()
        inbound, size = self._inbox.popleft()
        self._inbox_bytes -= size
        self._inbox_room.set()
        if isinstance(inbound.channel, StreamChannel):
            self.consumed(inbound.channel._lane, inbound.frame, size)
        return inbound

    def open_channel(self, job: bytes) -> StreamChannel:
        """The channel of an opener that this side is about to send on it.

        Raises:
            SessionLost: The session ended.
            Unavailable: As many jobs as the protocol allows are open.
        """
        self.check()
        if len(self.link.lanes) >= limits.JOBS_PER_SESSION_MAX:
            raise Unavailable("too many jobs are open with this peer")
        assert job not in self._channels, "the channel is open already"
        return self._channel(self.link.open(job))

    async def wait_lost(self) -> str:
        """Return the reason once the session has ended."""
        await self._ended.wait()
        assert self.lost is not None
        return self.lost

    async def wait_gone(self) -> None:
        """Return once `run` has ended: the stream is closed or cut."""
        await self._gone.wait()

    def close(self, reason: str) -> None:
        """End the session; what is queued is still sent, within `CLOSE_S`."""
        self.end(reason, Fault.SHUTDOWN)

    # What channels call.

    def check(self) -> None:
        """Raises SessionLost if the session has ended."""
        if self.lost is not None:
            raise SessionLost(self.lost)

    async def room(self) -> None:
        """Wait while the outbox is full; a checkpoint.

        Raises:
            SessionLost: The session ended.
        """
        await trio.lowlevel.checkpoint()
        self.check()
        while self.full:
            if self._outbox_room.is_set():  # else others wait on it too
                self._outbox_room = trio.Event()
            await self._outbox_room.wait()
            self.check()

    @property
    def full(self) -> bool:
        """As much is queued as may be."""
        return self._outbox_bytes >= OUTBOX_BYTES_MAX

    def queue(self, payload: bytes) -> None:
        """Add an encoded frame to what goes out in this turn of the loop."""
        self._outbox.append(payload)
        self._outbox_bytes += len(payload)
        self._outbox_ready.set()

    def consumed(self, lane: Lane, frame: Frame, size: int) -> None:
        """A frame has left an inbox: its bytes go back to the peer, in time."""
        self.link.consumed(lane, frame, size)
        if self.link.credits_due:
            self._outbox_ready.set()

    def close_channel(self, lane: Lane) -> None:
        """Forget a channel."""
        self._used_s = trio.current_time()
        self._channels.pop(lane.job, None)
        self.link.close(lane)
        if self.link.credits_due:
            self._outbox_ready.set()

    def _channel(self, lane: Lane) -> StreamChannel:
        channel = self._channels[lane.job] = StreamChannel(self, lane)
        return channel

    # What the transport calls.

    def end(self, reason: str, fault: Fault | None, *, abort: bool = False) -> None:
        """Mark the session as lost.  Idempotent.

        Args:
            reason: For whoever uses the session.
            fault: Said to the peer, with the reason, unless None.
            abort: Don't try to say anything: the peer takes no bytes any more.
        """
        if self.lost is not None:
            return
        self.lost = reason
        self._abort, self._fault = abort, fault
        if fault is not None:
            detail = reason.encode()[:200].decode(errors="ignore")
            self.queue(codec.encode_frame(ErrorFrame(job=NO_JOB, code=fault, detail=detail)))
        for channel in self._channels.values():
            channel.wake()
        for event in (self._inbox_ready, self._inbox_room, self._outbox_room, self._outbox_ready):
            event.set()
        self._ended.set()

    def replace(self, old: "StreamSession") -> None:
        """End an older session of the same peer, which has lost or left its side of it."""
        shared = self._stream.shares_connection(old._stream)
        old.end("replaced by a newer session of the same peer", None, abort=not shared)

    async def run(self) -> None:
        """Read, write and ping until the session ends; then send what is queued, and close.

        Takes at most `CLOSE_S` once the session has ended.  The stream is gone afterwards; the
        connection too, if the peer took nothing any more.
        """
        try:
            async with trio.open_nursery() as nursery:
                for task in (self._read, self._ping, self._write):
                    nursery.start_soon(task)
                await self._ended.wait()
                await self._part()
                nursery.cancel_scope.cancel()
        finally:
            self.end("this node is shutting down", None)
            await self._stream.discard()
            self._gone.set()

    async def _part(self) -> None:
        with trio.move_on_after(0 if self._abort else CLOSE_S):
            await self._written.wait()
            # Our goodbye survives only if the peer reads it before the connection goes.
            await self._all_read.wait()
        if self._abort or not self._written.is_set() or self._fault is Fault.PROTOCOL:
            self._stream.abort()

    async def _read(self) -> None:
        try:
            while True:
                for frame, size in await self._reader.frames():
                    if self.lost is None:
                        await self._take(frame, size)
        except PeerError as error:
            self.end(str(error), Fault.PROTOCOL)
        except SessionLost as error:
            self.end(str(error), None)
        self._all_read.set()

    async def _take(self, frame: Frame, size: int) -> None:
        self._heard_s = trio.current_time()
        wait_s = self._bucket.take(cost(frame, size), self._heard_s)
        if wait_s > 0:
            await trio.sleep(wait_s)
        match frame:
            case Ping():
                # Only the last one is answered: pongs can't pile up.
                self._pong_due = frame
                self._outbox_ready.set()
            case Pong():
                if frame.nonce == self._ping_nonce:
                    self._pong_came.set()
            case Hello():
                raise PeerError("a second hello")
            case ErrorFrame(job=job) if job == NO_JOB:
                said = printable(frame.detail) or f"fault {frame.code}"
                self.end(f"the peer closed the session: {said}", None)
            case _:
                await self._route(frame, size)

    async def _route(self, frame: Frame, size: int) -> None:
        match self.link.accept(frame, size):
            case Route.CHANNEL:
                channel = self._channels.get(channel_of(frame))
                if channel is not None:
                    channel.wake()
            case Route.OPENED:
                await self._deliver(frame, self._channel(self.link.lane_of(frame)), size)
            case Route.SESSION:
                await self._deliver(frame, None, size)
            case Route.REFUSED:
                self._refuse(channel_of(frame))
            case Route.DROPPED:
                pass
        if self.link.credits_due:
            self._outbox_ready.set()

    async def _deliver(self, frame: Frame, channel: StreamChannel | None, size: int) -> None:
        arrived_s = self._now()
        # A dispatcher that is behind slows its peer down; nothing is dropped, nothing piles up.
        with trio.move_on_after(STALL_S) as patience:
            while self._inbox_bytes >= INBOX_BYTES_MAX and self.lost is None:
                self._stalled = True
                self._inbox_room = trio.Event()
                await self._inbox_room.wait()
        if patience.cancelled_caught:
            # Two sides that each wait for the other to read would wait for ever.
            self.end("this node fell behind", Fault.INTERNAL)
        self._stalled = False
        self._inbox.append((Inbound(frame=frame, channel=channel, arrived_s=arrived_s), size))
        self._inbox_bytes += size
        self._inbox_ready.set()

    def _refuse(self, job: bytes) -> None:
        if self._outbox_bytes < OUTBOX_BYTES_MAX:
            frame = ErrorFrame(job=job, code=Fault.LIMIT, detail="too many jobs are open")
            self.queue(codec.encode_frame(frame))

    async def _write(self) -> None:
        try:
            ending = False
            while not ending:
                # Woken in the turn after: what every task of a turn has to say is one write.
                await self._outbox_ready.wait()
                self._outbox_ready = trio.Event()
                ending = self.lost is not None
                while data := self._gather():
                    for start in range(0, len(data), WRITE_BYTES_MAX):
                        await self._stream.write(data[start : start + WRITE_BYTES_MAX])
            if not self._abort:
                await self._stream.close()
        except SessionLost as error:
            self.end(str(error), None)
        self._written.set()

    def _gather(self) -> bytes:
        """The next bytes to write: what keeps the session alive first, then frames in order."""
        if self._abort:
            return b""
        frames: list[bytes] = []
        if self._ping_due is not None:
            frames.append(codec.encode_frame(self._ping_due))
        if self._pong_due is not None:
            frames.append(codec.encode_frame(Pong(nonce=self._pong_due.nonce)))
        self._ping_due = self._pong_due = None
        frames.extend(codec.encode_frame(credit) for credit in self.link.credits())
        taken = 0
        while self._outbox and taken < GATHER_BYTES_MAX:
            payload = self._outbox.popleft()
            taken += len(payload)
            frames.append(payload)
        self._outbox_bytes -= taken
        if taken:
            self._outbox_room.set()
        return b"".join(frames)

    async def _ping(self) -> None:
        """A peer that speaks is alive: only silence is pinged, as a rule by the side that leads."""
        while True:
            if (left_s := self._heard_s + self._quiet_s() - trio.current_time()) > 0:
                # A job may begin meanwhile, and with it the peer is asked sooner.
                await trio.sleep(min(left_s, limits.PING_EVERY_S))
                continue
            self._ping_nonce += 1
            self._ping_due = Ping(nonce=self._ping_nonce)
            self._pong_came = trio.Event()
            self._outbox_ready.set()
            await self._await_pong(trio.current_time())

    def _quiet_s(self) -> float:
        """How long the peer may be silent before it is asked for a sign of life."""
        idle = not self._channels and trio.current_time() - self._used_s > IDLE_AFTER_S
        every_s = limits.PING_IDLE_EVERY_S if idle else limits.PING_EVERY_S
        return every_s * (LEAD if self._leads else 1)

    async def _await_pong(self, sent_s: float) -> None:
        while not self._pong_came.is_set():
            left_s = max(sent_s, self._heard_s) + limits.PONG_WITHIN_S - trio.current_time()
            if self._stalled or left_s > 0:
                with trio.move_on_after(max(left_s, GRACE_S)):
                    await self._pong_came.wait()
                continue
            heard_s = self._heard_s
            await trio.sleep(GRACE_S)
            if self._heard_s == heard_s:
                self.end("the peer stopped answering", None, abort=True)
                return
