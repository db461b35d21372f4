"""Cuts one side of a job off at its N-th frame, counted over both directions.

Modes: ``reset`` (the TCP connection ends with a reset), ``kill`` (the process ends by SIGKILL),
``silent`` (the job says nothing any more; the connection stays, and pings are answered).
Frame N is cut off before it leaves (or before it is looked at) where N is even, after it where N is
odd; so N from 0 to twice the frames of a job is every place there is.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, Final

import trio

from node.protocol.frames import Frame
from node.roles.ports import Session
from tests.attack.attackers.hand import reset

MODES: Final = ("reset", "kill", "silent")
LEAVES_S: Final = 0.03
"""A frame that was handed over has left the process by then."""


class Cutter:
    """Counts the frames of one job; one per job."""

    def __init__(
        self,
        session: Session,
        *,
        mode: str,
        at: int,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
            session: To be cut; the real one.
            mode: One of `MODES`.
            at: Twice the number of the frame, plus one to cut after it.
            note: Told which frame it was, just before.
        """
        assert mode in MODES, mode
        self._session: Any = session
        self._mode = mode
        self._at = at
        self._note = note
        self._frames = -1
        self.cut = False

    @property
    def frames(self) -> int:
        """Seen so far."""
        return self._frames + 1

    async def before(self, frame: Frame) -> None:
        """A frame is about to leave."""
        self._frames += 1
        if self._at == 2 * self._frames:
            self._cut(frame)
        await self._hush()

    async def after(self, frame: Frame) -> None:
        """It was handed over."""
        if self._at == 2 * self._frames + 1:
            await trio.sleep(LEAVES_S)
            self._cut(frame)

    async def received(self, frame: Frame) -> None:
        """A frame has come: cut before anybody looks at it, or once it has been taken."""
        self._frames += 1
        if self._at == 2 * self._frames:
            self._cut(frame)
        elif self._at == 2 * self._frames + 1:
            trio.lowlevel.spawn_system_task(self._cut_soon, frame)

    async def _cut_soon(self, frame: Frame) -> None:
        await trio.sleep(LEAVES_S)
        self._cut(frame)

    async def _hush(self) -> None:
        if self.cut and self._mode == "silent":
            await trio.sleep_forever()

    def _cut(self, frame: Frame) -> None:
        if self.cut:
            return
        self.cut = True
        self._note(type(frame).__name__)
        if self._mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._mode == "reset" and self._session.lost is None:
            reset(self._session)
