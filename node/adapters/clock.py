"""The machine's clocks."""

import time

import trio


class SystemClock:
    """`ports.Clock`: wall time of the machine; monotonic time is trio's, as deadlines use it."""

    def unix_ms(self) -> int:
        """Wall clock."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Trio's clock."""
        return trio.current_time()
