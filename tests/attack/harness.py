"""A devnet under attack: victims, honest traffic, attackers as processes, and what was measured.

An attack is a class with `number`, `name`, `target`, `options` and `run(world) -> Figures`.  The
runner (`scripts/attack`) and the short tests bring up the world, keep honest clients buying from
the victim, and judge them beside the attack's own checks.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from devnet import network
from devnet.chain import CHAIN_ID
from devnet.leash import leashed
from devnet.network import Devnet, Options, Worker
from node.protocol.signing import checksum
from tests.attack.honest import Job

ROOT: Final = Path(__file__).resolve().parents[2]
NICE: Final = 10
"""Attackers yield the cores: what the attack costs its victim is measured, not their own work."""
ATTACKER_S: Final = 240.0
HONEST_RATIO_MAX: Final = 1.5
WINDOW_S: Final = 20.0
"""Honest jobs are compared over windows at least this long, before and during."""
SETTLE_S: Final = 2.0
QUIET_S: Final = 3.0
SAMPLED_EVERY_S: Final = 0.05
HONEST_READY_S: Final = 180.0
MB: Final = 1024 * 1024

OPTIONS: Final = Options(
    workers=1,
    clients=3,
    # A pace like a GPU's, the same for all: with none, jobs would be shorter than the noise.
    worker_settings={"engine.tokens_per_s_max": 90.0, "network.dht": True},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure and the limit that it was held against."""

    name: str
    measured: float
    unit: str
    limit: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.name} {self.measured:.4g}{self.unit and ' ' + self.unit} ({self.limit})"


def at_most(name: str, measured: float, limit: float, unit: str = "") -> Check:
    """A figure that must not be above its limit."""
    return Check(
        name=name, measured=measured, unit=unit, limit=f"≤ {limit:g}", passed=measured <= limit
    )


def at_least(name: str, measured: float, limit: float, unit: str = "") -> Check:
    """A figure that must not be below its limit."""
    return Check(
        name=name, measured=measured, unit=unit, limit=f"≥ {limit:g}", passed=measured >= limit
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What an attack came to."""

    checks: tuple[Check, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    """For --json only."""

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        return "; ".join(str(check) for check in self.checks)


class Attack(Protocol):
    """One row of the table."""

    number: int
    name: str
    target: str
    """As the table of attacks says it."""
    options: Options
    """The devnet it wants; `workers` >= 1, `clients` >= 2 (the honest ones are the last two)."""

    def run(self, world: "World") -> Figures:
        """Attack, measure, judge.  Honest traffic runs meanwhile and is judged by the caller."""
        ...


class Attacker:
    """A process that attacks: niced, on a leash, orders on stdin, one JSON line as its result."""

    def __init__(
        self, module: str, orders: Mapping[str, Any], log: Path, *, nice: int = NICE
    ) -> None:
        command = ["nice", "-n", str(nice), sys.executable, "-m", module]
        self._log = log
        self._module = module
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_line(self) -> dict[str, Any]:
        """The next line that it prints, as an object (progress, addresses, the result)."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{self._module} ended without a word:\n{tail}")
        loaded: dict[str, Any] = json.loads(line)
        return loaded

    def tell(self, line: str) -> None:
        """A line for it to go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def result(self, timeout_s: float = ATTACKER_S) -> dict[str, Any]:
        """The last line that it prints, once it has ended."""
        out, _ = self._process.communicate(timeout=timeout_s)
        lines = out.strip().splitlines()
        if self._process.returncode != 0 or not lines:
            tail = self._log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"{self._module} ended with {self._process.returncode}:\n{tail}")
        loaded: dict[str, Any] = json.loads(lines[-1])
        return loaded

    def ended_lines(self) -> list[dict[str, Any]]:
        """End it, and return what it had printed and nobody read (some 500 lines at most)."""
        if self._process.poll() is None:
            self._process.kill()
        out, _ = self._process.communicate()
        whole = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def stop(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


class Honest:
    """An honest client, real and in a process of its own, that buys job after job."""

    def __init__(self, home: Path, arguments: Sequence[str], *, log: Path) -> None:
        """
        Args:
            home: A funded client's.
            arguments: For `tests.attack.honest`.
            log: Where its stderr goes.
        """
        command = [sys.executable, "-m", "tests.attack.honest", "--home", str(home), *arguments]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self.log = log
        self.jobs: list[Job] = []
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_first(self) -> None:
        """Return once its first job is done."""
        if not self._first.wait(HONEST_READY_S) or not self.jobs:
            raise AssertionError(f"no honest job:\n{self.log.read_text(errors='replace')[-3000:]}")

    def between(self, since_s: float, until_s: float) -> list[Job]:
        """Jobs that began within a window of monotonic time."""
        return [job for job in list(self.jobs) if since_s <= job.began_s <= until_s]

    def wait_end(self, timeout_s: float) -> list[Job]:
        """All its jobs, once it has ended by itself."""
        code = self._process.wait(timeout_s)
        self._thread.join(5)
        if code != 0:
            raise AssertionError(
                f"ended with {code}:\n{self.log.read_text(errors='replace')[-3000:]}"
            )
        return self.jobs

    def stop(self) -> None:
        """End it."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.jobs.append(Job(**json.loads(line)))
            self._first.set()
        self._first.set()


