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
        session, link = self._session, self._session.link
        payload = codec.encode_frame(frame)
        async with self._order:
            while True:
                await session.room()
                if self._closed:
                    raise SessionLost("the channel is closed")
                if link.debit(self._lane, frame, len(payload)):
                    break
                self._credited = trio.Event()
                await self._credited.wait()
            session.queue(payload)

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
