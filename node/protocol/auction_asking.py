"""The asking part of an auction: whom to ask, in which order, and how long to wait for bids."""

import hashlib
from collections import Counter
from dataclasses import replace

from node.protocol.announcements import crowds
from node.protocol.auction_state import SendAsk, State, Step
from node.protocol.choice import UNTRIED
from node.protocol.fields import Address


def over_s(state: State) -> float:
    """When the search gives up, monotonic."""
    return state.searching_s + state.rules.discover_s


def ask_again(state: State, now_s: float) -> State:
    """Those that were busy a while ago may be asked once more."""
    if state.ask_again_s is None or not state.ask_again_s <= now_s < over_s(state):
        return state
    return replace(
        state,
        asked=state.asked - state.passing,
        answered=state.answered - state.passing,
        passing=frozenset(),
        window_ends_s=None,
        ask_again_s=None,
    )


def ask(state: State, now_s: float) -> Step:
    """Ask whoever is in reach and was not asked in this round."""
    wanted = state.reach - state.asked - state.banned
    if state.prefs.worker is not None:
        wanted &= {state.prefs.worker}
    room = state.rules.asks_max - len(state.asked)
    workers = _worth_asking(state, wanted)[: max(room, 0)]
    if not workers:
        return state, ()
    ends_s = state.window_ends_s
    state = replace(
        state,
        asked=state.asked | set(workers),
        asked_ever=state.asked_ever | set(workers),
        window_ends_s=now_s + state.rules.bid_window_s if ends_s is None else ends_s,
    )
    return state, (SendAsk(workers=workers),)


def _worth_asking(state: State, wanted: frozenset[Address]) -> tuple[Address, ...]:
    """In which order: proven workers first, then one of each network in turn.

    Not by address, which is made as its owner likes it.
    """
    crowd_of = crowds({each: state.networks.get(each, frozenset()) for each in wanted})
    turns: Counter[str] = Counter()
    ordered = []
    for worker in sorted(wanted, key=lambda each: _draw(state, each)):
        crowd = crowd_of[worker]
        trust = state.tracks.get(worker, UNTRIED).trust
        ordered.append((trust, turns[crowd], worker))
        turns[crowd] += 1
    return tuple(worker for _, _, worker in sorted(ordered, key=lambda each: each[:2]))


def _draw(state: State, worker: Address) -> bytes:
    key = state.seed.to_bytes(8, "big")
    return hashlib.blake2b(worker, digest_size=8, key=key).digest()


def window_closed(state: State, now_s: float) -> bool:
    """Whether bids are waited for no longer."""
    if state.window_ends_s is None:
        return now_s >= over_s(state) or hopeless(state)
    # A worker that left won't answer; nobody waits for it.
    waiting = (state.asked & state.reach) - state.answered
    return now_s >= state.window_ends_s or (not waiting and not state.pending)


def hopeless(state: State) -> bool:
    """Everybody within reach has given its last word."""
    waiting = (state.asked & state.reach) - state.answered
    return bool(state.asked_ever) and not (waiting or state.passing or state.pending)
