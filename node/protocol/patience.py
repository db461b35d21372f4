"""How long a worker may be silent before another one does the job: pure arithmetic.

A stream is judged by its own gaps, the times between its chunks: by their mean and deviation, both
moving averages, and by the longest of late.  Until there are enough of them, what was promised or
measured before stands in.

    gap limit      = max(mean + 6 × deviation, 3 × longest)       at least 0.75 s
    while new      = max(that, 10 × expected time of a token, 2 × wait for the first)
                                                                  at least 1 s
    first token    = 4 × expected                                 at least 2 s
    acceptance     = expected first token                         0.4 s to 2 s

All of them only say when another worker *may* be preferred: who has no other waits longer.
"""

import math
from dataclasses import dataclass
from typing import Final

GAP_WEIGHT: Final = 1 / 16
"""Of each new gap in the averages, once there are as many."""
DEVIATIONS: Final = 6
LONGEST_TIMES: Final = 3
LONGEST_FADES: Final = 0.98
"""With each gap: what happened a hundred gaps ago hardly counts."""
GAP_S_MIN: Final = 0.75
"""A machine that is busy with something else is often as late as half of this."""
NEW_GAPS: Final = 8
NEW_S: Final = 0.25
"""So many gaps, and so long a stream, before it is judged by itself alone: a first burst of chunks
says nothing of the pause after it."""
NEW_S_MIN: Final = 1.0
NEW_TIMES: Final = 10
NEW_FIRST_TIMES: Final = 2
"""Who was slow to begin may be slow to go on."""
FIRST_S_MIN: Final = 2.0
FIRST_TIMES: Final = 4
ACCEPTANCE_S: Final = (0.4, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What is known of a stream from the times between its chunks."""

    first_s: float = 0.0
    """From acceptance to the first chunk."""
    count: int = 0
    total_s: float = 0.0
    mean_s: float = 0.0
    variance_s2: float = 0.0
    longest_s: float = 0.0
    """Fading with every gap."""

    def after(self, gap_s: float) -> "Gaps":
        """With one more gap."""
        weight = max(GAP_WEIGHT, 1 / (self.count + 1))
        off_s = gap_s - self.mean_s
        return Gaps(
            first_s=self.first_s,
            count=self.count + 1,
            total_s=self.total_s + gap_s,
            mean_s=self.mean_s + weight * off_s,
            variance_s2=(1 - weight) * (self.variance_s2 + weight * off_s**2),
            longest_s=max(gap_s, self.longest_s * LONGEST_FADES),
        )

    def limit_s(self, expected_s: float) -> float:
        """From which gap on the stream has stalled.

        Args:
            expected_s: Time of a token, as it was promised or measured before.
        """
        usual_s = self.mean_s + DEVIATIONS * math.sqrt(self.variance_s2)
        limit_s = max(usual_s, LONGEST_TIMES * self.longest_s, GAP_S_MIN)
        if self.count >= NEW_GAPS and self.total_s >= NEW_S:
            return limit_s
        first_s = NEW_FIRST_TIMES * self.first_s
        return max(limit_s, NEW_TIMES * expected_s, first_s, NEW_S_MIN)


def first_token_limit_s(expected_s: float) -> float:
    """How late a first token may be, from the acceptance.

    Args:
        expected_s: From award to first token, as it was promised and measured.
    """
    return max(FIRST_TIMES * expected_s, FIRST_S_MIN)


def acceptance_limit_s(expected_s: float) -> float:
    """From when on an acceptance is late: the worker usually has the first token out by then.

    Args:
        expected_s: From award to first token, as it was promised and measured.
    """
    least_s, most_s = ACCEPTANCE_S
    return min(max(expected_s, least_s), most_s)
