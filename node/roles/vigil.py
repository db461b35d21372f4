"""How long a worker's next frame is waited for: `protocol.patience`, with what this side knows.

Silence counts against the worker only as far as it is the worker's: not while its output waits for
our vouchers, and not where this node itself woke up late.  A worker that delivers to other jobs of
this node meanwhile is busy, and has longer.
"""

import math
from collections.abc import Callable
from typing import Final

from node.protocol import job_client
from node.protocol.fields import Address
from node.protocol.job_client import ClientJob, Phase
from node.protocol.patience import Gaps, first_token_limit_s
from node.protocol.scoring import Figures
from node.protocol.statements import CutoffReason
from node.roles.deliveries import Deliveries
from node.roles.ports import Clock
from node.units import MS_PER_S, US_PER_S

ACCEPTANCE_S = 5.0
RECEIPT_S = 5.0
"""How long the receipt may take after the end, or after a cutoff."""
FIRST_TOKEN_S_MAX = 60.0
"""Promises of a first token later than this are not waited for."""
LATE_S = 0.05
"""This node woke up so much later than it should have: what arrived meanwhile is read first."""
LOOK_AGAIN_S = 0.2
"""A worker that nobody could replace just now, or that may not have stalled, is looked at again."""
PAID_S = 2.0
"""A stream that stood still for a voucher has this long to go on once the voucher left."""
BUSY_TIMES: Final = 4
"""Times its usual limit that a worker has while it delivers to others."""


class Vigil:
    """Watches over one segment."""

    def __init__(
        self,
        *,
        clock: Clock,
        deliveries: Deliveries,
        worker: Address,
        silence_s: float,
        expected: Figures,
        replaceable: Callable[[], bool],
        prepaid_micro: int,
    ) -> None:
        """
        Args:
            clock: Monotonic.
            deliveries: Of all workers, to all jobs of this node.
            worker: Who is watched.
            silence_s: No token for this long ends the segment, whatever else holds.
            expected: How fast the worker should be, as promised and measured.
            replaceable: Whether another worker is at hand that would go on.
            prepaid_micro: Paid with the award.
        """
        self._clock = clock
        self._deliveries = deliveries
        self._worker = worker
        self._silence_s = silence_s
        self._expected = expected
        self._replaceable = replaceable
        self._gaps = Gaps()
        self._stirred_s = clock.monotonic_s()
        self._excused_s = 0.0
        """Until then silence has another reason than the worker."""
        self._vouchered_micro = prepaid_micro
        """Covered by vouchers that have left, or nearly all of it."""
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None

    def stirred(self) -> None:
        """Something came that counts, or is to be waited for anew."""
        self._stirred_s = self._clock.monotonic_s()

    def delivered(self) -> None:
        """Output was accepted."""
        now_s = self._clock.monotonic_s()
        if self.last_token_s is None:
            self.first_token_s = now_s
            self._gaps = Gaps(first_s=now_s - self._stirred_s)
        else:
            # A wait that was granted for another reason does not make the next one longer.
            gap_s = min(now_s - self.last_token_s, self._gap_limit_s())
            self._gaps = self._gaps.after(gap_s)
        self.last_token_s = now_s
        self._deliveries.note(self._worker, now_s)

    def vouchered(self, job: ClientJob, amount_micro: int) -> bool:
        """A voucher has left, with which the segment's come to so much.

        Returns:
            Whether output may have waited for it, so that the worker now has longer, or less long.
        """
        waited = self._starved(job)
        self._vouchered_micro = amount_micro - 1  # the last one may be kept back
        if waited:
            self._excused_s = self._clock.monotonic_s() + PAID_S
        return waited

    def due_s(self, job: ClientJob) -> float:
        """When something has to be done though nothing came, monotonic."""
        if job.phase is Phase.STREAMING:
            stalled_s = max(self._stirred_s + self._stall_s(job), self._excused_s)
            return min(self._stirred_s + self._patience_s(job), stalled_s)
        limit_s = {
            Phase.AWARDED: ACCEPTANCE_S,
            Phase.ENDED: RECEIPT_S,
            Phase.CUT: RECEIPT_S,
        }.get(job.phase, math.inf)
        return max(self._stirred_s + limit_s, min(self._excused_s, self._stirred_s + 2 * limit_s))

    def overdue(self, job: ClientJob, due_s: float) -> job_client.Event | None:
        """What follows from a wait that ended without a frame; None: go on waiting.

        Args:
            job: As it is now.
            due_s: What was waited for.
        """
        now_s = self._clock.monotonic_s()
        if self.due_s(job) > now_s:
            return None  # something else happened just now
        if job.phase is not Phase.STREAMING and now_s - due_s > LATE_S:
            self._excused_s = now_s + LOOK_AGAIN_S
            if self.due_s(job) > now_s:
                return None
        match job.phase:
            case Phase.AWARDED:
                why = f"no acceptance within {ACCEPTANCE_S:g} s"
                return job_client.GiveUp(reason=CutoffReason.STALLED, why=why)
            case Phase.STREAMING:
                # Summed as in `due_s`: rounded another way, it would be due and not be hopeless.
                hopeless = now_s >= self._stirred_s + self._patience_s(job)
                late = now_s - due_s > LATE_S
                if not hopeless and (late or self._busy(job, now_s) or not self._replaceable()):
                    self._excused_s = now_s + LOOK_AGAIN_S
                    return None
                why = f"no token for {now_s - self._stirred_s:.3g} s"
                return job_client.GiveUp(reason=CutoffReason.STALLED, why=why)
            case _:
                return job_client.ReceiptOverdue()

    def _busy(self, job: ClientJob, now_s: float) -> bool:
        """It is not the connection, nor the worker as a whole, that stands still."""
        if now_s >= self._stirred_s + BUSY_TIMES * self._stall_s(job):
            return False
        return self._deliveries.just_now(self._worker, now_s)

    def _patience_s(self, job: ClientJob) -> float:
        """Before the first token a worker has the time that it promised, within reason."""
        if job.tokens_out:
            return self._silence_s
        promised_s = job.terms.first_token_ms / MS_PER_S
        return self._silence_s + min(promised_s, FIRST_TOKEN_S_MAX)

    def _stall_s(self, job: ClientJob) -> float:
        """From this silence on another worker is preferred, if there is one."""
        if job.complete is not None or self._starved(job):
            return math.inf  # there is nothing to go on with; or it is ours to pay
        if job.tokens_out:
            return self._gap_limit_s()
        return first_token_limit_s(self._expected.first_token_ms / MS_PER_S)

    def _gap_limit_s(self) -> float:
        return self._gaps.limit_s(self._expected.token_us / US_PER_S)

    def _starved(self, job: ClientJob) -> bool:
        """The worker may deliver nothing more before our vouchers reach it."""
        next_micro = job_client.cost_at(job, job.tokens_out + 1)
        return next_micro > self._vouchered_micro + job.terms.quantum
