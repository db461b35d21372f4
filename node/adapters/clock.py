"""The machine's clocks."""

import time

import trio


class SystemClock:
    """`ports.Clock`: wall time of the machine; monotonic time is trio's, as deadlines use it."""

    def __init__(self) -> None:
        self._last_ms = 0

    def unix_ms(self) -> int:
        """Wall clock; stands still where the machine's is set back, so that statements of one
        process are in order.
        """
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        return self._last_ms

    def monotonic_s(self) -> float:
        """Trio's clock."""
        return trio.current_time()
