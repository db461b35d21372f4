"""What a job would cost with a worker, how long it would take, and which is best.

    price  = cost(tokens_in, output_max) at the worker's prices          micro, rounded up
    first  = max(promised, blend(promised × 5/4, measured))              milliseconds
    each   = the same for the time of one output token                   microseconds
    total  = first + (output_max − 1) × each                             milliseconds
    score  = price + value_of_time × total                               micro, rounded up

`blend` weighs what this client measured with n / (n + 2), n being its jobs with that worker: a
promise counts fully only against its maker.  A worker that says it is slower than it was measured
is believed (it has no reason to lie that way: it is busy); one that says it is faster is not, until
it was measured.  All figures are integers, so that a score in a transcript can be recomputed.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from node.protocol.fields import ZERO_HASH, Address, Hash
from node.protocol.statements import Skill, Terms
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
    ) -> "Track":
        """The track with one more job.

        Args:
            ok: Whether the worker kept its word to the end.
            now_ms: Unix time.
            tokens_in: Prompt size of the job.
            first_token_ms: From award to first token; None if none came.
            rate_mtps: Output rate; None if it can't be told.
        """
        weight = min(self.jobs + 1, EWMA_JOBS)
        outcome = OK_WHOLE if ok else 0
        first = self.first_token_ms
        if first_token_ms is not None:
            reference = _rescale(first_token_ms, of=tokens_in, to=OFFER_TOKENS_IN)
            first = _average(first, reference, weight) if first else reference
        rate = self.rate_mtps
        if rate_mtps:
            rate = _average(rate, rate_mtps, weight) if rate else rate_mtps
        return Track(
            jobs=self.jobs + 1,
            ok_permille=_average(self.ok_permille if self.jobs else outcome, outcome, weight),
            first_token_ms=first,
            rate_mtps=rate,
            updated_ms=now_ms,
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
    promised: Figures
    predicted: Figures
    total_ms: int
    """Predicted."""
    score: int
    """In micro: lower is better."""


def price_micro(need: Need, terms: Terms) -> int:
    """Most that a job costs on these terms."""
    return cost_micro(
        tokens_in=need.tokens_in,
        tokens_cached=0,
        tokens_out=need.output_max,
        price_in=terms.price_in,
        price_cached=terms.price_cached,
        price_out=terms.price_out,
    )


def estimate(need: Need, prefs: Preferences, terms: Terms, track: Track) -> Estimate:
    """Weigh one worker's terms for a job; the module's formulas."""
    price = price_micro(need, terms)
    promised = _promised(need, terms)
    predicted = _predicted(need, promised, track)
    total_ms = predicted.total_ms(need.output_max)
    time_micro = -(-prefs.value_of_time_micro_per_s * total_ms // MS_PER_S)
    return Estimate(
        price_micro=price,
        promised=promised,
        predicted=predicted,
        total_ms=total_ms,
        score=price + time_micro,
    )


def objection(
    need: Need, prefs: Preferences, terms: Terms, figures: Estimate, *, elapsed_ms: int
) -> str | None:
    """Which of the client's limits the terms do not meet, or None.

    Args:
        need: The job.
        prefs: The limits.
        terms: What is weighed against them.
        figures: `estimate` of the same.
        elapsed_ms: Time since the auction began: it is gone from the deadline.
    """
    if prefs.worker is not None and terms.worker != prefs.worker:
        return "not the wanted worker"
    if terms.worker in prefs.ignore or (prefs.only and terms.worker not in prefs.only):
        return "not one of the wanted workers"
    if terms.model != need.model:
        return "another model"
    if terms.tier != need.tier:
        return "another tier"
    if terms.tokenizer != need.tokenizer:
        return "counts with another tokenizer"
    if missing := need.skills & ~terms.skills:
        return f"can't do what is asked: {_named(missing)}"
    if need.tokens_in + need.output_max > terms.context_max:
        return f"context of {terms.context_max} tokens is too short"
    if need.output_max > terms.output_max:
        return f"gives at most {terms.output_max} tokens"
    if prefs.region and not _in_region(terms.region, prefs.region):
        return f"region {terms.region or 'not given'}"
    if figures.price_micro > prefs.price_micro_max:
        return f"costs {figures.price_micro} micro, limit {prefs.price_micro_max}"
    fault = _price_fault(prefs, terms) or _pace_fault(prefs, figures.predicted)
    if fault is not None:
        return fault
    # Due with the first output token; a worker turns down an award that it can't cover.
    if terms.prepay + terms.quantum < price_micro(replace(need, output_max=1), terms):
        return f"gives no more credit than {terms.quantum} micro, and the prompt costs more"
    if terms.prepay > prefs.prepay_micro_max:
        return f"asks {terms.prepay} micro in advance, limit {prefs.prepay_micro_max}"
    if prefs.deadline_s is not None:
        left_ms = int(prefs.deadline_s * MS_PER_S) - elapsed_ms
        if figures.total_ms > left_ms:
            return f"would take {figures.total_ms} ms, {max(left_ms, 0)} ms are left"
    return None


def _named(skills: int) -> str:
    return ", ".join(skill.name.lower() for skill in Skill if skill & skills and skill.name)


def _price_fault(prefs: Preferences, terms: Terms) -> str | None:
    prices = (
        ("prompt", max(terms.price_in, terms.price_cached), prefs.price_in_max),
        ("output", terms.price_out, prefs.price_out_max),
    )
    for what, price, price_max in prices:
        if price_max is not None and price > price_max:
            return f"{price} micro per million {what} tokens, limit {price_max}"
    return None


def _pace_fault(prefs: Preferences, predicted: Figures) -> str | None:
    first_max, rate_min = prefs.first_token_ms_max, prefs.rate_mtps_min
    if first_max is not None and predicted.first_token_ms > first_max:
        return f"first token after {predicted.first_token_ms} ms, limit {first_max}"
    if rate_min is not None and 1_000_000_000 // predicted.token_us < rate_min:
        return f"{predicted.rate_tps:.1f} tokens per second, wanted {rate_min / 1000:.1f}"
    return None


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


def _promised(need: Need, terms: Terms) -> Figures:
    first_ms = terms.first_token_ms
    if terms.ask == ZERO_HASH and terms.prefill_tps:
        reference_ms = OFFER_TOKENS_IN * MS_PER_S // terms.prefill_tps
        first_ms = max(first_ms - reference_ms, 0)
        first_ms += need.tokens_in * MS_PER_S // terms.prefill_tps
    return Figures(first_token_ms=first_ms, token_us=-(-1_000_000_000 // max(terms.rate_mtps, 1)))


def _predicted(need: Need, promised: Figures, track: Track) -> Figures:
    measured_first = _rescale(track.first_token_ms, of=OFFER_TOKENS_IN, to=need.tokens_in)
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


def _in_region(region: str, wanted: str) -> bool:
    region, wanted = region.casefold(), wanted.casefold()
    return region == wanted or region.startswith(wanted + "-")
