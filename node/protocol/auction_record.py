"""The account of an auction: every bid, every refusal, and why the winner won."""

import json
from dataclasses import dataclass
from typing import Any

from node.protocol import limits
from node.protocol.fields import Address, Signed
from node.protocol.frames import Refused
from node.protocol.offers import Standing
from node.protocol.scoring import Estimate, Figures, Sort
from node.protocol.signing import checksum
from node.protocol.statements import Terms
from node.units import MS_PER_S

BIDS_KEPT_MAX = 40
REFUSALS_KEPT_MAX = 32
"""Both so that the record as JSON stays below `limits.RECORD_BYTES_MAX`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """One worker's terms as the client weighed them."""

    standing: Standing
    estimate: Estimate
    jobs: int
    """With this client, before this one."""
    objection: str | None
    """Why the terms were out of the question; None if they were not."""

    @property
    def worker(self) -> Address:
        """Who bid."""
        return self.standing.terms.worker


LOST = "LOST"
"""In place of a refusal's code: the worker had the award, or could not be sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBid:
    """A worker that did not bid on the ask, or did not accept the award."""

    worker: Address
    subject: str
    """``ask`` or ``award``."""
    code: str
    """Name of the refusal's code, or ``LOST``."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionRecord:
    """What happened, for `submit --json`, the store and the transcript."""

    mode: str
    """``direct`` or ``ask``."""
    sort: Sort
    asked: int
    bids: tuple[Weighed, ...]
    """Best first, as last ranked; then those that did not meet the limits."""
    refusals: tuple[NoBid, ...]
    winner: Address | None
    reason: str
    """One sentence; at most `limits.REASON_BYTES_MAX` bytes."""

    @property
    def terms(self) -> tuple[Signed[Terms], ...]:
        """The signed terms that were compared, as a transcript keeps them."""
        return tuple(each.standing.signed for each in self.bids[: limits.BIDS_MAX])

    def to_json(self) -> dict[str, Any]:
        """Plain values, with units in the names; bounded in size."""
        return {
            "mode": self.mode,
            "sort": self.sort,
            "asked": self.asked,
            "bids": [_bid(each, winner=self.winner) for each in self.bids],
            "refusals": [
                {
                    "worker": checksum(each.worker),
                    "subject": each.subject,
                    "code": each.code,
                    "detail": each.detail,
                }
                for each in self.refusals
            ],
            "winner": None if self.winner is None else checksum(self.winner),
            "reason": self.reason,
        }

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, at most `limits.RECORD_BYTES_MAX` bytes."""
        return json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=False).encode()


def refusal_name(code: int) -> str:
    """The name of a refusal's code; unknown codes keep their number."""
    try:
        return Refused(code).name
    except ValueError:
        return f"CODE_{code}"


def _bid(bid: Weighed, *, winner: Address | None) -> dict[str, Any]:
    terms, figures = bid.standing.terms, bid.estimate
    return {
        "worker": checksum(bid.worker),
        "price_micro": figures.price_micro,
        "tokens_cached": figures.tokens_cached,
        "price_in": terms.price_in,
        "price_cached": terms.price_cached,
        "price_out": terms.price_out,
        "score": figures.score,
        "promised": _speed(figures.promised),
        "predicted": {**_speed(figures.predicted), "total_s": figures.total_ms / MS_PER_S},
        "jobs_before": bid.jobs,
        "slots_free": terms.slots_free,
        "queued": terms.queued,
        "region": terms.region,
        "won": bid.worker == winner and bid.objection is None,
        "objection": bid.objection,
    }


def _speed(figures: Figures) -> dict[str, Any]:
    return {
        "first_token_s": figures.first_token_ms / MS_PER_S,
        "rate_tps": round(figures.rate_tps, 3),
    }
