"""What happened in a run: one running hash over every event, and the last of them in words."""

import hashlib
from collections import deque
from collections.abc import Callable

KEPT = 60


class Trace:
    """A run's events in their order.  Two runs of a seed have the same digest."""

    def __init__(
        self, now: Callable[[], float], *, echo: Callable[[str], None] | None = None
    ) -> None:
        """
        Args:
            now: Virtual seconds.
            echo: Given every event as a line, as it happens.
        """
        self._now = now
        self._echo = echo
        self._hash = hashlib.sha256()
        self.count = 0
        self.last: deque[tuple[float, str, str, str]] = deque(maxlen=KEPT)

    def note(self, node: str, what: str, detail: str = "", data: bytes = b"") -> None:
        """An event.

        Args:
            node: To whom it happened.
            what: One word or two.
            detail: For people.
            data: Bytes that were sent or saved: part of the hash, not of the words.
        """
        now_s = self._now()
        self.count += 1
        self._hash.update(f"{now_s:.6f} {node} {what} {detail} {len(data)}\n".encode() + data)
        self.last.append((now_s, node, what, detail))
        if self._echo is not None:
            self._echo(line_of(now_s, node, what, detail))

    @property
    def digest(self) -> str:
        """Of all so far."""
        return self._hash.hexdigest()

    def lines(self) -> list[str]:
        """The last events, oldest first."""
        return [line_of(*each) for each in self.last]


def line_of(now_s: float, node: str, what: str, detail: str) -> str:
    """An event for people."""
    return f"{now_s:10.4f}  {node:<8} {what:<12} {detail}".rstrip()
