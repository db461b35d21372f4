"""Who is there and who knows whom: arrivals, departures, announcements, sessions.

Gossip reaches every subscriber within a second or so, therefore everybody who has been there for a
while holds the same announcements: they share one book here (the production one, with real
signatures).  A worker that joins has a book of its own, fed by the answers to its exchanges and by
gossip, until it holds nearly as much.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from node.protocol import places, signing
from node.protocol.announcements import (
    EARLY_PAUSES_S,
    MESH_FORMED,
    AnnouncementBook,
    interval_s,
    ttl_s,
)
from node.protocol.fields import Address, Signed
from node.protocol.scoring import estimate
from node.protocol.statements import AnnouncedModel, Announcement, Tier
from node.roles import contacts, hints, loudness
from tests.sim_market.costs import DOMAIN
from tests.sim_market.parties import MODEL, PREFS, START_MS, Client, Clock, Worker
from tests.sim_market.world import Heap, Jobs

GOSSIP_S = (0.1, 0.6)
"""From the announcement to its hearers: p50 114 and p95 350 ms were measured at 20 nodes."""
DIAL_S = 0.15
SESSIONS_PER_WORKER_MAX = 300
WORKERS_MAX = 24
KNOWN_ENOUGH = 0.9
WATCHED_S = 60.0
"""How long a new worker may wait for its first job, by the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a market, and for how long."""

    nodes: int
    """Workers; and as many clients."""
    warm_s: float = 240.0
    measured_s: float = 600.0
    active_share: float = 0.5
    """Clients that have jobs; the others sit by."""
    load: float = 0.5
    """Of all workers' capacity."""
    worker_life_s: float = 4 * 3600.0
    client_life_s: float = 3600.0
    probes: int = 8
    """New workers at least, whatever the churn brings."""
    seed: int = 1

    @property
    def joins_s(self) -> float:
        """Workers join in so much of the measured time, so that each is watched for long enough."""
        return max(self.measured_s - WATCHED_S, self.measured_s / 2)


@dataclass(slots=True)
class Newcomer:
    """A worker that joined in the measured time, and what became of it."""

    worker: Worker
    found_s: float | None = None


@dataclass(slots=True)
class Flow:
    """What each node had to do with, in the measured time."""

    session_s: dict[int, float] = field(default_factory=dict)
    subscribed_s: dict[int, float] = field(default_factory=dict)
    connects: dict[int, int] = field(default_factory=dict)

    def session(self, node: object, seconds: float, *, subscribed: bool) -> None:
        key = id(node)
        self.session_s[key] = self.session_s.get(key, 0.0) + seconds
        if subscribed:
            self.subscribed_s[key] = self.subscribed_s.get(key, 0.0) + seconds

    def connect(self, node: object) -> None:
        self.connects[id(node)] = self.connects.get(id(node), 0) + 1


