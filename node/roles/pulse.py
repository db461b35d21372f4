"""Something changed: wakes every task that waits for it."""

import trio


class Pulse:
    """Like an event that is set and cleared at once; a waiter sees what follows its call."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake all that wait now."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._event.wait()

    async def wait_at_most(self, timeout_s: float) -> bool:
        """Whether it rang within the time."""
        with trio.move_on_after(timeout_s):
            await self.wait()
            return True
        return False
