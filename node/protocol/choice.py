"""Which of several terms to award on, and why: ranking, trust, the draw, the sentence."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from node.protocol.announcements import crowds
from node.protocol.auction_record import BIDS_KEPT_MAX, LOST, NoBid, Weighed
from node.protocol.fields import Address
from node.protocol.objections import objection
from node.protocol.offers import Standing
from node.protocol.scoring import (
    OK_WHOLE,
    Estimate,
    Need,
    Preferences,
    Track,
    Trust,
    estimate,
    newcomer_share,
    sort_key,
)
from node.units import MS_PER_S

NEAR_BEST_PERCENT = 5
"""Scores this close count as equal: clients that all take the very best would herd."""
UNTRIED = Track()
DRAWS = 10**6
"""Draws are numbers below this."""
FIRST_TRIES_PARTS = 4
"""However many are new: their first jobs are a quarter of all at most."""
FIRST_TRY_SCORES_MAX = 3
"""A first job may score so many times the best: more is not asked of a client for others' sake."""
NO_NETWORKS: Mapping[Address, frozenset[str]] = MappingProxyType({})
NOTHING_KNOWN: Mapping[Address, int] = MappingProxyType({})
_WORDS = {
    "score": "best score",
    "price": "lowest price",
    "latency": "fastest first token",
    "throughput": "highest output rate",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The terms to award on."""

    standing: Standing
    estimate: Estimate
    ranking: tuple[Weighed, ...]
    reason: str


def rank(
    standings: Iterable[Standing],
    *,
    need: Need,
    prefs: Preferences,
    tracks: Mapping[Address, Track],
    elapsed_ms: int,
    out: Collection[Address] = (),
    known: Mapping[Address, int] = NOTHING_KNOWN,
) -> tuple[Weighed, ...]:
    """Weigh all terms: those within the limits first, best first.

    Args:
        standings: Live terms.
        need: The job.
        prefs: Limits and order.
        tracks: What was measured, per worker.
        elapsed_ms: Of the deadline.
        out: Workers that are not to be awarded (again) in this auction.
        known: Tokens of the prompt that workers are known to have read before.
    """
    weighed = []
    for each in standings:
        worker = each.terms.worker
        track = tracks.get(worker, UNTRIED)
        tokens_known = known.get(worker, 0)
        figures = estimate(need, prefs, each.terms, track, tokens_known=tokens_known)
        fault = objection(need, prefs, each.terms, figures, elapsed_ms=elapsed_ms)
        if fault is None and worker in out:
            fault = "refused before, or left"
        weighed.append(Weighed(standing=each, estimate=figures, jobs=track.jobs, objection=fault))
    weighed.sort(
        key=lambda bid: (
            bid.objection is not None,
            sort_key(prefs.sort, bid.estimate),
            bid.estimate.score,
            bid.worker,
        )
    )
    return tuple(weighed)


def choose(
    ranking: tuple[Weighed, ...],
    *,
    prefs: Preferences,
    tracks: Mapping[Address, Track],
    newcomers_permille: int,
    draws: tuple[int, int],
    refusals: int,
    networks: Mapping[Address, frozenset[str]] = NO_NETWORKS,
    new_here: Collection[Address] = (),
) -> Choice | None:
    """The terms to award on, or None if none meet the limits.

    Workers that proved themselves come before those that failed, always; newcomers compete with
    the proven as often as newcomers lately deserved (`scoring.newcomer_share`).  Where nobody is
    proven and newcomers lately failed, their terms say little: as much as they failed, one is
    drawn blindly, so that whoever baits with the best terms does not win every time; a network
    first, then a worker in it, so that many identities in few networks are no more than few.
    A worker that is new in the market has a first job, as far as newcomers compete, with the chance
    of one among all within the limits, whoever is better; several of them together with that of a
    quarter at most.
    The next turn of a conversation goes back to the worker that has read most of it, if that one's
    score counts as equal to the best: other clients' conversations are elsewhere, so that nobody
    herds.  It is no first job.
    `--worker` and `--sort` mean strictly that: no trust, and no draw beyond exact equality.

    Args:
        ranking: From `rank`.
        prefs: Limits and order.
        tracks: What was measured, per worker.
        newcomers_permille: The record of newcomers together.
        draws: Two random numbers below `DRAWS`: whether newcomers compete, and who of equals wins.
        refusals: Awards refused before in this auction, for the sentence.
        networks: Where workers say they are, of those that said it (`announcements.networks_of`).
        new_here: Workers that the market had not heard of until a moment ago.
    """
    within = [bid for bid in ranking if bid.objection is None]
    if not within:
        return None
    share = newcomer_share(newcomers_permille) * (DRAWS // OK_WHOLE)
    strict = prefs.worker is not None or prefs.sort != "score"
    if strict:
        pool, blind = within, False
    else:
        pool, blind = _trusted(within, tracks, newcomers_compete=draws[0] < share)
    equals = pool if blind else _equals(pool, prefs)
    won = equals[draws[1] * len(equals) // DRAWS]
    settled = strict or won.estimate.resumes
    first_tries = [] if settled else _first_tries(within, tracks, new_here)
    if draws[0] * len(within) < share * min(len(first_tries), -(-len(within) // FIRST_TRIES_PARTS)):
        won = _drawn(first_tries, networks, draws[1])
        reason = f"a first job, drawn from {len(first_tries)} new here: {_figures(won, prefs)}"
    elif blind:
        won = _drawn(pool, networks, draws[1])
        reason = f"drawn from {len(pool)} untried, since such failed lately: {_figures(won, prefs)}"
    else:
        reason = _sentence(won, within=within, pool=pool, equals=equals, prefs=prefs)
    if refusals:
        reason += f"; after {_count(refusals, 'refused award')}"
    return Choice(
        standing=won.standing,
        estimate=won.estimate,
        ranking=_kept(ranking, won),
        reason=reason,
    )


def why_nobody(ranking: tuple[Weighed, ...], *, refusals: tuple[NoBid, ...], asked: int) -> str:
    """A sentence on why nobody could be awarded to."""
    parts = []
    if ranking:
        nearest = ranking[0]
        parts.append(f"none of {_count(len(ranking), 'bid')} met the limits ({nearest.objection})")
    refused = Counter(each.code for each in refusals if each.code != LOST)
    lost = Counter(each.detail or "left" for each in refusals if each.code == LOST)
    parts += [
        f"{how}: {_counted(found)}"
        for how, found in (("refused", refused), ("lost", lost))
        if found
    ]
    if not parts:
        parts.append(f"{_count(asked, 'worker')} asked, none answered")
    return "; ".join(parts)


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{what} {count}×" for what, count in found.most_common(4))


def _kept(ranking: tuple[Weighed, ...], won: Weighed) -> tuple[Weighed, ...]:
    """As many bids as a record holds, the winner among them."""
    best = ranking[:BIDS_KEPT_MAX]
    return best if any(bid is won for bid in best) else (*best[:-1], won)


def _trusted(
    within: list[Weighed], tracks: Mapping[Address, Track], *, newcomers_compete: bool
) -> tuple[list[Weighed], bool]:
    """Whom to choose from, best first; and whether to choose blindly."""
    trusts = [tracks.get(bid.worker, UNTRIED).trust for bid in within]

    def of(*wanted: Trust) -> list[Weighed]:
        return [bid for bid, trust in zip(within, trusts, strict=True) if trust in wanted]

    proven, newcomers = of(Trust.PROVEN), of(Trust.NEWCOMER)
    if proven and not newcomers_compete:
        return proven, False
    if newcomers and not newcomers_compete:
        return newcomers, True
    return of(Trust.PROVEN, Trust.NEWCOMER) or within, False


def _first_tries(
    within: list[Weighed], tracks: Mapping[Address, Track], new_here: Collection[Address]
) -> list[Weighed]:
    limit = FIRST_TRY_SCORES_MAX * within[0].estimate.score
    return [
        bid
        for bid in within
        if bid.worker in new_here
        and bid.estimate.score <= limit
        and tracks.get(bid.worker, UNTRIED).trust is Trust.NEWCOMER
    ]


def _drawn(pool: list[Weighed], networks: Mapping[Address, frozenset[str]], draw: int) -> Weighed:
    crowd_of = crowds({bid.worker: networks.get(bid.worker, frozenset()) for bid in pool})
    crowds_of_bids: dict[str, list[Weighed]] = {}
    for bid in pool:
        crowds_of_bids.setdefault(crowd_of[bid.worker], []).append(bid)
    nth, rest = divmod(draw * len(crowds_of_bids), DRAWS)
    crowd = crowds_of_bids[sorted(crowds_of_bids)[nth]]
    return crowd[rest * len(crowd) // DRAWS]


def _equals(pool: list[Weighed], prefs: Preferences) -> list[Weighed]:
    best = pool[0]
    if prefs.sort == "score":
        limit = best.estimate.score * (100 + NEAR_BEST_PERCENT) // 100
        equals = [bid for bid in pool if bid.estimate.score <= limit]
        resumed = [bid.estimate.tokens_cached for bid in equals if bid.estimate.resumes]
        if resumed:
            return [bid for bid in equals if bid.estimate.tokens_cached == max(resumed)]
        return equals
    key = sort_key(prefs.sort, best.estimate)
    return [
        bid
        for bid in pool
        if sort_key(prefs.sort, bid.estimate) == key and bid.estimate.score == best.estimate.score
    ]


def _sentence(
    won: Weighed,
    *,
    within: list[Weighed],
    pool: list[Weighed],
    equals: list[Weighed],
    prefs: Preferences,
) -> str:
    if prefs.worker is not None:
        return f"the wanted worker; {_figures(won, prefs)}"
    among = f"{len(within)} within limits"
    if won.estimate.resumes and won is not pool[0] and prefs.sort == "score":
        text = f"goes on with what it has read, its score within {NEAR_BEST_PERCENT} % of the best "
        text += f"of {among}: {_figures(won, prefs)}"
    elif len(equals) == 1:
        text = f"{_WORDS[prefs.sort]} of {among}: {_figures(won, prefs)}"
        others = [bid for bid in pool if bid is not won]
        if others:
            text += f"; next best {sort_key(prefs.sort, others[0].estimate)}"
    elif prefs.sort == "score":
        text = f"drawn from {len(equals)} of {among} whose scores are within "
        text += f"{NEAR_BEST_PERCENT} % of the best: {_figures(won, prefs)}"
    else:
        text = f"drawn from {len(equals)} of {among} with the {_WORDS[prefs.sort]}: "
        text += _figures(won, prefs)
    passed_over = len(within) - len(pool)
    if passed_over:
        text += f"; {passed_over} untried or failing not considered"
    return text


def _figures(won: Weighed, prefs: Preferences) -> str:
    figures, cached = won.estimate, ""
    if figures.tokens_cached:
        cached = f" with {_count(figures.tokens_cached, 'cached token')}"
    return (
        f"score {figures.score} = {figures.price_micro} micro{cached} + "
        f"{figures.total_ms / MS_PER_S:.2f} s × {prefs.value_of_time_micro_per_s} micro/s"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
