"""How loud the topics of models are: news that gossip brought of each, lately."""

from collections import deque

from node.protocol.fields import Hash
from node.roles.ports import Clock

HEARD_WINDOW_S = 600.0
HEARD_MAX = 1024


class Loudness:
    """Announcements per model, in the last ten minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[Hash, deque[float]] = {}

    def note(self, model: Hash) -> None:
        """Gossip brought news of it."""
        times = self._heard.setdefault(model, deque(maxlen=HEARD_MAX))
        times.append(self._clock.monotonic_s())

    def forget(self, model: Hash) -> None:
        """It is not followed any more."""
        self._heard.pop(model, None)

    def per_s(self, model: Hash) -> float:
        """Announcements per second: 0 while too few came to tell."""
        times = self._heard.get(model)
        if not times:
            return 0.0
        now_s = self._clock.monotonic_s()
        while times and times[0] < now_s - HEARD_WINDOW_S:
            times.popleft()
        return len(times) / HEARD_WINDOW_S
