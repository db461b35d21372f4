"""A job's channel on a session: waiting for credit, and for frames."""

from typing import TYPE_CHECKING

import trio

from node.adapters.p2p.link import Lane
from node.errors import SessionLost
from node.protocol import codec
from node.protocol.frames import Frame
from node.roles.ports import Channel

if TYPE_CHECKING:
    from node.adapters.p2p.session import StreamSession


class StreamChannel(Channel):
    """A job's lane, with waiting."""

    def __init__(self, session: "StreamSession", lane: Lane) -> None:
        self._session = session
        self._lane = lane
        self._order = trio.StrictFIFOLock()
        self._credited = trio.Event()
        self._arrived = trio.Event()
        self._closed = False

    @property
    def job(self) -> bytes:
        """The 16 bytes that name this channel in every frame."""
        return self._lane.job

    async def send(self, frame: Frame) -> None:
        """Queue a frame; waits while the peer has granted no credit.

        Raises:
            SessionLost: The session ended; the message says why.
        """
        payload = codec.encode_frame(frame)
        # Mostly nobody waits: then the frame joins what goes out in this turn of the loop, not two
        # turns later, and whoever sends yields once.
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._order.locked() and self._queued(frame, payload):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        async with self._order:
            while not self._queued(frame, payload):
                if self._session.full:
                    await self._session.room()
                else:
                    self._credited = trio.Event()
                    await self._credited.wait()

    def _queued(self, frame: Frame, payload: bytes) -> bool:
        """Queue a frame, if there is room and credit for it."""
        session = self._session
        session.check()
        if self._closed:
            raise SessionLost("the channel is closed")
        if session.full or not session.link.debit(self._lane, frame, len(payload)):
            return False
        session.queue(payload)
        return True

    async def receive(self) -> Frame:
        """The next frame of this channel, in order; consuming it grants the peer credit.

        Raises:
            SessionLost: The session ended, and every frame that came before has been read.
        """
        await trio.lowlevel.checkpoint()
        while not self._lane.inbox:
            self._session.check()
            if self._closed:
                raise SessionLost("the channel is closed")
            self._arrived = trio.Event()
            await self._arrived.wait()
        frame, size = self._lane.inbox.popleft()
        self._session.consumed(self._lane, frame, size)
        return frame

    def close(self) -> None:
        """Forget the channel; later frames for it are dropped and counted."""
        if not self._closed:
            self._closed = True
            self._session.close_channel(self._lane)
            self.wake()

    def wake(self) -> None:
        """Something changed: credit, a frame, or the end."""
        self._credited.set()
        self._arrived.set()
