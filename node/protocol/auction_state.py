"""What an auction knows, what may happen to it and what it wants done: data of `auction.step`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from node.protocol.auction_record import NoBid, Weighed
from node.protocol.choice import Choice
from node.protocol.fields import Address
from node.protocol.frames import Refused
from node.protocol.offers import Standing
from node.protocol.scoring import OK_WHOLE, Need, Preferences, Track

PASSING = frozenset({Refused.BUSY, Refused.RATE_LIMITED, Refused.CHAIN_UNAVAILABLE})
"""Refusals of an ask that may be different a second later."""
CURABLE = PASSING | {
    Refused.PRICE_TOO_LOW,
    Refused.TERMS_EXPIRED,
    Refused.TERMS_UNKNOWN,
    Refused.LOCK_REQUIRED,
    Refused.PREPAY_REQUIRED,
}
"""Refusals of an award after which fresh terms of the same worker are worth another."""

OUR_FAULT = frozenset(
    {
        Refused.LOCK_REQUIRED,
        Refused.DEPOSIT_TOO_LOW,
        Refused.EXIT_PENDING,
        Refused.DUPLICATE,
        Refused.BAD_REQUEST,
        Refused.UNPAID,
        Refused.CLIENT_UNAUTHORISED,
        Refused.PREPAY_REQUIRED,
        Refused.PRICE_TOO_LOW,
        Refused.NO_CONTINUATION,
    }
)
"""Refused awards that say nothing about the worker."""


class Phase(StrEnum):
    """Where the auction stands."""

    DIRECT = "direct"
    ASK = "ask"
    CHOSEN = "chosen"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Limits of an auction."""

    bid_window_s: float = 0.4
    """How long bids are waited for, from the first ask of a round."""
    discover_s: float = 5.0
    """After this long without anyone to award to, the auction gives up."""
    ask_again_s: float = 1.0
    """Workers that were busy are asked again after this."""
    offers_min: int = 3
    """Offers to choose from without asking, where so many workers are in reach."""
    refusals_max: int = 3
    """So many refused awards on offers end the direct way."""
    refusals_per_worker_max: int = 2
    awards_max: int = 12
    asks_max: int = 24
    """Workers asked in one round."""
    large_micro: int = 1_000_000
    large_tokens_in: int = 8_192
    """From either on a job is large: an ask costs little beside it, and a bid is for its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that decides what happens next."""

    need: Need
    prefs: Preferences
    rules: Rules
    seed: int
    opened_s: float
    searching_s: float
    """Start of the current search: what `discover_s` is counted from."""
    phase: Phase
    mode: Phase
    """The way in which the last choice was, or the next will be, made."""
    standings: Mapping[Address, Standing] = field(default_factory=dict)
    """Newest terms per worker."""
    tracks: Mapping[Address, Track] = field(default_factory=dict)
    known: Mapping[Address, int] = field(default_factory=dict)
    """Tokens of the prompt that workers are known to have read before."""
    newcomers_permille: int = OK_WHOLE
    reach: frozenset[Address] = frozenset()
    """Workers with a live session."""
    networks: Mapping[Address, frozenset[str]] = field(default_factory=dict)
    """Where they say they are."""
    new_here: frozenset[Address] = frozenset()
    """Of those in reach, who may be due for a first job."""
    pending: int = 0
    """Dials and look-ups under way that may bring more workers."""
    asked: frozenset[Address] = frozenset()
    """In this round."""
    answered: frozenset[Address] = frozenset()
    passing: frozenset[Address] = frozenset()
    """Answered in this round with a refusal that may pass."""
    window_ends_s: float | None = None
    ask_again_s: float | None = None
    floors: Mapping[Address, int] = field(default_factory=dict)
    """Terms of a worker with this serial or a lower one are not chosen again."""
    weighed: Mapping[Address, Weighed] = field(default_factory=dict)
    """Last weighing of every worker that bid, for the record."""
    refused: Mapping[Address, int] = field(default_factory=dict)
    """Awards refused per worker."""
    banned: frozenset[Address] = frozenset()
    awards: int = 0
    asked_ever: frozenset[Address] = frozenset()
    refusals: tuple[NoBid, ...] = ()
    chosen: Choice | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Who has a session now, and how much of the search is still under way."""

    workers: frozenset[Address]
    pending: int
    networks: Mapping[Address, frozenset[str]] = field(default_factory=dict)
    """Of those that say where they are."""
    new_here: frozenset[Address] = frozenset()
    """Of them, workers that the market had not heard of until a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An offer or a bid arrived and was verified."""

    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """A worker refused the ask."""

    worker: Address
    code: int
    detail: str
    fresh: Standing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwardRefused:
    """The chosen worker refused the award."""

    code: int
    detail: str
    fresh: Standing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwardLost:
    """The chosen worker left or did not answer the award."""

    reason: str
    failed: bool = False
    """It had the award, and gave nothing for it: that is held against it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed; due at `wake_s`."""


Event = Reached | Bound | Declined | AwardRefused | AwardLost | Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAsk:
    """Ask these workers, with one ask."""

    workers: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveAward:
    """Award to this worker on these terms."""

    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Nobody to award to; the reason is a sentence for the user."""

    reason: str


Effect = SendAsk | GiveAward | GiveUp
Step = tuple[State, tuple[Effect, ...]]
