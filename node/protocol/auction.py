"""The auction of one job, as the client holds it: a pure state machine.

    start ──fresh offers──▶ DIRECT ──award──▶ CHOSEN ──refused──▶ DIRECT, again among what is left
      │ cold, large            │ 3 refusals or nothing left          or ASK
      └──────────▶ ASK ◀───────┘
                   ask everyone in reach, wait for bids: until all answered or the window closes
                   ──award──▶ CHOSEN ──refused──▶ the next bid, or another round
                   ──nobody in time──▶ OVER

Time is monotonic seconds.  Randomness is `seed`: from it and the number of choices made so far
follow the draws, so that the same events give the same winners.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from node.protocol import auction_asking, choice
from node.protocol.auction_record import (
    BIDS_KEPT_MAX,
    LOST,
    REFUSALS_KEPT_MAX,
    AuctionRecord,
    NoBid,
    Weighed,
    refusal_name,
)
from node.protocol.auction_state import (
    CURABLE,
    OUR_FAULT,
    PASSING,
    AwardLost,
    AwardRefused,
    Bound,
    Declined,
    Event,
    GiveAward,
    GiveUp,
    Phase,
    Reached,
    Rules,
    State,
    Step,
    Tick,
)
from node.protocol.choice import DRAWS, NOTHING_KNOWN, UNTRIED, Choice
from node.protocol.fields import Address
from node.protocol.offers import Standing
from node.protocol.scoring import (
    OK_WHOLE,
    Need,
    Preferences,
    Track,
    newcomers_after,
    newcomers_refused,
    price_micro,
)


def start(
    *,
    need: Need,
    prefs: Preferences,
    rules: Rules,
    seed: int,
    now_s: float,
    offers: tuple[Standing, ...],
    reached: Reached,
    tracks: Mapping[Address, Track],
    newcomers_permille: int = OK_WHOLE,
    known: Mapping[Address, int] = NOTHING_KNOWN,
    without: frozenset[Address] = frozenset(),
    urgent: bool = False,
) -> Step:
    """Begin an auction.

    Args:
        need: The job.
        prefs: The client's limits and how it compares.
        rules: Limits of the auction itself.
        seed: 64 random bits.
        now_s: Monotonic.
        offers: Live offers at hand, verified.
        reached: Who has a session; with nothing pending and offers at hand the award is direct.
        tracks: What was measured of workers with this model.
        newcomers_permille: The record of newcomers together, `scoring.newcomers_after`.
        known: Tokens of the prompt that workers are known to have read before.
        without: Workers that are not to be awarded: they had the job before.
        urgent: Somebody waits for the next token: one offer within the limits is enough, and nobody
            is asked while there is one.
    """
    state = State(
        need=need,
        prefs=prefs,
        rules=rules,
        seed=seed,
        opened_s=now_s,
        searching_s=now_s,
        phase=Phase.DIRECT,
        mode=Phase.DIRECT,
        standings={each.terms.worker: each for each in offers},
        tracks=tracks,
        known=known,
        newcomers_permille=newcomers_permille,
        reach=reached.workers,
        networks=reached.networks,
        new_here=reached.new_here,
        pending=reached.pending,
        banned=without,
    )
    if not urgent and (reached.pending or _is_cold(state) or _is_large(state)):
        state = _to_ask(state)
    return _advance(state, now_s)


def step(state: State, event: Event, now_s: float) -> Step:
    """What an event leads to.  Events that come too late change nothing."""
    if state.phase is Phase.OVER:
        return state, ()
    match event:
        case Reached():
            state = replace(
                state,
                reach=event.workers,
                pending=event.pending,
                networks=event.networks,
                new_here=event.new_here,
            )
        case Bound():
            state = _bound(state, event.standing)
        case Declined():
            state = _declined(state, event)
        case AwardRefused():
            state = _award_refused(state, event, now_s)
        case AwardLost():
            state = _award_lost(state, event, now_s)
        case Tick():
            pass
        case _:
            assert_never(event)
    if state.phase is Phase.OVER:
        return state, (GiveUp(reason=state.failure),)
    return _advance(state, now_s)


def wake_s(state: State, now_s: float) -> float | None:
    """When a `Tick` is due, monotonic; None while only other events matter."""
    if state.phase is not Phase.ASK:
        return None
    marks = (auction_asking.over_s(state), state.window_ends_s, state.ask_again_s)
    # What has passed has had its effect; only what is still to come is worth waking for.
    return min((mark for mark in marks if mark is not None and mark > now_s), default=now_s)


def record(state: State, now_s: float) -> AuctionRecord:
    """The account so far."""
    ranking = state.chosen.ranking if state.chosen is not None else _rank(state, now_s)
    ranked = {bid.worker for bid in ranking}
    gone = (
        bid if bid.objection else replace(bid, objection="withdrawn or refused")
        for worker, bid in state.weighed.items()
        if worker not in ranked
    )
    winner = state.chosen.standing.terms.worker if state.chosen is not None else None
    reason = state.chosen.reason if state.chosen is not None else state.failure or "not decided"
    return AuctionRecord(
        mode=state.mode.value,
        sort=state.prefs.sort,
        asked=len(state.asked_ever),
        bids=(*ranking, *gone)[:BIDS_KEPT_MAX],
        refusals=state.refusals,
        winner=winner,
        reason=reason,
    )


def _advance(state: State, now_s: float) -> Step:
    if state.phase is Phase.DIRECT:
        chosen = _choose(state, now_s)
        if chosen is not None:
            return _award(state, chosen)
        state = _to_ask(state)
    if state.phase is Phase.ASK:
        return _advance_ask(state, now_s)
    return state, ()


def _advance_ask(state: State, now_s: float) -> Step:
    state, effects = auction_asking.ask(auction_asking.ask_again(state, now_s), now_s)
    if not auction_asking.window_closed(state, now_s):
        return state, effects
    chosen = _choose(state, now_s)
    if chosen is not None:
        state, award = _award(state, chosen)
        return state, effects + award
    if now_s >= auction_asking.over_s(state) or auction_asking.hopeless(state):
        state = replace(state, phase=Phase.OVER, failure=_why_not(state, now_s))
        return state, (*effects, GiveUp(reason=state.failure))
    if state.passing and state.ask_again_s is None:
        state = replace(state, ask_again_s=now_s + state.rules.ask_again_s)
    return state, effects


def _bound(state: State, standing: Standing) -> State:
    worker, terms = standing.terms.worker, standing.terms
    if terms.model != state.need.model or terms.serial <= state.floors.get(worker, -1):
        return state
    held = state.standings.get(worker)
    if held is not None and held.terms.serial >= terms.serial:
        return state
    # A bid answers the ask; an offer that happens to come in between does not.
    answered = state.answered | {worker} if any(terms.ask) else state.answered
    return replace(state, standings={**state.standings, worker: standing}, answered=answered)


def _declined(state: State, event: Declined) -> State:
    if event.worker not in state.asked - state.answered:
        return state
    state = replace(
        state,
        answered=state.answered | {event.worker},
        passing=state.passing | ({event.worker} if event.code in PASSING else set()),
        refusals=_noted(state, event.worker, "ask", refusal_name(event.code), event.detail),
    )
    if event.code not in CURABLE:
        state = replace(state, banned=state.banned | {event.worker})
    # An offer for anyone still binds a worker that does not bid for this job, but it just said no.
    state = _without(state, event.worker)
    return state if event.fresh is None else _bound(state, event.fresh)


def _award_refused(state: State, event: AwardRefused, now_s: float) -> State:
    if state.phase is not Phase.CHOSEN or state.chosen is None:
        return state
    worker = state.chosen.standing.terms.worker
    count = state.refused.get(worker, 0) + 1
    name = refusal_name(event.code)
    state = replace(
        _without(state, worker),
        refused={**state.refused, worker: count},
        refusals=_noted(state, worker, "award", name, event.detail),
    )
    if event.code not in OUR_FAULT:
        state = _held_against(state, worker, failed=False)
    if event.code not in CURABLE or count >= state.rules.refusals_per_worker_max:
        state = replace(state, banned=state.banned | {worker})
    elif event.fresh is not None:
        state = _bound(state, event.fresh)
    return _reopened(state, now_s)


def _award_lost(state: State, event: AwardLost, now_s: float) -> State:
    if state.phase is not Phase.CHOSEN or state.chosen is None:
        return state
    worker = state.chosen.standing.terms.worker
    state = replace(
        _without(state, worker),
        banned=state.banned | {worker},
        refusals=_noted(state, worker, "award", LOST, event.reason),
    )
    if event.failed:
        state = _held_against(state, worker, failed=True)
    return _reopened(state, now_s)


def _held_against(state: State, worker: Address, *, failed: bool) -> State:
    """What just went wrong counts at once: else one auction could go through a whole flood."""
    track, newcomers = state.tracks.get(worker, UNTRIED), state.newcomers_permille
    if track.jobs == 0 and failed:
        newcomers = newcomers_after(newcomers, ok=False)
    elif track.jobs == 0 and state.mode is Phase.ASK:
        # It bid for this very job a moment ago; an offer for anyone may have found another taker.
        newcomers = newcomers_refused(newcomers)
    now_ms = track.updated_ms
    track = track.after(ok=False, now_ms=now_ms) if failed else track.refused(now_ms=now_ms)
    return replace(state, tracks={**state.tracks, worker: track}, newcomers_permille=newcomers)


def _reopened(state: State, now_s: float) -> State:
    """The choice came to nothing: go on among what is left, or ask (again)."""
    state = replace(state, chosen=None, phase=state.mode, searching_s=now_s)
    if state.awards >= state.rules.awards_max:
        failure = f"{state.awards} awards came to nothing; {_why_not(state, now_s)}"
        return replace(state, phase=Phase.OVER, failure=failure)
    if state.mode is Phase.DIRECT:
        return _to_ask(state) if state.awards >= state.rules.refusals_max else state
    if _choose(state, now_s) is None:
        return _to_ask(state)
    return state


def _to_ask(state: State) -> State:
    return replace(
        state,
        phase=Phase.ASK,
        mode=Phase.ASK,
        asked=frozenset(),
        answered=frozenset(),
        passing=frozenset(),
        window_ends_s=None,
        ask_again_s=None,
    )


def _without(state: State, worker: Address) -> State:
    held = state.standings.get(worker)
    if held is None:
        return state
    serial = max(held.terms.serial, state.floors.get(worker, -1))
    kept = {key: value for key, value in state.standings.items() if key != worker}
    return replace(state, standings=kept, floors={**state.floors, worker: serial})


def _award(state: State, chosen: Choice) -> Step:
    state = replace(
        state,
        phase=Phase.CHOSEN,
        chosen=chosen,
        awards=state.awards + 1,
        weighed={**state.weighed, **{bid.worker: bid for bid in chosen.ranking}},
    )
    return state, (GiveAward(choice=chosen),)


def _choose(state: State, now_s: float) -> Choice | None:
    return choice.choose(
        _rank(state, now_s),
        prefs=state.prefs,
        tracks=state.tracks,
        newcomers_permille=state.newcomers_permille,
        draws=_draws(state),
        refusals=sum(state.refused.values()),
        networks=state.networks,
        new_here=state.new_here,
    )


def _rank(state: State, now_s: float) -> tuple[Weighed, ...]:
    return choice.rank(
        (each for each in state.standings.values() if each.live(now_s)),
        need=state.need,
        prefs=state.prefs,
        tracks=state.tracks,
        elapsed_ms=int((now_s - state.opened_s) * 1000),
        out=state.banned | (state.standings.keys() - state.reach),
        known=state.known,
    )


def _draws(state: State) -> tuple[int, int]:
    """Two numbers below `DRAWS` for the choice that comes next."""
    text = f"{state.seed}:{state.awards}".encode()
    raw = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(raw[:8], "big") % DRAWS, int.from_bytes(raw[8:], "big") % DRAWS


def _is_cold(state: State) -> bool:
    """Too few offers are at hand for a choice, and more could be had."""
    if state.prefs.worker is not None:
        return state.prefs.worker not in state.standings
    return len(state.standings) < min(state.rules.offers_min, len(state.reach))


def _is_large(state: State) -> bool:
    if state.need.tokens_in >= state.rules.large_tokens_in:
        return True
    prices = [price_micro(state.need, each.terms) for each in state.standings.values()]
    return bool(prices) and min(prices) >= state.rules.large_micro


def _noted(
    state: State, worker: Address, subject: str, code: str, detail: str
) -> tuple[NoBid, ...]:
    noted = NoBid(worker=worker, subject=subject, code=code, detail=detail[:200])
    return (*state.refusals, noted)[-REFUSALS_KEPT_MAX:]


def _why_not(state: State, now_s: float) -> str:
    searched_s = now_s - state.opened_s
    wanted = state.prefs.worker
    if wanted is not None and wanted not in state.asked_ever | state.standings.keys():
        return f"the wanted worker was not found in {searched_s:.1f} s"
    if not state.asked_ever and not state.standings:
        return f"no worker that sells this model was found in {searched_s:.1f} s"
    return choice.why_nobody(
        _rank(state, now_s), refusals=state.refusals, asked=len(state.asked_ever)
    )
