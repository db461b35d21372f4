"""What a person sees of a job: the answer on stdout, all else on stderr; or one JSON object.

It is told of the job in plain values (`submit_told`), since a gateway in another process may be
doing it; so this imports nothing of the node.
"""

import json as json_lib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from node.app.control_call import error_from_json
from node.app.submit_request import SubmitRequest
from node.app.terminal import harmless, one_line
from node.errors import ExitCode, Unavailable
from node.units import MS_PER_S, format_micro


class SubmitView:
    """Follows one job to its exit code."""

    def __init__(self, request: SubmitRequest, *, json: bool, on_stop: Callable[[], None]) -> None:
        """
        Args:
            request: When the command began.
            json: One object, instead of text.
            on_stop: Ends the job early.
        """
        self._json = json
        self._started_s = request.started_s
        self._on_stop = on_stop
        self._ended_by: ExitCode | None = None
        """How to exit, if the user ended the job."""
        self._ready_s: float | None = None
        """When the network was up, from the command's start; likewise the others."""
        self._awarded_s: float | None = None
        self._first_token_s: float | None = None
        self._pieces: list[str] = []
        self._terminal = sys.stdout.isatty()

    def take(self, event: Mapping[str, Any]) -> None:
        """Show what `submit_told` tells."""
        match event["kind"]:
            case "ready":
                self._ready_s = self._elapsed_s()
            case "awarded":
                if self._first_token_s is None:
                    self._awarded_s = self._elapsed_s()
            case "say":
                self._say(event["line"])
            case "text":
                self._text(event["text"])

    def stop(self, code: ExitCode) -> None:
        """The user wants no more: what came is paid and kept, and this is the exit code."""
        self._ended_by = self._ended_by or code
        self._on_stop()

    def ended(self, result: Mapping[str, Any]) -> int:
        """Show how it went; returns the exit code.

        Raises:
            KeyboardInterrupt: The user ended it before a worker had it.
            Unavailable: Something else did.
            ConfigError: The transcript could not be written.
        """
        if "abandoned" in result:
            if self._ended_by is ExitCode.INTERRUPTED:
                raise KeyboardInterrupt
            raise Unavailable(result["abandoned"])
        report = self._completed(result["report"])
        if self._json:
            sys.stdout.write(json_lib.dumps(report) + "\n")
        else:
            text = report["text"]
            if text and not text.endswith("\n"):
                self._write("\n")
            self._summary(report)
        if result["unsaved"] is not None:
            raise error_from_json(result["unsaved"])  # after the answer, which is paid for
        if self._ended_by is not None:
            return self._ended_by
        if report["failure"]:
            self._say(f"error: {report['failure']}")
            return ExitCode.TRY_AGAIN
        return ExitCode.OK

    def _text(self, piece: str) -> None:
        if self._first_token_s is None:
            self._first_token_s = self._elapsed_s()
        self._pieces.append(piece)
        if not self._json:
            self._write(harmless(piece) if self._terminal else piece)

    def _say(self, line: str) -> None:
        """One line for a person who watches."""
        if not self._json:
            sys.stderr.write(one_line(line) + "\n")

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            # Nobody reads any more (`| head`), or the disk behind it is full.  Nothing more is
            # written, not even by the interpreter's own flush at the end.
            if not isinstance(error, BrokenPipeError):
                self._say(f"error: the answer can't be written: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.stop(ExitCode.FAILED)

    def _completed(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """With what is known here alone: the text that came, and when."""
        timings = {
            "start_ms": _ms(self._ready_s),
            "auction_ms": _ms(self._awarded_s),
            "first_token_ms": _ms(self._first_token_s),
            "total_ms": _ms(self._elapsed_s()),
        }
        return {**report, "text": "".join(self._pieces), "timings": timings}

    def _summary(self, report: Mapping[str, Any]) -> None:
        workers = len(report["segments"])
        cached = report["tokens_cached"]
        self._say(
            f"{report['tokens_in']} tokens in, {report['tokens_out']} out, "
            + (f"{cached} cached, " if cached else "")
            + f"{format_micro(report['amount_micro'])} paid; first token after "
            f"{self._first_token_s or 0:.2f} s, {self._elapsed_s():.2f} s in all"
            + (f"; by {workers} workers, one after another" if workers > 1 else "")
        )
        if report["receipt"] is not None:
            self._say(f"receipt: {report['receipt']}")

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s


def _ms(elapsed_s: float | None) -> int | None:
    return None if elapsed_s is None else round(elapsed_s * MS_PER_S)
