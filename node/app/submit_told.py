"""What is told of a job while it goes on, and at its end: plain values, which travel as JSON.

`submit_view` shows them, in this process or in the one that handed the job over.
"""

from collections.abc import Callable, Mapping
from typing import Any

from node.app.figures import finish_of
from node.protocol.auction_record import AuctionRecord
from node.protocol.frames import Refusal, Refused
from node.protocol.signing import checksum
from node.protocol.statements import Lock, Terms
from node.roles.client import Outcome
from node.roles.job_run import Attempt
from node.roles.market import Candidate, Effect, Event
from node.units import MS_PER_S, format_micro

Tell = Callable[[Mapping[str, Any]], None]
"""Takes an event; must be quick."""


class Teller:
    """Tells of one job (`job_run.Watcher`)."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._resuming = False
        """The answer is begun, and its worker has stopped."""

    def ready(self) -> None:
        """The node is on the network."""
        self._tell({"kind": "ready"})

    def text(self, piece: str) -> None:
        """More of the answer."""
        self._tell({"kind": "text", "text": piece})

    def market(self, event: Event | Effect) -> None:
        """The auction's steps are shown once, with its result."""

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        """A worker was chosen: show from which bids, and why."""
        self._tell({"kind": "awarded"})
        worker = checksum(candidate.session.peer)
        if self._resuming:  # in the middle of an answer a table is in the way
            self._say(f"continued by {worker}: {candidate.reason}")
            return
        for line in bid_lines(record):
            self._say(line)
        self._say(f"awarded to {worker}: {candidate.reason}")

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        """It would not."""
        worker = checksum(candidate.session.peer)
        names = {code.value: code.name for code in Refused}
        code = names.get(refusal.code, str(refusal.code))
        detail = f" ({refusal.detail})" if refusal.detail else ""
        self._say(f"{worker} refused: {code}{detail}; looking for another")

    def failed(self, candidate: Candidate, why: str) -> None:
        """It gave nothing."""
        self._say(f"{checksum(candidate.session.peer)}: {why}; looking for another")

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        """Its acceptance is late."""
        worker = checksum(candidate.session.peer)
        self._say(f"{worker} has not accepted after {after_s:.1f} s; another is asked as well")

    def stopped(self, candidate: Candidate, why: str) -> None:
        """It ended in mid-answer."""
        self._resuming = True
        self._say(f"{checksum(candidate.session.peer)} stopped: {why}; looking for who goes on")

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        """It gives no credit, and there is no other choice."""
        worker, amount = checksum(candidate.session.peer), format_micro(lock.total)
        self._say(f"{worker} gives no credit; locking {amount} of the deposit for it, please wait")

    def _say(self, line: str) -> None:
        self._tell({"kind": "say", "line": line})


def report(outcome: Outcome, *, model: str, failure: str, path: str | None) -> dict[str, Any]:
    """The object of `--json`; whoever was told has the text and the times.

    Args:
        outcome: Of the job.
        model: Its name.
        failure: What ended it early; empty when nothing did.
        path: Of the transcript; None if it could not be written.
    """
    terms = outcome.attempt.job.terms
    return {
        "job_id": outcome.job.hex(),
        "model": model,
        "model_id": "0x" + outcome.order.model.hex(),
        "worker": checksum(terms.worker),
        "text": None,
        "finish_reason": finish_of(outcome),
        "failure": failure or None,
        "tokens_in": outcome.tokens_in,
        "tokens_cached": outcome.segments[0].job.tokens_cached,
        "tokens_out": outcome.tokens_out,
        "amount_micro": outcome.amount_micro,
        "prices": _prices(terms),
        "seed": outcome.seed,
        "auction": outcome.auction.record().to_json(),
        "timings": None,
        "receipt": path,
        "segments": [_segment(each) for each in outcome.segments],
    }


def bid_lines(record: AuctionRecord) -> list[str]:
    """The bids as a small table, the best first, and why the winner won."""
    lines = [f"{'worker':42}  {'price':>10}  {'score':>10}  {'tok/s':>8}  first token"]
    for bid in record.to_json()["bids"]:
        mark = "*" if bid["won"] else " "
        predicted = bid["predicted"]
        lines.append(
            f"{bid['worker']}{mark} {format_micro(bid['price_micro']):>10}  {bid['score']:>10}  "
            f"{predicted['rate_tps']:>8.1f}  {predicted['first_token_s'] * MS_PER_S:.0f} ms"
            + (f"  ({bid['objection']})" if bid["objection"] else "")
        )
    return lines


def _segment(attempt: Attempt) -> dict[str, Any]:
    """What one worker did of the answer, and why it did no more."""
    job, terms = attempt.job, attempt.job.terms
    return {
        "attempt": job.award.attempt,
        "worker": checksum(terms.worker),
        "position": job.award.position,
        "tokens_in": job.award.tokens_in,
        "tokens_cached": job.tokens_cached,
        "tokens_out": job.tokens_out,
        "amount_micro": job.accepted_micro,
        "prices": _prices(terms),
        "receipt": job.receipt is not None,
        "stopped": job.failure or None,
    }


def _prices(terms: Terms) -> dict[str, int]:
    return {"in": terms.price_in, "cached": terms.price_cached, "out": terms.price_out}
