"""What a job would cost with a worker, how long it would take, and which is best.

    cached = known × kept                                                tokens, rounded down
    price  = cost(tokens_in − cached, cached, output_max) at its prices  micro, rounded up
    first  = max(promised, blend(promised × 5/4, measured))              milliseconds
    each   = the same for the time of one output token                   microseconds
    total  = first + (output_max − 1) × each                             milliseconds
    score  = price + value_of_time × total                               micro, rounded up

`known` is the beginning of the prompt that this client knows the worker to have read before, and
`kept` how much of what was known it did not compute, and bill, again (`Track.kept_permille`).  The
first token is promised and measured for the tokens that are not cached.  Limits on the price hold
for the price with nothing cached: no worker owes its cache.

`blend` weighs what this client measured with n / (n + 2), n being its jobs with that worker: a
promise counts fully only against its maker.  A worker that says it is slower than it was measured
is believed (it has no reason to lie that way: it is busy); one that says it is faster is not, until
it was measured.  All figures are integers, so that a score in a transcript can be recomputed.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from node.protocol import prefixes
from node.protocol.fields import ZERO_HASH, Address, Hash
from node.protocol.statements import Terms
from node.units import MS_PER_S, cost_micro

Sort = Literal["score", "price", "latency", "throughput"]

OFFER_TOKENS_IN = 1024
"""Prompt size that an offer's `first_token_ms` is for (protocol.md, "Terms")."""
MEASURED_OVERHEAD_TOKENS = 256
"""A measured first token is scaled to other prompt sizes as if it had this many tokens more:
the part of the time that does not depend on the prompt."""
PROMISE_NUMERATOR, PROMISE_DENOMINATOR = 5, 4
PRIOR_JOBS = 2
EWMA_JOBS = 5
"""From this many jobs on, each new one counts for a fifth."""
NEWCOMER_JOBS = 4
"""The record of all newcomers together moves by a quarter with each first job."""
NEWCOMER_REFUSALS = 16
"""By a sixteenth with an award that an untried worker refuses on terms that still bind: honest ones
are busy now and then."""
UNTRIED_REFUSALS = 8
"""Its own record moves by an eighth: after six such refusals in a row it counts as failing."""
KEPT_WHOLE = 1000
RESUMED_PARTS = 4
"""One of them must have been read before for a prompt to be the next turn of a conversation."""
OK_WHOLE = 1000
OK_PROVEN = 500
NEWCOMER_SHARE_MIN = 5
"""In thousandths: newcomers are tried this often at least, so that the market stays open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A job as workers may know it before one is chosen: sizes, never the prompt."""

    model: Hash
    tier: int
    tokenizer: Hash = ZERO_HASH
    """What counts, in tier text."""
    skills: int = 0
    """What the worker must be able to do: bits of `Skill`."""
    tokens_in: int
    output_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What the client insists on, and how it compares what is left."""

    price_micro_max: int
    """Most that the job may cost."""
    deadline_s: float | None = None
    """From the auction's start to the last token."""
    sort: Sort = "score"
    worker: Address | None = None
    """Only this one."""
    only: frozenset[Address] = frozenset()
    """Only these, if there are any."""
    ignore: frozenset[Address] = frozenset()
    """None of these."""
    price_in_max: int | None = None
    """Of the prompt, in micro per million tokens; likewise of the output."""
    price_out_max: int | None = None
    first_token_ms_max: int | None = None
    """As predicted; likewise the output rate, in thousandths of a token per second."""
    rate_mtps_min: int | None = None
    region: str = ""
    """``eu`` is met by ``eu`` and by ``eu-west``; empty: anywhere."""
    value_of_time_micro_per_s: int = 50
    prepay_micro_max: int = 0
    """Most that is paid with an award, before anything came back."""

    @property
    def insists_on(self) -> frozenset[Address]:
        """Workers besides which no other will do; empty if any may be chosen."""
        return self.only if self.worker is None else frozenset({self.worker})