class Population:
    """Workers, clients, their sessions and what they heard."""

    def __init__(
        self, size: Size, heap: Heap, clock: Clock, jobs: Jobs, rng: random.Random
    ) -> None:
        self.size, self.heap, self.clock, self.jobs, self.rng = size, heap, clock, jobs, rng
        self.traits = random.Random(size.seed)
        """Of workers, so that every market of a seed has the same."""
        self.workers: dict[Address, Worker] = {}
        self.clients: list[Client] = []
        self.present: list[Client] = []
        self.ever: list[Worker] = []
        self.book = AnnouncementBook(DOMAIN)
        self.own_books: dict[Address, AnnouncementBook] = {}
        self.newcomers: list[Newcomer] = []
        self.by_address: dict[Address, Newcomer] = {}
        self.flow = Flow()
        self.opened: dict[tuple[int, Address], float] = {}
        self.announced = self.announced_new = 0
        self.heard: deque[float] = deque(maxlen=loudness.HEARD_MAX)
        """When announcements were made: what everybody's topic carried."""
        self.joined = 0
        self.pushed: dict[int, int] = {}
        """Per worker, offers pushed on change in the measured time."""

    # ---------------------------------------------------------------------------------- workers

    def new_worker(self, joined_s: float) -> Worker:
        worker = Worker(len(self.ever) + 1, self.clock, self.traits, joined_s)
        self.ever.append(worker)
        self.workers[worker.address] = worker
        self.heap.after(
            self.traits.expovariate(1 / self.size.worker_life_s), partial(self.leave, worker)
        )
        return worker

    def veteran(self) -> None:
        """A worker that has been there for long: everybody heard of it."""
        worker = self.new_worker(0.0)
        regular_s = interval_s(self.size.nodes)
        ago_s = self.rng.uniform(0, regular_s)
        signed = self.announcement(worker, regular_s, ago_s=ago_s)
        self.book.take(signed, now_ms=self.clock.unix_ms())
        self.heap.after(regular_s - ago_s, partial(self.announce, worker, regular_s, ()))

    def join(self) -> None:
        """A worker starts, and asks its bootstrap peer whom it knows."""
        worker = self.new_worker(self.clock.now_s)
        self.joined += 1
        book = self.own_books[worker.address] = AnnouncementBook(DOMAIN)
        newcomer = Newcomer(worker)
        if self.jobs.measuring:
            self.newcomers.append(newcomer)
        self.by_address[worker.address] = newcomer
        self.exchange(worker, book)
        # Those that dial it meanwhile are its mesh by the first repeat, which so is the last.
        formed = self.size.nodes >= MESH_FORMED
        self.announce(worker, 0.0, EARLY_PAUSES_S[:1] if formed else EARLY_PAUSES_S)

    def exchange(self, worker: Worker, book: AnnouncementBook) -> None:
        if worker.address not in self.own_books:
            return
        now_ms = self.clock.unix_ms()
        for _ in range(hints.EXCHANGE_PEERS):
            answer = self.book.reply(
                MODEL,
                count_max=64,
                seed=self.rng.getrandbits(64),
                now_ms=now_ms,
                besides=worker.address,
            )
            for signed in answer:
                book.take(signed, now_ms=now_ms)
        if book.count(MODEL) >= KNOWN_ENOUGH * self.book.count(MODEL):
            del self.own_books[worker.address]
        else:
            self.heap.after(hints.EXCHANGE_EVERY_S, partial(self.exchange, worker, book))

    def announcement(
        self, worker: Worker, regular_s: float, *, ago_s: float = 0.0
    ) -> Signed[Announcement]:
        issued_s = self.clock.now_s - ago_s
        number = worker.number
        said = Announcement(
            worker=worker.address,
            payee=worker.address,
            addrs=(f"/ip4/10.{number >> 8 & 255}.{number & 255}.1/tcp/4321/p2p/{number}",),
            models=(
                AnnouncedModel(
                    model=MODEL,
                    name="m",
                    tier=Tier.IDS,
                    price_in=worker.price_in,
                    price_out=worker.price_out,
                ),
            ),
            region="",
            issued_ms=START_MS + int(issued_s * 1000),
            ttl_s=ttl_s(regular_s),
        )
        return signing.sign(said, DOMAIN, worker.key)

    def announce(self, worker: Worker, last_s: float, early: tuple[float, ...]) -> None:
        """As `roles.announcer`: soon again while young, then at the interval of its topic."""
        if worker.left_s is not None:
            return
        self.heard.append(self.clock.now_s)
        self.announced += self.jobs.measuring
        self.announced_new += self.jobs.measuring and worker.address in self.by_address
        book = self.own_books.get(worker.address, self.book)
        # Who has not listened for the whole window counts from zero, as the others did.
        listened_s = min(self.clock.now_s - worker.joined_s, loudness.HEARD_WINDOW_S)
        heard = sum(at_s > self.clock.now_s - listened_s for at_s in self.heard)
        regular_s = interval_s(
            max(book.count(MODEL), 1),
            last_s=last_s,
            heard_per_s=heard / loudness.HEARD_WINDOW_S,
        )
        signed = self.announcement(worker, regular_s)
        self.heap.after(self.rng.uniform(*GOSSIP_S), partial(self.hear, signed))
        wait_s = min(early[0], regular_s) if early else regular_s
        self.heap.after(
            wait_s * self.rng.uniform(0.9, 1.1),
            partial(self.announce, worker, regular_s, early[1:]),
        )

    def hear(self, signed: Signed[Announcement]) -> None:
        now_ms = self.clock.unix_ms()
        worker = signed.statement.worker
        unheard_of = self.book.find(worker, now_ms=now_ms) is None
        for book in (self.book, *self.own_books.values()):
            book.take(signed, now_ms=now_ms)
        if unheard_of:
            known = self.book.count(MODEL)
            for client in self.present:
                draw = self.rng.random()
                if places.tries_newcomer(places=WORKERS_MAX, workers=known, draw=draw):
                    # At the next `tend`.
                    self.heap.after(
                        self.rng.uniform(0.0, 0.5), partial(self.try_newcomer, client, worker)
                    )

    def leave(self, worker: Worker) -> None:
        if worker.left_s is not None:
            return
        worker.left_s = self.clock.now_s
        del self.workers[worker.address]
        self.own_books.pop(worker.address, None)
        for client in tuple(worker.sessions):
            self.close(client, worker)
            self.heap.after(1.0, partial(self.fill, client))

    # ---------------------------------------------------------------------------------- clients

    def new_client(self) -> Client:
        active = self.rng.random() < self.size.active_share
        client = Client(len(self.clients), self.clock, self.rng, active=active)
        client.joined_s = self.clock.now_s
        self.clients.append(client)
        self.present.append(client)
        self.heap.after(self.rng.uniform(0, 5.0), partial(self.fill, client))
        self.heap.after(
            contacts.ROTATE_EVERY_S * self.rng.uniform(0.1, 0.2), partial(self.rotate, client)
        )
        life_s = self.rng.expovariate(1 / self.size.client_life_s)
        self.heap.after(life_s, partial(self.replace_client, client))
        return client

    def buyer(self) -> Client:
        """Whose job the next one is: arrivals without memory over all that have jobs."""
        buyers = [client for client in self.present if client.active] or self.present
        return self.rng.choice(buyers)

    def replace_client(self, client: Client) -> None:
        client.gone = True
        self.present.remove(client)
        for worker in tuple(client.sessions.values()):
            self.close(client, worker)
        self.new_client()

    def leads(self, client: Client) -> list[Address]:
        found = self.book.select(
            MODEL,
            count_max=2 * WORKERS_MAX,
            seed=self.rng.getrandbits(64),
            now_ms=self.clock.unix_ms(),
        )
        return [each.statement.worker for each in found if self.is_new(client, each)]

    def is_new(self, client: Client, signed: Signed[Announcement]) -> bool:
        worker = signed.statement.worker
        return worker not in client.sessions and client.put_off.get(worker, 0) < self.clock.now_s

    def fill(self, client: Client) -> None:
        if client.gone:
            return
        room = WORKERS_MAX - len(client.sessions)
        if room > 0:
            for address in self.leads(client)[:room]:
                self.heap.after(DIAL_S, partial(self.dial, client, address))

    def dial(self, client: Client, address: Address) -> None:
        if client.gone or address in client.sessions:
            return
        worker = self.workers.get(address)
        self.jobs.tally.dials += self.jobs.measuring
        if self.jobs.measuring:
            self.flow.connect(client)
        if worker is None or len(worker.sessions) >= SESSIONS_PER_WORKER_MAX:
            self.jobs.tally.dials_failed += self.jobs.measuring
            client.put_off[address] = self.clock.now_s + 600.0
            self.heap.after(contacts.DIAL_S, partial(self.fill, client))
            return
        if self.jobs.measuring:
            self.flow.connect(worker)
        client.sessions[address] = worker
        worker.sessions[client] = None
        if client.active:
            worker.subscribers[client] = None
        self.opened[client.number, address] = self.clock.now_s
        newcomer = self.by_address.get(address)
        if newcomer is not None and newcomer.found_s is None:
            newcomer.found_s = self.clock.now_s

    def close(self, client: Client, worker: Worker) -> None:
        client.sessions.pop(worker.address, None)
        worker.sessions.pop(client, None)
        worker.subscribers.pop(client, None)
        opened_s = self.opened.pop((client.number, worker.address), self.clock.now_s)
        self.count_session(client, worker, opened_s)

    def count_session(self, client: Client, worker: Worker, opened_s: float) -> None:
        end_s = self.size.warm_s + self.size.measured_s
        seconds = min(self.clock.now_s, end_s) - max(opened_s, self.size.warm_s)
        if seconds > 0:
            for node in (client, worker):
                self.flow.session(node, seconds, subscribed=client.active)

    def rotate(self, client: Client) -> None:
        """As `roles.contacts`: with all places taken, the worst idle worker gives way."""
        if client.gone:
            return
        pause_s = places.rotate_pause_s(
            searching_s=self.clock.now_s - client.joined_s, every_s=contacts.ROTATE_EVERY_S
        )
        self.heap.after(pause_s, partial(self.rotate, client))
        if len(client.sessions) < WORKERS_MAX:
            self.fill(client)
        elif client.active:
            leads = self.leads(client)
            if leads and self.let_go(client):
                self.heap.after(DIAL_S, partial(self.dial, client, leads[0]))

    def try_newcomer(self, client: Client, worker: Address) -> None:
        if client.gone or not client.active:
            return
        if self.clock.now_s - client.joined_s > places.NEW_S:
            client.new[worker] = self.clock.now_s + places.NEW_S
        if worker in client.sessions:
            return
        if len(client.sessions) < WORKERS_MAX or self.let_go(client):
            self.heap.after(DIAL_S, partial(self.dial, client, worker))

    def let_go(self, client: Client) -> bool:
        held = {a: self.standing(client, w) for a, w in client.sessions.items()}
        idle = frozenset(a for a in held if not client.busy.get(a))
        new = tuple(a for a in held if self.jobs.is_new(client, a))
        worst = places.worst(held, idle=idle, new=new)
        if worst is None:
            return False
        self.close(client, client.sessions[worst])
        client.put_off[worst] = self.clock.now_s + 2 * contacts.ROTATE_EVERY_S
        return True

    def standing(self, client: Client, worker: Worker) -> places.Standing:
        """As `roles.market`."""
        track = client.measured.track(worker.address, MODEL)
        score = estimate(client.last_need, PREFS, worker.standing.terms, track).score
        return track.trust.value, score

    # ------------------------------------------------------------------------------------- start

    def begin(self, *, clients: int) -> None:
        for _ in range(self.size.nodes):
            self.veteran()
        for _ in range(clients):
            self.new_client()
        self.heap.after(self.size.warm_s, self.begin_joins)

    def begin_joins(self) -> None:
        """Workers join as often as they leave, and at least as many as `probes`."""
        mean = self.size.nodes * self.size.measured_s / self.size.worker_life_s
        count = max(self.size.probes, round(mean))
        for number in range(count):
            self.heap.after(self.size.joins_s * (number + 0.5) / count, self.join)
