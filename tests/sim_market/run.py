"""One market of one size: simulated, and weighed."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from node.protocol import limits
from node.protocol.scoring import Need
from node.roles import hints, seller
from tests.sim_market import costs
from tests.sim_market.population import Population, Size
from tests.sim_market.world import SLOTS, Client, Clock, Heap, Jobs, Tally, Worker

LOOKUP_QUERIES = 30
"""Of one DHT look-up: about 20 on the way to the closest, and 10 of those for the providers."""
PROVIDERS_PER_KEY = 20
"""What libp2p's store keeps of one key, and answers with."""
JOB_S_MEAN = 20.0
"""About, at half load."""
COMPARED = 40_000
"""Pairs of choice and worker for which the best of all is looked for."""


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
    choice_ratio: float
    choice_ratio_p95: float
    load_max_over_mean: float
    load_gini: float
    refused_percent: float
    failed_percent: float
    dials_failed_percent: float
    took_s: float


def simulate(size: Size) -> Outcome:
    began = time.monotonic()
    rng, clock, tally = random.Random(size.seed), Clock(), Tally()
    heap = Heap(clock)
    jobs = Jobs(heap, clock, rng, tally)
    people = Population(size, heap, clock, jobs, rng)
    people.begin()
    rate = size.load * size.nodes * SLOTS / JOB_S_MEAN
    heap.after(20.0, partial(_next_job, heap, jobs, people, rng, rate))
    heap.run_until(size.warm_s - 1e-6)
    jobs.measuring = True
    jobs.omniscient = partial(_best_of_all, jobs, people)
    samples = max(40, COMPARED // size.nodes)
    jobs.omniscient_every = max(1, int(rate * size.measured_s / samples))
    for worker in people.ever:
        worker.pushes = 0
        worker.busy_s = 0.0
    heap.run_until(size.warm_s + size.measured_s)
    for client in people.clients:
        for worker in tuple(client.sessions.values()):
            people.close(client, worker)
    return _outcome(size, people, tally, time.monotonic() - began)


def _next_job(heap: Heap, jobs: Jobs, people: Population, rng: random.Random, rate: float) -> None:
    """Of somebody that is there and has jobs: arrivals without memory over all of them."""
    for _ in range(20):
        client = rng.choice(people.present)
        if client.active and not client.gone:
            jobs.arrive(client)
            break
    heap.after(rng.expovariate(rate), partial(_next_job, heap, jobs, people, rng, rate))


def _best_of_all(jobs: Jobs, people: Population, need: Need) -> int:
    return min(jobs.true_score(worker, need) for worker in people.workers.values())


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
    pings = sessions / limits.PING_IDLE_EVERY_S
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


def _outcome(size: Size, people: Population, tally: Tally, took_s: float) -> Outcome:
    seconds = size.measured_s
    # The probes are our instrument: the topic carries as many newcomers as the churn brings.
    natural = size.nodes * seconds / size.worker_life_s / max(len(people.newcomers), 1)
    topic = (people.announced - people.announced_new * (1 - min(natural, 1.0))) / seconds

    def cost_of(node: Client | Worker, *, jobs: bool = False) -> Cost:
        sells = isinstance(node, Worker)
        return _cost(
            sessions=people.flow.session_s.get(id(node), 0.0) / seconds,
            subscribed=people.flow.subscribed_s.get(id(node), 0.0) / seconds,
            pushed=node.pushes / seconds if isinstance(node, Worker) and jobs else 0.0,
            connects=people.flow.connects.get(id(node), 0) / (size.warm_s + seconds),
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
    new = people.newcomers
    return Outcome(
        nodes=size.nodes,
        joined=len(new),
        jobs_per_s=round(tally.jobs / seconds, 2),
        utilisation=round(sum(loads) / len(loads), 3),
        topic_messages_per_s=round(topic, 3),
        client=_mean(costs_idle),
        worker=_mean(costs_workers),
        busiest=busiest,
        busiest_is=kind,
        found=_spread([_since(n.found_s, n.worker) for n in new]),
        awarded=_spread([_since(n.worker.first_award_s, n.worker) for n in new]),
        choice_ratio=round(sum(tally.ratios) / max(len(tally.ratios), 1), 4),
        choice_ratio_p95=round(_at(sorted(tally.ratios), 0.95), 3),
        load_max_over_mean=round(max(loads) * len(loads) / (sum(loads) or 1), 2),
        load_gini=round(_gini(loads), 3),
        refused_percent=round(100 * tally.refused / max(tally.awards, 1), 2),
        failed_percent=round(100 * tally.failed / max(tally.jobs, 1), 2),
        dials_failed_percent=round(100 * tally.dials_failed / max(tally.dials, 1), 2),
        took_s=round(took_s, 1),
    )


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
