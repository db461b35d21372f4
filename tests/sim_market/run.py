"""One market of one size: simulated, and weighed."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from node.adapters.p2p.session import LEAD
from node.protocol import limits
from node.protocol.scoring import Need
from node.roles import hints, seller
from tests.sim_market import costs
from tests.sim_market.parties import SLOTS, Client, Clock, Worker
from tests.sim_market.population import Population, Size
from tests.sim_market.scheduler import Scheduler
from tests.sim_market.world import Heap, Jobs, Tally

LOOKUP_QUERIES = 30
"""Of one DHT look-up: about 20 on the way to the closest, and 10 of those for the providers."""
PROVIDERS_PER_KEY = 20
"""What libp2p's store keeps of one key, and answers with."""
JOB_S_MEAN = 20.0
"""About, at half load."""
COMPARED = 40_000
"""Pairs of choice and worker for which the best of all is looked for."""
SAMPLES_MIN = 400
LAST_JOBS_S = 60.0
"""The market goes on for so long, for the jobs that began in the measured time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a node spends on the market beside its jobs."""

    messages_per_s: float
    bytes_per_s: float
    cpu_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Seconds."""

    p50: float
    p95: float
    most: float
    never: int
    """Of all that were watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A row of the table."""

    nodes: int
    joined: int
    competitive: int
    """Of those that joined: no dearer and slower than the median of all, at the value of time."""
    jobs_per_s: float
    utilisation: float
    topic_messages_per_s: float
    client: Cost
    """Mean of idle clients."""
    worker: Cost
    """Mean of workers, as they would be without jobs: with their sessions and subscribers."""
    busiest: Cost
    busiest_is: str
    found: Spread
    awarded: Spread
    awarded_competitive: Spread
    cost_ratio: float
    """What jobs cost in the end, time at its value, over what they cost when somebody who knows
    everything places them all (`scheduler`)."""
    choice_ratio: float
    """The score of a choice over the best of all workers at that moment, in this market: what one
    client alone could gain by knowing everything."""
    choice_ratio_p95: float
    load_max_over_mean: float
    load_gini: float
    refused_percent: float
    failed_percent: float
    dials_failed_percent: float
    took_s: float


def simulate(size: Size) -> Outcome:
    began = time.monotonic()
    market, people = _play(size, Jobs, clients=size.nodes)
    best, _ = _play(size, Scheduler, clients=1)
    return _outcome(size, people, market.tally, best.tally, time.monotonic() - began)


def _play(size: Size, kind: type[Jobs], *, clients: int) -> tuple[Jobs, Population]:
    """A market of one kind, from its start until its last measured jobs have ended."""
    rng, sizes, clock, tally = random.Random(size.seed), random.Random(size.seed), Clock(), Tally()
    heap = Heap(clock)
    jobs = kind(heap, clock, rng, sizes, tally)
    people = Population(size, heap, clock, jobs, rng)
    if isinstance(jobs, Scheduler):
        jobs.workers = people.workers
    people.begin(clients=clients)
    rate = size.load * size.nodes * SLOTS / JOB_S_MEAN
    heap.after(20.0, partial(_next_job, heap, jobs, people, sizes, rate))
    heap.run_until(size.warm_s - 1e-6)
    jobs.measuring = True
    jobs.omniscient = partial(_best_of_all, people)
    samples = max(SAMPLES_MIN, COMPARED // size.nodes)
    jobs.omniscient_every = max(1, int(rate * size.measured_s / samples))
    for worker in people.ever:
        worker.pushes = 0
        worker.busy_s = 0.0
    heap.run_until(size.warm_s + size.measured_s)
    jobs.measuring = False
    people.pushed = {id(worker): worker.pushes for worker in people.ever}
    heap.run_until(size.warm_s + size.measured_s + LAST_JOBS_S)
    for client in people.clients:
        for worker in tuple(client.sessions.values()):
            people.close(client, worker)
    return jobs, people


def _next_job(
    heap: Heap, jobs: Jobs, people: Population, sizes: random.Random, rate: float
) -> None:
    jobs.arrive(people.buyer())
    heap.after(sizes.expovariate(rate), partial(_next_job, heap, jobs, people, sizes, rate))


def _best_of_all(people: Population, need: Need) -> int:
    return min(worker.real_score(need) for worker in people.workers.values() if not worker.full())


def _cost(
    *,
    sessions: float,
    subscribed: float,
    pushed: float,
    connects: float,
    topic: float,
    known: int,
    sells: bool,
) -> Cost:
    """Of one node, all per second.

    Args:
        sessions: Held on average.
        subscribed: Of these, over which offers go.
        pushed: Offers on change, besides those that keep the last one alive.
        connects: Made or accepted.
        topic: Announcements of the model's topic.
        known: Workers of the model.
        sells: Whether it signs the offers; else it checks them.
    """
    offers = subscribed / seller.OFFER_EVERY_S + pushed
    # Whoever has jobs with many at once pays for livelier pings on those; that is part of the jobs.
    pings = sessions / (LEAD * limits.PING_IDLE_EVERY_S)
    ample = known >= hints.AMPLE_WORKERS
    every_s = hints.EXCHANGE_AMPLE_S if ample else hints.EXCHANGE_EVERY_S
    exchanges = min(hints.EXCHANGE_PEERS, sessions) / every_s
    items = min(limits.ANNOUNCEMENTS_PER_EXCHANGE, known)
    reply = costs.reply_bytes(items)
    lookups = 0.0 if ample else 1 / hints.FIND_EVERY_S
    frames = offers + 2 * pings + 4 * exchanges
    passed = 2 * items * exchanges
    cpu_us = (
        topic * costs.GOSSIP_CPU_US
        + costs.GOSSIP_IDLE_CPU_US_PER_S
        + frames * costs.FRAME_CPU_US
        + (0 if sells else offers * costs.TAKE_OFFER_CPU_US)
        + passed * (costs.DECODE_ANNOUNCEMENT_CPU_US + costs.KNOWN_ANNOUNCEMENT_CPU_US)
        + 2 * lookups * LOOKUP_QUERIES * costs.DHT_QUERY_CPU_US
        + connects * costs.CONNECT_CPU_US
    )
    if sells:
        cpu_us += costs.SIGN_OFFER_CPU_US / seller.OFFER_EVERY_S
    weight = (
        topic * 2 * costs.MESH_COPIES * costs.GOSSIP_BYTES
        + costs.IHAVE_BYTES_PER_S
        + offers * costs.OFFER_BYTES
        + pings * (costs.PING_BYTES + costs.PONG_BYTES)
        + 2 * exchanges * (costs.WANTED_BYTES + reply)
        + 2 * lookups * LOOKUP_QUERIES * costs.DHT_QUERY_BYTES
        + connects * costs.CONNECT_BYTES
    )
    count = frames + topic * 2 * costs.MESH_COPIES + 4 * lookups * LOOKUP_QUERIES
    return Cost(
        messages_per_s=round(count, 2),
        bytes_per_s=round(weight),
        cpu_percent=round(cpu_us / 1e4, 3),
    )


def _outcome(size: Size, people: Population, tally: Tally, best: Tally, took_s: float) -> Outcome:
    seconds = size.measured_s
    # The probes are our instrument: the topic carries as many newcomers as the churn brings.
    natural = size.nodes * seconds / size.worker_life_s / max(len(people.newcomers), 1)
    topic = (people.announced - people.announced_new * (1 - min(natural, 1.0))) / seconds

    def cost_of(node: Client | Worker, *, jobs: bool = False) -> Cost:
        sells = isinstance(node, Worker)
        return _cost(
            sessions=people.flow.session_s.get(id(node), 0.0) / seconds,
            subscribed=people.flow.subscribed_s.get(id(node), 0.0) / seconds,
            pushed=people.pushed.get(id(node), 0) / seconds if jobs else 0.0,
            connects=people.flow.connects.get(id(node), 0) / seconds,
            topic=topic,
            known=size.nodes,
            sells=sells,
        )

    stayed = [w for w in people.ever if w.joined_s == 0.0 and w.left_s is None]
    idle = [c for c in people.clients if not c.active and not c.gone and c.number < size.nodes]
    costs_idle = [cost_of(client) for client in idle]
    costs_workers = [cost_of(worker) for worker in stayed]
    near_key = _near_key(size, topic)
    busiest = max((cost_of(w, jobs=True) for w in stayed), key=lambda each: each.bytes_per_s)
    kind = "worker with jobs"
    if near_key.bytes_per_s > busiest.bytes_per_s:
        busiest, kind = near_key, "closest to the model's key in the DHT"
    loads = [worker.busy_s / SLOTS / seconds for worker in stayed]
    new = [each.worker for each in people.newcomers]
    usual = _at(sorted(worker.alone_score() for worker in people.workers.values()), 0.5)
    good = [worker for worker in new if worker.alone_score() <= usual]
    return Outcome(
        nodes=size.nodes,
        joined=len(new),
        competitive=len(good),
        jobs_per_s=round(tally.jobs / seconds, 2),
        utilisation=round(sum(loads) / len(loads), 3),
        topic_messages_per_s=round(topic, 3),
        client=_mean(costs_idle),
        worker=_mean(costs_workers),
        busiest=busiest,
        busiest_is=kind,
        found=_spread([_since(each.found_s, each.worker) for each in people.newcomers]),
        awarded=_spread([_since(worker.first_award_s, worker) for worker in new]),
        awarded_competitive=_spread([_since(worker.first_award_s, worker) for worker in good]),
        cost_ratio=_cost_ratio(tally, best),
        choice_ratio=round(sum(tally.ratios) / max(len(tally.ratios), 1), 4),
        choice_ratio_p95=round(_at(sorted(tally.ratios), 0.95), 3),
        load_max_over_mean=round(max(loads) * len(loads) / (sum(loads) or 1), 2),
        load_gini=round(_gini(loads), 3),
        refused_percent=round(100 * tally.refused / max(tally.awards, 1), 2),
        failed_percent=round(100 * tally.failed / max(tally.jobs, 1), 2),
        dials_failed_percent=round(100 * tally.dials_failed / max(tally.dials, 1), 2),
        took_s=round(took_s, 1),
    )


def _cost_ratio(market: Tally, best: Tally) -> float:
    """Over the jobs that ended well in both; hardly any end otherwise."""
    both = market.costs.keys() & best.costs.keys()
    costs, least = (sum(each.costs[number] for number in both) for each in (market, best))
    return round(costs / (least or 1.0), 4)


def _near_key(size: Size, topic: float) -> Cost:
    """A node to which every look-up for the model comes in the end."""
    joins = size.nodes / size.worker_life_s + size.nodes / size.client_life_s
    queries = joins + (
        2 * size.nodes / hints.FIND_EVERY_S if size.nodes < hints.AMPLE_WORKERS else 0
    )
    plain = _cost(
        sessions=24, subscribed=0, pushed=0, connects=0, topic=topic, known=size.nodes, sells=True
    )
    answer = min(size.nodes, PROVIDERS_PER_KEY) * costs.PROVIDER_BYTES + costs.DHT_QUERY_BYTES
    return Cost(
        messages_per_s=round(plain.messages_per_s + 2 * queries, 2),
        bytes_per_s=round(plain.bytes_per_s + queries * answer),
        cpu_percent=round(plain.cpu_percent + queries * costs.DHT_QUERY_CPU_US / 1e4, 3),
    )


def _mean(found: list[Cost]) -> Cost:
    return Cost(
        messages_per_s=round(sum(each.messages_per_s for each in found) / len(found), 2),
        bytes_per_s=round(sum(each.bytes_per_s for each in found) / len(found)),
        cpu_percent=round(sum(each.cpu_percent for each in found) / len(found), 3),
    )


def _since(time_s: float | None, worker: Worker) -> float | None:
    return None if time_s is None else time_s - worker.joined_s


def _spread(times: list[float | None]) -> Spread:
    known = sorted(each for each in times if each is not None)
    # Who never was counts as infinitely late in the quantiles.
    ranked = known + [float("inf")] * (len(times) - len(known))
    return Spread(
        p50=round(_at(ranked, 0.5), 1),
        p95=round(_at(ranked, 0.95), 1),
        most=round(known[-1], 1) if known else float("inf"),
        never=len(times) - len(known),
    )


def _at(ranked: list[float], share: float) -> float:
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else float("nan")


def _gini(values: Iterable[float]) -> float:
    ranked = sorted(values)
    total, count = sum(ranked), len(ranked)
    if not total:
        return 0.0
    return (
        2 * sum((i + 1) * v for i, v in enumerate(ranked)) / (count * total) - (count + 1) / count
    )
