"""The kill runs: one role dies again and again, the rest of the market goes on."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devnet.spawner import Child
from tests.crash.world import COMMAND_S, Party, World, world

REACH_S = 15.0
"""A named point that is not passed by then is not on this run's way."""
STARTING = 0.25
"""Share of the random kills that find the worker at its start."""
REDEEMS_PER_SALE = 3
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kill:
    """Where to kill: at a named point, or (empty) at a random moment."""

    point: str = ""
    count: int = 1


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run of one role showed."""

    role: str
    kills: int = 0
    points: int = 0
    """Distinct named ones among them."""
    missed: list[str] = field(default_factory=list)
    """Named points that were not passed in time: nothing was killed there."""
    jobs: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    books: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Nothing was lost, nothing said twice, all books agree."""
        return not self.violations and self.kills > 0


def run(role: str, *, folder: Path, points: int, seed: int, named: int, tell: Told) -> Result:
    """Kill one role.

    Args:
        role: A key of `ROLES`.
        folder: Not there yet.
        points: Kills at random moments.
        seed: For the moments, and the choice of named points.
        named: How many named points at most; 0 for all.
        tell: Called with a line now and then.
    """
    folder.mkdir(parents=True)
    started_s = time.monotonic()
    with world(folder, clients=2, seed=seed) as market:
        names = named_points(role, market)
        if named:
            names = market.rng.sample(names, min(named, len(names)))
        # The first pass finds a process at its start, a later one amid its work; a command that
        # redeems passes each point once.
        counts = (1,) if named or role == "redeemer" else (1, 4)
        kills = [Kill(name, count) for name in names for count in counts]
        kills += [Kill()] * points
        market.rng.shuffle(kills)
        result = kill(role, market, kills, tell=tell)
        result.books = market.settle()
        result.violations = market.violations
        result.jobs = market.jobs_done
    result.seconds = time.monotonic() - started_s
    return result


def named_points(role: str, market: World) -> list[str]:
    """All that this role passes in its ordinary work."""
    trace = market.folder / f"trace-{role}"
    ROLES[role].trace(market, trace)
    return sorted(set(trace.read_text().split()))


def kill(role: str, market: World, kills: Sequence[Kill], *, tell: Told) -> Result:
    """Kill it so in a market that is up; the books are left to be settled."""
    kills_before = market.kills
    reached: set[str] = set()
    missed: set[str] = set()
    told = len(market.violations)
    for number, (done, hit) in enumerate(_until_killed(role, market, kills), start=1):
        (reached if hit else missed).add(done.point)
        for line in market.violations[told:]:
            tell(f"{role}: after {done.point or 'a random kill'}: {line}")
        told = len(market.violations)
        if number % 20 == 0:
            tell(f"{role}: {market.kills - kills_before}/{len(kills)} kills, {told} faults")
    return Result(
        role=role,
        kills=market.kills - kills_before,
        points=len(reached - {""}),
        missed=sorted(missed - reached - {""}),
    )


def _until_killed(role: str, market: World, kills: Sequence[Kill]) -> Iterator[tuple[Kill, bool]]:
    """Those at random are tried again where the process had ended before."""
    while kills:
        again = []
        for done, hit in ROLES[role].kill_all(market, kills):
            if not hit and not done.point:
                again.append(done)
            yield done, hit
        kills = again


# ----------------------------------------------------------------------------------------- worker


def trace_worker(market: World, trace: Path) -> None:
    """Which points a worker passes: at its start, with two clients, and when it redeems."""
    child = market.serve(trace=trace)
    assert market.ready(child), market.worker.log.read_text()[-2000:]
    for client in market.clients:
        assert market.job(client), client.log.read_text()[-2000:]
    market.redeem().wait(COMMAND_S)
    market.kill(child)


def kill_worker(market: World, kills: Sequence[Kill]) -> Iterator[tuple[Kill, bool]]:
    """The worker dies; clients go on ordering all the time."""
    with _shopping(market):
        for kill in kills:
            child = market.serve(point=kill.point, count=kill.count)
            if "chain" in kill.point or "broadcast" in kill.point or "redeemed" in kill.point:
                _redeem_soon(market, child)
            within_s = market.ready_s
            if not kill.point and market.rng.random() > STARTING:
                market.ready(child)
                within_s = 2 * market.job_s
            hit = _strike(market, child, kill, within_s)
            market.check(market.worker)
            yield kill, hit
    market.check(*market.clients)


def _redeem_soon(market: World, child: Child) -> None:
    """Have it use its journal, once it has sold something."""
    if market.ready(child):
        time.sleep(1.0)
        market.redeem()


# ----------------------------------------------------------------------------------------- client


