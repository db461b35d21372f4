"""The times in a segment's statements: what its client accepts, and what a transcript may hold."""

from typing import Final

from node.errors import PeerError
from node.protocol.statements import Acceptance, Award, Finish, Progress, Receipt
from node.units import MS_PER_S

CLOCKS_APART_MS_MAX: Final = 24 * 3600 * MS_PER_S
"""Strangers' clocks differ; by a day they don't."""


def check_clocks(award: Award, accepted: Acceptance) -> None:
    """Award and acceptance belong to one time, which a client checks when it is accepted.

    Raises:
        PeerError: They are too far apart.
    """
    if abs(accepted.accepted_ms - award.issued_ms) > CLOCKS_APART_MS_MAX:
        raise PeerError("award and acceptance are more than a day apart")


def check_receipt_ending(accepted: Acceptance, progress: Progress | None, receipt: Receipt) -> None:
    """A receipt's times and reason, which a client checks before it accepts the receipt.

    All of them are of the worker's clock, which must not go backwards within a segment.

    Raises:
        PeerError: A time is out of order, or the reason is unknown.
    """
    if receipt.finish not in list(Finish):
        raise PeerError(f"unknown reason {receipt.finish} for the end")
    if receipt.accepted_ms != accepted.accepted_ms:
        raise PeerError("receipt and acceptance differ in the time of acceptance")
    if receipt.accepted_ms > receipt.ended_ms:
        raise PeerError("it ended before it was accepted")
    in_time = receipt.accepted_ms <= receipt.first_token_ms <= receipt.ended_ms
    if (receipt.tokens_out or receipt.first_token_ms) and not in_time:
        raise PeerError("the first token is outside the segment's time")
    if progress is not None and not receipt.accepted_ms <= progress.at_ms <= receipt.ended_ms:
        raise PeerError("the progress is outside the segment's time")