class Trust(IntEnum):
    """How a worker did for this client so far."""

    PROVEN = 1
    NEWCOMER = 2
    FAILING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What this client measured of a worker with a model: moving averages over `jobs` jobs."""

    jobs: int = 0
    ok_permille: int = OK_WHOLE
    """Jobs that ended well, in thousandths."""
    first_token_ms: int = 0
    """From award to first token, scaled to a prompt of `OFFER_TOKENS_IN`."""
    rate_mtps: int = 0
    """Output rate, in thousandths of a token per second."""
    updated_ms: int = 0
    """Unix time of the last job."""
    kept_permille: int = KEPT_WHOLE
    """Of the prompt tokens that it was known to have read before, how many it had in its cache, in
    thousandths: moves half way with each such job."""

    @property
    def trust(self) -> Trust:
        """Proven, failing, or not tried yet."""
        if self.ok_permille < OK_PROVEN:
            return Trust.FAILING
        return Trust.PROVEN if self.jobs else Trust.NEWCOMER

    def after(
        self,
        *,
        ok: bool,
        now_ms: int,
        tokens_in: int = 0,
        first_token_ms: int | None = None,
        rate_mtps: int | None = None,
        tokens_known: int = 0,
        tokens_cached: int = 0,
    ) -> "Track":
        """The track with one more job.

        Args:
            ok: Whether the worker kept its word to the end.
            now_ms: Unix time.
            tokens_in: Prompt size of the job.
            first_token_ms: From award to first token; None if none came.
            rate_mtps: Output rate; None if it can't be told.
            tokens_known: Of the prompt, what the worker was known to have read before.
            tokens_cached: Of the prompt, what it billed as cached.
        """
        weight = min(self.jobs + 1, EWMA_JOBS)
        outcome = OK_WHOLE if ok else 0
        first = self.first_token_ms
        if first_token_ms is not None:
            of = max(tokens_in - tokens_cached, 0)
            reference = _rescale(first_token_ms, of=of, to=OFFER_TOKENS_IN)
            first = _average(first, reference, weight) if first else reference
        rate = self.rate_mtps
        if rate_mtps:
            rate = _average(rate, rate_mtps, weight) if rate else rate_mtps
        kept = self.kept_permille
        if tokens_known and first_token_ms is not None:
            kept = (kept + KEPT_WHOLE * min(tokens_cached, tokens_known) // tokens_known) // 2
        return Track(
            jobs=self.jobs + 1,
            ok_permille=_average(self.ok_permille if self.jobs else outcome, outcome, weight),
            first_token_ms=first,
            rate_mtps=rate,
            updated_ms=now_ms,
            kept_permille=kept,
        )

    def refused(self, *, now_ms: int) -> "Track":
        """The track after it turned down an award on its live terms: a part of a failure.

        A small one where it did jobs: it may be busy for a moment.  A larger one where it never did
        any: offers that nobody can have cost nothing to make.
        """
        part = EWMA_JOBS * EWMA_JOBS if self.jobs else UNTRIED_REFUSALS
        lowered = self.ok_permille - self.ok_permille // part
        return replace(self, ok_permille=lowered, updated_ms=now_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How fast a job is promised or expected to be."""

    first_token_ms: int
    token_us: int
    """Time of one output token, in microseconds."""

    @property
    def rate_tps(self) -> float:
        """Output tokens per second."""
        return 1_000_000 / self.token_us

    def total_ms(self, output_max: int) -> int:
        """From award to last token, rounded up."""
        return self.first_token_ms + -(-max(output_max - 1, 0) * self.token_us // 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A job with one worker, in figures."""

    price_micro: int
    """With what should be cached at its own price."""
    price_most_micro: int
    """With nothing cached: what limits hold for."""
    tokens_cached: int
    """Of the prompt, what the worker should have in its cache."""
    resumes: bool
    """That is a good part of the prompt: it is the next turn of a conversation."""
    promised: Figures
    predicted: Figures
    uncached: Figures
    """Predicted with nothing cached: how long the worker is waited for."""
    total_ms: int
    """Predicted."""
    score: int
    """In micro: lower is better."""


def price_micro(need: Need, terms: Terms, *, tokens_cached: int = 0) -> int:
    """Most that a job costs on these terms, with so much of the prompt cached."""
    return cost_micro(
        tokens_in=need.tokens_in - tokens_cached,
        tokens_cached=tokens_cached,
        tokens_out=need.output_max,
        price_in=terms.price_in,
        price_cached=terms.price_cached,
        price_out=terms.price_out,
    )


def estimate(
    need: Need, prefs: Preferences, terms: Terms, track: Track, *, tokens_known: int = 0
) -> Estimate:
    """Weigh one worker's terms for a job; the module's formulas.

    Args:
        need: The job.
        prefs: For the value of time.
        terms: The worker's.
        track: What was measured of it.
        tokens_known: Of the prompt, what the worker is known to have read before.
    """
    known = min(tokens_known, prefixes.savable(need.tokens_in))
    cached = known * track.kept_permille // KEPT_WHOLE
    price = price_micro(need, terms, tokens_cached=cached)
    promised = _promised(need, terms, cached)
    predicted = _predicted(need, promised, track, cached)
    total_ms = predicted.total_ms(need.output_max)
    time_micro = -(-prefs.value_of_time_micro_per_s * total_ms // MS_PER_S)
    return Estimate(
        price_micro=price,
        price_most_micro=price_micro(need, terms),
        tokens_cached=cached,
        resumes=cached > 0 and RESUMED_PARTS * cached >= need.tokens_in,
        promised=promised,
        predicted=predicted,
        uncached=_predicted(need, _promised(need, terms, 0), track, 0) if cached else predicted,
        total_ms=total_ms,
        score=price + time_micro,
    )


def sort_key(sort: Sort, figures: Estimate) -> int:
    """What `sort` makes as small as can be."""
    match sort:
        case "score":
            return figures.score
        case "price":
            return figures.price_micro
        case "latency":
            return figures.predicted.first_token_ms
        case "throughput":
            return figures.predicted.token_us


def newcomer_share(ok_permille: int) -> int:
    """How often newcomers may compete with proven workers, in thousandths.

    The cube of the share of newcomers' first jobs that lately went well: fully while they do, and
    after a few that failed, hardly.  A flood of identities costs the client a handful of tries,
    however large it is (arithmetic in tests/protocol/test_auction.py).
    """
    return max(ok_permille**3 // OK_WHOLE**2, NEWCOMER_SHARE_MIN)


def newcomers_after(ok_permille: int, *, ok: bool) -> int:
    """The record of newcomers together, after one more first job."""
    return _average(ok_permille, OK_WHOLE if ok else 0, NEWCOMER_JOBS)


def newcomers_refused(ok_permille: int) -> int:
    """The record of newcomers together, after one of them turned down an award on live terms."""
    return _average(ok_permille, 0, NEWCOMER_REFUSALS)


def _promised(need: Need, terms: Terms, cached: int) -> Figures:
    first_ms, prefill_tps = terms.first_token_ms, terms.prefill_tps
    if prefill_tps:  # an offer is for a prompt of the reference size, a bid for the whole one
        known = OFFER_TOKENS_IN if terms.ask == ZERO_HASH else cached
        fresh = need.tokens_in - cached if terms.ask == ZERO_HASH else 0
        first_ms = max(first_ms - known * MS_PER_S // prefill_tps, 0)
        first_ms += fresh * MS_PER_S // prefill_tps
    return Figures(first_token_ms=first_ms, token_us=-(-1_000_000_000 // max(terms.rate_mtps, 1)))


def _predicted(need: Need, promised: Figures, track: Track, cached: int) -> Figures:
    to = need.tokens_in - cached
    measured_first = _rescale(track.first_token_ms, of=OFFER_TOKENS_IN, to=to)
    measured_token = 1_000_000_000 // track.rate_mtps if track.rate_mtps else 0
    return Figures(
        first_token_ms=_blend(promised.first_token_ms, measured_first, track.jobs),
        token_us=_blend(promised.token_us, measured_token, track.jobs),
    )


def _blend(promised: int, measured: int, jobs: int) -> int:
    """Time expected, from a promise and a measurement (0: none) over `jobs` jobs."""
    seen = jobs if measured else 0
    doubted = promised * PROMISE_NUMERATOR * PRIOR_JOBS // PROMISE_DENOMINATOR
    return max(promised, (measured * seen + doubted) // (seen + PRIOR_JOBS))


def _rescale(first_token_ms: int, *, of: int, to: int) -> int:
    return first_token_ms * (to + MEASURED_OVERHEAD_TOKENS) // (of + MEASURED_OVERHEAD_TOKENS)


def _average(old: int, new: int, weight: int) -> int:
    return (old * (weight - 1) + new) // weight
