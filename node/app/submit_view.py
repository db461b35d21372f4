"""What a person sees of a job: the answer on stdout, all else on stderr; or one JSON object."""

import os
import sys
import time
from typing import Any

import trio

from node.app.figures import finish_of
from node.app.submit_request import SubmitRequest
from node.app.terminal import harmless, one_line
from node.protocol.auction_record import AuctionRecord
from node.protocol.frames import Refusal, Refused
from node.protocol.signing import checksum
from node.protocol.statements import Lock, Terms
from node.roles.client import Outcome
from node.roles.job_run import Attempt
from node.roles.market import Candidate, Effect, Event
from node.units import MS_PER_S, format_micro


class SubmitView:
    """Follows one job (`client.Watcher`)."""

    def __init__(self, request: SubmitRequest, *, json: bool) -> None:
        self._json = json
        self._started_s = request.started_s
        self.ready_s: float | None = None
        """When the network was up, from the command's start; likewise the others."""
        self.awarded_s: float | None = None
        self.first_token_s: float | None = None
        self.reader_gone = trio.Event()
        """Set once stdout takes no more."""
        self._terminal = sys.stdout.isatty()
        self._resuming = False
        """The answer is begun, and its worker has stopped."""

    def ready(self) -> None:
        """The node is on the network."""
        self.ready_s = self._elapsed_s()

    def market(self, event: Event | Effect) -> None:
        """The auction's steps are shown once, with its result."""

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        """A worker was chosen: show from which bids, and why."""
        if self.first_token_s is None:
            self.awarded_s = self._elapsed_s()
        worker = checksum(candidate.session.peer)
        if self._resuming:  # in the middle of an answer a table is in the way
            self.say(f"continued by {worker}: {candidate.reason}")
            return
        for line in bid_lines(record):
            self.say(line)
        self.say(f"awarded to {worker}: {candidate.reason}")

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        """It would not."""
        worker = checksum(candidate.session.peer)
        names = {code.value: code.name for code in Refused}
        code = names.get(refusal.code, str(refusal.code))
        detail = f" ({refusal.detail})" if refusal.detail else ""
        self.say(f"{worker} refused: {code}{detail}; looking for another")

    def failed(self, candidate: Candidate, why: str) -> None:
        """It gave nothing."""
        self.say(f"{checksum(candidate.session.peer)}: {why}; looking for another")

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        """Its acceptance is late."""
        worker = checksum(candidate.session.peer)
        self.say(f"{worker} has not accepted after {after_s:.1f} s; another is asked as well")

    def stopped(self, candidate: Candidate, why: str) -> None:
        """It ended in mid-answer."""
        self._resuming = True
        self.say(f"{checksum(candidate.session.peer)} stopped: {why}; looking for who goes on")

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        """It gives no credit, and there is no other choice."""
        worker, amount = checksum(candidate.session.peer), format_micro(lock.total)
        self.say(f"{worker} gives no credit; locking {amount} of the deposit for it, please wait")

    def text(self, piece: str) -> None:
        """More of the answer."""
        if self.first_token_s is None:
            self.first_token_s = self._elapsed_s()
        if not self._json:
            self._write(harmless(piece) if self._terminal else piece)

    def say(self, line: str) -> None:
        """One line for a person who watches."""
        if not self._json:
            sys.stderr.write(one_line(line) + "\n")

    def ended(self, outcome: Outcome, *, model: str, text: str, path: str | None) -> dict[str, Any]:
        """Show how it went; returns the same as plain values."""
        report = self._report(outcome, model=model, text=text, path=path)
        if not self._json:
            if text and not text.endswith("\n"):
                self._write("\n")
            self._summary(outcome, path)
        return report

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            # Nobody reads any more (`| head`), or the disk behind it is full.  Nothing more is
            # written, not even by the interpreter's own flush at the end.
            if not isinstance(error, BrokenPipeError):
                self.say(f"error: the answer can't be written: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.reader_gone.set()

    def _report(
        self, outcome: Outcome, *, model: str, text: str, path: str | None
    ) -> dict[str, Any]:
        terms = outcome.attempt.job.terms
        return {
            "job_id": outcome.job.hex(),
            "model": model,
            "model_id": "0x" + outcome.order.model.hex(),
            "worker": checksum(terms.worker),
            "text": text,
            "finish_reason": finish_of(outcome),
            "failure": outcome.failure or None,
            "tokens_in": outcome.tokens_in,
            "tokens_cached": outcome.segments[0].job.tokens_cached,
            "tokens_out": outcome.tokens_out,
            "amount_micro": outcome.amount_micro,
            "prices": _prices(terms),
            "seed": outcome.seed,
            "auction": outcome.auction.record().to_json(),
            "timings": {
                "start_ms": _ms(self.ready_s),
                "auction_ms": _ms(self.awarded_s),
                "first_token_ms": _ms(self.first_token_s),
                "total_ms": _ms(self._elapsed_s()),
            },
            "receipt": path,
            "segments": [_segment(each) for each in outcome.segments],
        }

    def _summary(self, outcome: Outcome, path: str | None) -> None:
        workers = len(outcome.segments)
        self.say(
            f"{outcome.tokens_in} tokens in, {outcome.tokens_out} out, "
            f"{format_micro(outcome.amount_micro)} paid; first token after "
            f"{self.first_token_s or 0:.2f} s, {self._elapsed_s():.2f} s in all"
            + (f"; by {workers} workers, one after another" if workers > 1 else "")
        )
        if path is not None:
            self.say(f"receipt: {path}")

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s


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


def _ms(elapsed_s: float | None) -> int | None:
    return None if elapsed_s is None else round(elapsed_s * MS_PER_S)
