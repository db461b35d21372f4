"""The market on this machine: every target of latency, rate and memory, beside what was measured.

Real processes on loopback: a chain (Anvil), workers with their stores, hosts and money, clients
that buy.  Worker, session, vouchers and stores are those of `node serve` and `node submit`; where
tokens must come faster than our small model makes them, a paced engine stands behind the same port.
"""

import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from devnet import homes
from devnet.chain import CHAIN_ID, DevChain, Funding, running
from node.adapters import model_folder
from node.app import control
from node.app.home import Home
from node.protocol.signing import Domain
from node.units import MICRO_PER_UNIT
from tests.bench import seller, stages
from tests.bench.figures import Figure, Report, median, percentile
from tests.bench.paced_engine import manifest
from tests.bench.processes import Child, StageFailed, cpu_s, resident_mb, stage
from tests.bench.stages import Shop

PACE: Final = 50.0
FLAT_OUT: Final = 2_000.0
"""Tokens per second offered on each stream: far beyond what two cores can pass on."""
STREAMS: Final = 40
MANY: Final = 20
CLIENTS: Final = 4
DEPOSIT_MICRO: Final = 1_000 * MICRO_PER_UNIT
GOSSIP_SETTLES_S: Final = 2.0

SETTINGS: Final[dict[str, Any]] = {
    # Ten times the usual price: vouchers flow every 125 tokens of a stream, as in a dear model.
    "worker.price_out": 4_000_000,
    # One client buys everything here, and nobody redeems.
    "worker.credit_micro": 900 * MICRO_PER_UNIT,
    "worker.credit_new_micro": 900 * MICRO_PER_UNIT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is run."""

    connects: int
    asks: int
    rounds: int
    paced_tokens: int
    flat_tokens: int
    crowd: int
    idle_s: float
    frozen: int


QUICK: Final = Plan(
    connects=2, asks=20, rounds=12, paced_tokens=150, flat_tokens=1_000, crowd=100, idle_s=3.0,
    frozen=1,
)  # fmt: skip
FULL: Final = Plan(
    connects=5, asks=150, rounds=100, paced_tokens=750, flat_tokens=6_000, crowd=100, idle_s=15.0,
    frozen=3,
)  # fmt: skip


class World:
    """A chain, homes and the workers that were started in them."""

    def __init__(self, folder: Path, chain: DevChain) -> None:
        self._folder = folder
        self._chain = chain
        self._settings = homes.chain_settings(chain.anvil.url, chain.contracts)
        self._count = 0
        self._clients: list[Path] = []
        self.children: list[Child] = []
        escrow = bytes.fromhex(chain.contracts.escrow.removeprefix("0x"))
        self.domain = Domain(CHAIN_ID, escrow)

    def workers(
        self, count: int, *, tokens_per_s: float | None, bootstrap: Sequence[str] = ()
    ) -> list[tuple[Shop, Child]]:
        """Workers, ready to sell; started side by side, and told apart by their homes."""
        begun = []
        for _ in range(count):
            home = self._home()
            homes.make_worker(
                home,
                number=self._count,
                chain=self._settings,
                port=homes.free_port(),
                bootstrap=tuple(bootstrap),
                settings={**SETTINGS, "engine.tokens_per_s_max": 0.0},
            )
            begun.append((home, Child(seller.serve, home, tokens_per_s)))
        self.children += [child for _, child in begun]
        shops = []
        for home, child in begun:
            told = child.result()
            shop = Shop(home=home, address=told["address"], addrs=tuple(told["addrs"]))
            shops.append((shop, child))
        return shops

    def client(self) -> Path:
        """The home of a client with a deposit, which no worker has seen yet."""
        return self._clients.pop()

    def make_clients(self, count: int) -> None:
        """Long before they buy: a worker goes by what the chain said a second ago."""
        made = []
        for _ in range(count):
            home = self._home()
            self._clients.append(home)
            made.append(homes.make_client(home, chain=self._settings, bootstrap=(), settings={}))
        self._chain.fund(
            [Funding(address=each.address, deposit_micro=DEPOSIT_MICRO) for each in made]
        )
        self._chain.mine(2)

    def end(self) -> None:
        for child in self.children:
            child.end()

    def _home(self) -> Path:
        self._count += 1
        return self._folder / f"home-{self._count}"


def main(*, quick: bool, json: bool) -> int:
    plan = QUICK if quick else FULL
    report = Report(json, "The market: targets and measured figures, two processes and more")
    with _world() as world:
        for part in (_one_worker, _streams, _crowd, _endings, _many_workers):
            report.say(f"{part.__name__.strip('_').replace('_', ' ')} …")
            try:
                part(report, plan, world)
            except StageFailed as error:
                report.failures.append(f"{part.__name__.strip('_')}: {error}")
            finally:
                world.end()
    return report.end()


def _one_worker(report: Report, plan: Plan, world: World) -> None:
    """The real engine: idle cost, connecting, asking, and the way to the first token."""
    [(shop, child)] = world.workers(1, tokens_per_s=None)
    model = model_folder.load(model_folder.shipped()).manifest.model_id
    client = world.client()
    time.sleep(GOSSIP_SETTLES_S)
    share = _cpu_share(child, plan.idle_s)
    report.add(_ceiling("idle worker, CPU of one core", 100 * share, 2.0, "%"))
    report.add(
        Figure(
            name="idle worker with ONNX Runtime and model, memory",
            measured=resident_mb(child.pid),
            unit="MB",
        )
    )
    taken_s = stage(stages.asks, world.domain, [shop], model, plan.asks)
    report.add(_ceiling("ask to 1 warm worker, p50", 1e3 * median(taken_s), None, "ms"))
    report.add(_ceiling("ask to 1 warm worker, p95", 1e3 * percentile(taken_s, 0.95), 10, "ms"))
    _first_tokens(report, stage(stages.first_tokens, client, shop, plan.rounds))


def _first_tokens(report: Report, rows: Sequence[tuple[float, float, float]]) -> None:
    added_ms = [1e3 * (through_s - direct_s) for direct_s, through_s, _ in rows]
    direct_ms = 1e3 * median([direct_s for direct_s, _, _ in rows])
    since_award_ms = 1e3 * median([since_s for _, _, since_s in rows])
    note = f"engine alone {direct_ms:.1f} ms; award to token {since_award_ms:.1f} ms"
    report.add(
        _ceiling("first token added over the engine, p50", median(added_ms), 2.5, "ms", note)
    )
    report.add(
        _ceiling("first token added over the engine, p95", percentile(added_ms, 0.95), 15, "ms")
    )


def _streams(report: Report, plan: Plan, world: World) -> None:
    """Many answers at once from one worker to one client."""
    [(shop, child)] = world.workers(1, tokens_per_s=PACE)
    run = partial(_run_streams, report, world, shop, child)
    run("10 streams of 50 tok/s", streams=10, tokens=plan.paced_tokens, floor=None, gap_ms=50)
    run(
        "40 streams of 50 tok/s",
        streams=STREAMS,
        tokens=plan.paced_tokens,
        floor=1_000,
        gap_ms=None,
    )
    control.call(Home(shop.home), "rate", {"tokens_per_s": FLAT_OUT}, timeout_s=10)
    run("40 streams flat out", streams=STREAMS, tokens=plan.flat_tokens, floor=3_000, gap_ms=None)


def _run_streams(
    report: Report,
    world: World,
    shop: Shop,
    child: Child,
    name: str,
    *,
    streams: int,
    tokens: int,
    floor: float | None,
    gap_ms: float | None,
) -> None:
    before_s = cpu_s(child.pid)
    told = stage(stages.streams, world.client(), shop, streams, tokens)
    worker_s = cpu_s(child.pid) - before_s
    total = streams * tokens
    worker_us, client_us = 1e6 * worker_s / total, 1e6 * told["cpu_s"] / total
    note = f"CPU µs/token: worker {worker_us:.0f}, client {client_us:.0f}"
    rate = _rate(told["arrivals"])
    report.add(
        Figure(
            name=f"{name}, rate",
            measured=rate,
            unit="tok/s",
            target=floor,
            at_least=True,
            note=note,
        )
    )
    gaps_ms = [1e3 * gap_s for gap_s in _gaps(told["arrivals"])]
    chunk = total / sum(map(len, told["arrivals"]))
    report.add(
        _ceiling(
            f"{name}, p99 between tokens",
            percentile(gaps_ms, 0.99),
            gap_ms,
            "ms",
            f"p50 {median(gaps_ms):.1f} ms, {chunk:.1f} tokens at once",
        )
    )


def _crowd(report: Report, plan: Plan, world: World) -> None:
    """Clients that are connected and follow the worker's offers."""
    [(shop, child)] = world.workers(1, tokens_per_s=PACE)
    alone_mb = resident_mb(child.pid)
    crowd = Child(stages.crowd, world.domain, shop, manifest().model_id, plan.crowd)
    try:
        crowd.result()
        share = _cpu_share(child, plan.idle_s)
        full_mb = resident_mb(child.pid)
    finally:
        crowd.end()
    note = f"{alone_mb:.0f} MB before, {1e3 * (full_mb - alone_mb) / plan.crowd:.0f} kB each"
    report.add(_ceiling(f"{plan.crowd} clients connected, memory", full_mb, 120, "MB", note))
    note = "offers to all of them every 1.5 s"
    report.add(_ceiling(f"{plan.crowd} clients connected, CPU", 100 * share, None, "%", note))


def _endings(report: Report, plan: Plan, world: World) -> None:
    """Workers that die, and workers that freeze."""
    shops = world.workers(2 * plan.frozen, tokens_per_s=PACE)
    watcher = Child(stages.noticing, world.domain, [shop for shop, _ in shops])
    try:
        watcher.result()
        struck_s = {}
        for at, (_, child) in enumerate(shops):
            struck_s[at] = time.monotonic()
            child.signal(signal.SIGSTOP if at % 2 else signal.SIGKILL)
        noticed = dict(watcher.result() for _ in shops)
    finally:
        watcher.end()
    taken_s = {at: noticed[at] - struck_s[at] for at in struck_s}
    dead = max(taken for at, taken in taken_s.items() if at % 2 == 0)
    frozen = max(taken for at, taken in taken_s.items() if at % 2)
    report.add(_ceiling("a killed worker is noticed, slowest", dead, 5, "s"))
    report.add(_ceiling("a frozen worker is noticed, slowest", frozen, 5, "s"))


def _many_workers(report: Report, plan: Plan, world: World) -> None:
    """Twenty workers, each in a process of its own."""
    shops = [shop for shop, _ in world.workers(MANY, tokens_per_s=PACE)]
    rows = [
        stage(stages.connects, world.domain, shops[at:] + shops[:at]) for at in range(plan.connects)
    ]
    cold_ms = [1e3 * row[0] for row in rows]
    later_ms = [1e3 * taken_s for row in rows for taken_s in row[1:]]
    report.add(_ceiling("connect, the first of a process, p50", median(cold_ms), None, "ms"))
    report.add(_ceiling("connect, later ones, p50", median(later_ms), 30, "ms"))
    report.add(_ceiling("connect, later ones, p95", percentile(later_ms, 0.95), None, "ms"))
    taken_s = stage(stages.asks, world.domain, shops, manifest().model_id, plan.asks)
    report.add(_ceiling(f"ask to {MANY} warm workers, p50", 1e3 * median(taken_s), 100, "ms"))
    report.add(
        _ceiling(f"ask to {MANY} warm workers, p95", 1e3 * percentile(taken_s, 0.95), 200, "ms")
    )


@contextmanager
def _world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="gpunode-bench-") as folder, running() as chain:
        chain.mine_every(1)
        world = World(Path(folder), chain)
        world.make_clients(CLIENTS)
        try:
            yield world
        finally:
            world.end()


def _cpu_share(child: Child, seconds: float) -> float:
    before_s, began_s = cpu_s(child.pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(child.pid) - before_s) / (time.monotonic() - began_s)


def _rate(arrivals: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Tokens per second, from when every stream has begun until the first one ends."""
    begin_s = max(stream[0][0] for stream in arrivals)
    end_s = min(stream[-1][0] for stream in arrivals)
    within = sum(n for stream in arrivals for at_s, n in stream if begin_s < at_s <= end_s)
    return within / (end_s - begin_s) if end_s > begin_s else 0.0


def _gaps(arrivals: Sequence[Sequence[tuple[float, int]]]) -> list[float]:
    """Seconds between what came and what came next, stream by stream."""
    return [later[0] - earlier[0] for stream in arrivals for earlier, later in pairwise(stream)]


def _ceiling(name: str, measured: float, target: float | None, unit: str, note: str = "") -> Figure:
    return Figure(name=name, measured=measured, unit=unit, target=target, note=note)