@dataclass(slots=True)
class Memory:
    """Resident memory of a process over a stretch of time, in MB."""

    before_mb: float
    """At its highest while only honest traffic ran."""
    peak_mb: float = 0.0
    after_mb: float = 0.0

    @property
    def grown_mb(self) -> float:
        """At its highest, above what it was."""
        return max(self.peak_mb, self.after_mb) - self.before_mb


@dataclass(slots=True)
class World:
    """What an attack works with."""

    net: Devnet
    full: bool
    """The figures of the table, with honest traffic measured; else the short form."""
    scratch: Path
    honest: list[Honest] = field(default_factory=list)
    say: Callable[[str], None] = lambda _: None
    nice: int = NICE
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def victim(self) -> Worker:
        """The worker that the honest clients buy from."""
        return self.net.workers[0]

    def count(self, full: int, short: int) -> int:
        """How many of something: of the table, or of the short form."""
        return full if self.full else short

    def rounds(self, *, at_least_s: float = WINDOW_S) -> Iterator[int]:
        """Again and again until honest traffic has been watched long enough; once, if short."""
        started_s, number = time.monotonic(), 0
        while True:
            yield number
            number += 1
            if not self.full or time.monotonic() - started_s >= at_least_s:
                return

    def orders(self, **more: Any) -> dict[str, Any]:
        """Who the victim is and on which chain, for an attacker."""
        contracts = self.net.contracts
        return {
            "victim": self.victim.multiaddr,
            "worker": checksum(self.victim.identity.address),
            "model": self.victim.model,
            "chain_id": CHAIN_ID,
            "escrow": contracts.escrow,
            "token": contracts.token,
            "rpc_url": self.net.rpc_url,
            **more,
        }

    def start(self, name: str, *, nice: int | None = None, **orders: Any) -> Attacker:
        """Start `tests.attack.attackers.NAME` against the victim; ended with the world at the last.

        Call it from the main thread: the process ends with the thread that started it.
        """
        attacker = Attacker(
            f"tests.attack.attackers.{name}",
            self.orders(**orders),
            self.scratch / f"{name}.log",
            nice=self.nice if nice is None else nice,
        )
        self._stack.callback(attacker.stop)
        return attacker

    @contextmanager
    def memory(self, pid: int | None = None) -> Iterator[Memory]:
        """Watch the resident memory of a process (the victim's) while the block runs.

        Honest jobs come and go, and some MB with them: peak is held against peak.
        """
        watched = self.victim.process.pid if pid is None else pid
        memory = Memory(before_mb=peak_rss_mb(watched, QUIET_S))
        done = threading.Event()

        def sample() -> None:
            while not done.wait(SAMPLED_EVERY_S):
                memory.peak_mb = max(memory.peak_mb, rss_mb(watched))

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield memory
        finally:
            done.set()
            thread.join()
            memory.after_mb = rss_mb(watched)

    def crashes(self) -> int:
        """Nodes and honest clients that are not running any more."""
        nodes = [worker.process.running for worker in self.net.workers]
        return (nodes + [each.running for each in self.honest]).count(False)

    def jobs_between(self, since_s: float, until_s: float) -> list[Job]:
        """Honest jobs that began in a window."""
        return [job for each in self.honest for job in each.between(since_s, until_s)]

    def start_honest(self, *, every_s: float) -> None:
        """Let the last two clients of the devnet buy from the victim, from now on."""
        worker = checksum(self.victim.identity.address)
        for client in self.net.clients[-2:]:
            log = self.scratch / f"{client.home.name}.log"
            arguments = ["--worker", worker, "--every", str(every_s)]
            self.honest.append(self._honest(client.home, arguments, log))
        for honest in self.honest:
            honest.wait_first()

    def start_buyer(self, home: Path, *arguments: str) -> Honest:
        """An honest client for the attack's own use, `tests.attack.honest` with `arguments`."""
        return self._honest(home, arguments, self.scratch / f"{home.name}-buyer.log")

    def _honest(self, home: Path, arguments: Sequence[str], log: Path) -> Honest:
        honest = Honest(home, arguments, log=log)
        self._stack.callback(honest.stop)
        return honest

    def close(self) -> None:
        """End attackers and honest clients."""
        self._stack.close()


