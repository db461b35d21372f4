"""A flood of identities with the best terms, which then refuse, fall silent or stop half-way.

The real nodes' version of this is attack 7 (`scripts/attack --only 7`).
"""

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from node.protocol import auction
from node.protocol.auction_state import (
    AwardLost,
    AwardRefused,
    Bound,
    Event,
    GiveAward,
    GiveUp,
    Phase,
    Reached,
    Rules,
    SendAsk,
    Tick,
)
from node.protocol.choice import UNTRIED
from node.protocol.fields import Address
from node.protocol.frames import Refused
from node.protocol.scoring import OK_WHOLE, Track, newcomers_after, newcomers_refused
from tests.protocol.market_samples import need, prefs, standing, worker_of

HONEST, SYBILS, CLIENTS, JOBS = 20, 180, 3, 100
KINDS = ("refuse", "silent", "half")
ASK = b"a" * 32


class Client:
    """What `roles.measurements` keeps of it: tracks, and the record of newcomers."""

    def __init__(
        self,
        networks: Mapping[Address, frozenset[str]],
        seed: int,
        *,
        new_here: frozenset[Address] = frozenset(),
    ) -> None:
        self.new_here = new_here
        self.networks, self.rng = networks, random.Random(seed)
        self.tracks: dict[Address, Track] = {}
        self.newcomers = OK_WHOLE
        self.awards: Counter[str] = Counter()

    def note(self, number: int, outcome: str) -> None:
        worker = worker_of(number)
        track = self.tracks.get(worker, UNTRIED)
        if outcome == "refuse":
            if track.jobs == 0:
                self.newcomers = newcomers_refused(self.newcomers)
            self.tracks[worker] = track.refused(now_ms=0)
            return
        ok = outcome == "served"
        if track.jobs == 0:
            self.newcomers = newcomers_after(self.newcomers, ok=ok)
        self.tracks[worker] = track.after(ok=ok, now_ms=0)

    def job(self) -> str:
        """How one job ends: served, half (a worker stopped amid it) or nobody."""
        offers = NUMBERS
        state, effects = auction.start(
            need=need(),
            prefs=prefs(),
            rules=Rules(),
            seed=self.rng.getrandbits(64),
            now_s=0.0,
            offers=OFFERS,
            reached=Reached(
                workers=frozenset(offers),
                pending=0,
                networks=self.networks,
                new_here=self.new_here,
            ),
            tracks=dict(self.tracks),
            newcomers_permille=self.newcomers,
        )
        queue = list(effects)
        while queue:
            match queue.pop(0):
                case GiveUp():
                    return "nobody"
                case SendAsk(workers=workers):
                    for worker in workers:
                        number = offers[worker]
                        bid = standing(number, serial=2, ask=ASK, **_terms(number))
                        state, more = auction.step(state, Bound(standing=bid), 0.1)
                        queue += more
                    if state.phase is Phase.ASK:
                        state, more = auction.step(state, Tick(), 1.0)
                        queue += more
                case GiveAward(choice=chosen):
                    number = offers[chosen.standing.terms.worker]
                    outcome = "served" if number <= HONEST else KINDS[number % len(KINDS)]
                    self.awards[outcome] += 1
                    self.note(number, outcome)
                    if outcome in ("served", "half"):
                        return outcome
                    event: Event = AwardLost(reason="silent", failed=True)
                    if outcome == "refuse":
                        event = AwardRefused(code=Refused.BUSY, detail="")
                    state, more = auction.step(state, event, 1.0)
                    queue += more
        raise AssertionError("the auction does nothing more")


def _terms(number: int) -> dict[str, int]:
    """Sybils promise half the price at ten times the rate."""
    if number <= HONEST:
        return {"price_out": 400_000 + number}
    return {"price_out": 200_000 + number, "rate_mtps": 1_000_000, "first_token_ms": 10}


NUMBERS = {worker_of(n): n for n in range(1, HONEST + SYBILS + 1)}
OFFERS = tuple(standing(n, **_terms(n)) for n in NUMBERS.values())


def _networks(*, sybil_networks: int) -> dict[Address, frozenset[str]]:
    honest = {worker_of(n): frozenset({f"10.1.{n}.0/24"}) for n in range(1, HONEST + 1)}
    sybils = {
        worker_of(n): frozenset({f"10.2.{n % sybil_networks}.0/24", f"10.9.{n}.0/24"})
        for n in range(HONEST + 1, HONEST + SYBILS + 1)
    }
    return honest | sybils


@pytest.mark.parametrize("sybil_networks", [4, SYBILS])
def test_an_honest_worker_serves_nearly_every_job(sybil_networks: int) -> None:
    """Of new clients, each with nobody's record but its own."""
    ends: Counter[str] = Counter()
    for seed in range(CLIENTS):
        client = Client(_networks(sybil_networks=sybil_networks), seed)
        ends.update(client.job() for _ in range(JOBS))
    assert ends["served"] >= 0.95 * CLIENTS * JOBS, ends


def test_a_flood_that_is_new_in_the_market_costs_no_more() -> None:
    """First jobs for newcomers end where newcomers fail."""
    new = frozenset(worker_of(n) for n in range(HONEST + 1, HONEST + SYBILS + 1))
    ends: Counter[str] = Counter()
    for seed in range(CLIENTS):
        client = Client(_networks(sybil_networks=SYBILS), seed, new_here=new)
        ends.update(client.job() for _ in range(JOBS))
    assert ends["served"] >= 0.95 * CLIENTS * JOBS, ends


def test_few_networks_cost_few_awards() -> None:
    """However many identities are in them, and whatever other networks they claim to be in."""
    client = Client(_networks(sybil_networks=4), 1)
    for _ in range(JOBS):
        client.job()
    assert client.awards["silent"] + client.awards["half"] <= 12, client.awards


def test_asks_go_round_the_networks() -> None:
    """Not by address, which is made as its owner likes it."""
    networks = _networks(sybil_networks=4)
    _, effects = auction.start(
        need=need(),
        prefs=prefs(),
        rules=Rules(),
        seed=1,
        now_s=0.0,
        offers=(),
        reached=Reached(workers=frozenset(networks), pending=0, networks=networks),
        tracks={},
    )
    [ask] = effects
    assert isinstance(ask, SendAsk)
    honest = {worker_of(n) for n in range(1, HONEST + 1)}
    assert len(ask.workers) == Rules().asks_max
    assert honest <= set(ask.workers)