def trace_client(market: World, trace: Path) -> None:
    """Which points a client passes: in a first job, and in one after a crash."""
    worker = market.serve()
    assert market.ready(worker), market.worker.log.read_text()[-2000:]
    first, second = market.clients
    child = market.submit(first, point="send.VoucherFrame.after")
    child.wait(COMMAND_S)
    for client in (first, second):
        assert market.submit(client, trace=trace).wait(COMMAND_S) == 0
    assert market.job(first)
    worker.kill(15)
    worker.wait(COMMAND_S)


def kill_client(market: World, kills: Sequence[Kill]) -> Iterator[tuple[Kill, bool]]:
    """Clients die amid their jobs, two at a time; the worker stays."""
    worker = market.serve()
    assert market.ready(worker)
    for at in range(0, len(kills), 2):
        if not worker.running:
            market.violations.append(f"the worker ended by itself with {worker.code}")
            worker = market.serve()
            assert market.ready(worker)
        pairs = list(zip(kills[at : at + 2], market.clients, strict=False))
        started = [
            (kill, client, market.submit(client, point=kill.point, count=kill.count))
            for kill, client in pairs
        ]
        for kill, client, child in started:
            hit = _strike(market, child, kill, 1.1 * market.job_s)
            market.check(client)
            market.renew(client)
            yield kill, hit
    market.check(market.worker)
    worker.kill()
    worker.wait(COMMAND_S)


# --------------------------------------------------------------------------------------- redeemer


def trace_redeemer(market: World, trace: Path) -> None:
    """Which points `node redeem` passes, by itself."""
    _end(_sell(market))
    started_s = time.monotonic()
    assert market.redeem(trace=trace).wait(COMMAND_S) == 0, market.worker.log.read_text()[-2000:]
    market.redeem_s = time.monotonic() - started_s


def kill_redeemer(market: World, kills: Sequence[Kill]) -> Iterator[tuple[Kill, bool]]:
    """It dies amid redemptions: the worker, asked to redeem, and then `node redeem` by itself.

    Most are struck before they are through, so that each finds what the one before left in flight.
    """
    for kill in kills:
        if kill.point:  # it has something to redeem, and nothing in flight
            _end(_sell(market))
            yield kill, _struck(market, market.redeem(point=kill.point, count=kill.count), kill)
    left = [kill for kill in kills if not kill.point]
    while left:
        serving, kill = _sell(market), left.pop()
        command = market.redeem()
        hit = _strike(market, serving, kill, market.redeem_s)
        command.wait(COMMAND_S)
        yield kill, hit
        for _ in range(min(len(left), REDEEMS_PER_SALE - 1)):
            kill = left.pop()
            yield kill, _struck(market, market.redeem(), kill)
    market.check(*market.clients)


def _sell(market: World) -> Child:
    """Something to redeem, on one tab or on two; returns the worker, still running."""
    child = market.serve()
    if not market.ready(child):
        market.violations.append("the worker did not come up")
    for client in market.rng.sample(market.clients, market.rng.choice((1, 1, 2))):
        market.job(client)
    return child


def _struck(market: World, child: Child, kill: Kill) -> bool:
    hit = _strike(market, child, kill, market.redeem_s)
    market.check(market.worker)
    return hit


def _end(child: Child) -> None:
    child.kill()
    child.wait(COMMAND_S)


# ------------------------------------------------------------------------------------------ steps


def _strike(market: World, child: Child, kill: Kill, within_s: float) -> bool:
    """Wait for the named point, or for a random moment, and end it; whether it died as meant."""
    if kill.point:
        hit = child.wait(REACH_S) == -9
        if hit:
            market.kills += 1
        else:
            child.kill()
            child.wait(COMMAND_S)
        return hit
    child.wait(market.rng.uniform(0.0, within_s))
    alive = child.running
    market.kill(child)
    market.kills -= not alive  # it had ended by itself: counted as no kill
    return alive


@contextmanager
def _shopping(market: World) -> Iterator[None]:
    """Every client orders, one job after the other, whatever becomes of them."""
    stopped = threading.Event()

    def shop(client: Party) -> None:
        while not stopped.is_set():
            market.job(client)

    threads = [threading.Thread(target=shop, args=(client,)) for client in market.clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


@dataclass(frozen=True, slots=True)
class Role:
    """How one role is killed."""

    trace: Callable[[World, Path], None]
    kill_all: Callable[[World, Sequence[Kill]], Iterator[tuple[Kill, bool]]]


ROLES = {
    "worker": Role(trace_worker, kill_worker),
    "client": Role(trace_client, kill_client),
    "redeemer": Role(trace_redeemer, kill_redeemer),
}