def rss_mb(pid: int) -> float:
    """Resident memory; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/statm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB


def peak_rss_mb(pid: int, during_s: float) -> float:
    """The highest resident memory of a process over a while that this waits."""
    peak_mb, until_s = rss_mb(pid), time.monotonic() + during_s
    while time.monotonic() < until_s:
        time.sleep(SAMPLED_EVERY_S)
        peak_mb = max(peak_mb, rss_mb(pid))
    return peak_mb


def p95_s(jobs: list[Job]) -> float:
    """95th percentile of the time of jobs that ended well."""
    times = sorted(job.took_s for job in jobs if not job.failure)
    return times[min(len(times) - 1, int(0.95 * len(times)))] if times else float("inf")


@contextmanager
def open_world(
    options: Options = OPTIONS,
    *,
    full: bool,
    honest_every_s: float | None = 0.4,
    say: Callable[[str], None] = lambda _: None,
    nice: int = NICE,
) -> Iterator[World]:
    """A devnet with honest traffic on it.

    Args:
        options: Of the devnet.
        full: See `World.full`.
        honest_every_s: From one honest job's start to the next one's, per client (or back to back
            if they take longer); None: no honest traffic.
        say: Progress.
        nice: Of attackers.
    """
    say(f"devnet: {options.workers} workers, {options.clients} clients")
    with network.up(options) as net:
        scratch = net.folder / "attack"
        scratch.mkdir()
        world = World(net=net, full=full, scratch=scratch, say=say, nice=nice)
        try:
            if honest_every_s is not None:
                world.start_honest(every_s=honest_every_s)
            yield world
        finally:
            world.close()


def judge(attack: Attack, world: World) -> Figures:
    """Run one attack with honest traffic beside it: its own checks, then the honest clients'.

    In the full form a baseline is taken first, and the 95th percentile of honest jobs during the
    attack is held against it.  In the short form they must only all end well.
    """
    since_s = time.monotonic()
    if world.full and world.honest:
        world.say(f"{attack.number} {attack.name}: baseline, {WINDOW_S:g} s")
        time.sleep(WINDOW_S)
    began_s = time.monotonic()
    world.say(f"{attack.number} {attack.name}: attack")
    figures = attack.run(world)
    ended_s = time.monotonic()
    if not world.honest:
        return figures
    time.sleep(SETTLE_S if world.full else 0.5)
    before, during = world.jobs_between(since_s, began_s), world.jobs_between(began_s, ended_s)
    failures = [job.failure for job in during if job.failure]
    checks = [*figures.checks, at_most("crashes", world.crashes(), 0)]
    checks.append(at_most("honest jobs failed", len(failures), 0))
    details = {**figures.details, "honest_jobs": len(during), "honest_failures": failures[:10]}
    if world.full:
        baseline_s, attacked_s = p95_s(before), p95_s(during)
        checks.append(at_most("honest p95 ×", attacked_s / baseline_s, HONEST_RATIO_MAX))
        details |= {"honest_p95_s": attacked_s, "honest_baseline_p95_s": baseline_s}
        details |= {"honest_baseline_jobs": len(before), "attack_s": ended_s - began_s}
    return Figures(checks=tuple(checks), details=details)
