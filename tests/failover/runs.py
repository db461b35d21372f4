"""Jobs whose worker is struck at a random token, on a devnet, beside the same jobs undisturbed."""

import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import trio

from devnet import network
from devnet.network import Devnet, Options
from node.adapters.store import open_stores
from node.app.buyer import open_buyer
from node.app.domain import domain_of
from node.app.home import Home
from node.app.ordering import Reader, answer_of, order_of
from node.app.submit_order import preferences_of, question_of
from node.app.submit_request import SubmitRequest
from node.app.unlock import session_key
from node.config import Config, load
from node.protocol.transcript_verify import verify
from node.roles.client import Outcome
from node.roles.job_run import Attempt
from node.units import cost_micro
from tests.attack.honest import Watch
from tests.failover.links import Links, links

KINDS: Final = ("kill", "freeze", "cut")
"""kill -9; SIGSTOP; a network through which nothing comes."""
PAUSE_S: Final = {"kill": 0.5, "freeze": 1.5, "cut": 1.5}
"""What the 95th percentile of the pause is held against."""
WORKERS: Final = 4
RATE_TPS: Final = 60.0
"""A pace like a GPU's, the same for all workers."""
SAMPLES: Final = 5
"""Different jobs; each is run undisturbed once."""
FIRST, LAST = 10, 30
"""Nobody is struck before so many tokens, nor with so few left: some are on their way already."""
OFFERS_S: Final = 60.0
JOB_S: Final = 120.0
Told = Callable[[str], None]
OnToken = Callable[[int, str], None]
"""Given the number of accepted tokens, and the worker that has the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job, and what came of it."""

    ids: tuple[int, ...]
    arrivals_s: tuple[float, ...]
    outcome: Outcome
    workers: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Result:
    """What a run of one kind showed."""

    kind: str
    jobs: int = 0
    struck: int = 0
    """Those in which the struck worker did not get to the end all the same."""
    pauses_s: list[float] = field(default_factory=list)
    """Between the last token of the struck worker and the first of the next."""
    extra_micro: list[int] = field(default_factory=list)
    """Paid beyond the undisturbed tokens at each segment's prices: the prefill."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No token lost or repeated, nobody paid too much."""
        return not self.violations and self.struck > 0

    @property
    def quick(self) -> bool:
        """The pause is within what is aimed at; for a quiet machine."""
        return self.pause_s(95) <= PAUSE_S[self.kind]

    def pause_s(self, percent: int) -> float:
        """A percentile of the pause."""
        ordered = sorted(self.pauses_s)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0

    def to_json(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "kind": self.kind,
            "jobs": self.jobs,
            "struck": self.struck,
            "pause_s": {
                "p50": round(self.pause_s(50), 3),
                "p95": round(self.pause_s(95), 3),
                "max": round(max(self.pauses_s, default=0.0), 3),
            },
            "extra_micro_mean": round(statistics.mean(self.extra_micro or [0]), 1),
            "seconds": round(self.seconds, 1),
            "violations": self.violations,
            "passed": self.passed,
            "quick": self.quick,
        }


class Market:
    """A devnet whose lines can be cut, and a client of it."""

    def __init__(self, devnet: Devnet, lines: Links) -> None:
        self.devnet = devnet
        self._lines = lines
        addresses = [
            worker.multiaddr.replace(f"/tcp/{port_of(worker.multiaddr)}/", f"/tcp/{port}/")
            for worker, port in zip(devnet.workers, lines.ports, strict=True)
        ]
        config = load(devnet.client_home)
        self.config: Config = replace(
            config, network=replace(config.network, bootstrap=tuple(addresses))
        )

    def strike(self, kind: str, number: int) -> None:
        """Now."""
        pid = self.devnet.workers[number].process.pid
        match kind:
            case "kill":
                os.kill(pid, signal.SIGKILL)
            case "freeze":
                os.kill(pid, signal.SIGSTOP)
            case "cut":
                self._lines.cut(number)

    def mend(self, kind: str, number: int) -> None:
        """As it was before."""
        worker = self.devnet.workers[number]
        match kind:
            case "kill":
                self.devnet.restart(worker)
            case "freeze":
                os.kill(worker.process.pid, signal.SIGCONT)
            case "cut":
                self._lines.heal(number)

    def number_of(self, address: str) -> int:
        """Which of the workers it is."""
        found = ["0x" + worker.identity.address.hex() for worker in self.devnet.workers]
        return found.index(address)

    async def buy(self, question: SubmitRequest, on_token: OnToken) -> Job:
        """One job, by a client of its own: nothing is known but what the home remembers."""
        config, watch, arrivals = self.config, Watch(), list[float]()
        home, key = Home(config.home), session_key(config)
        async with (
            open_stores(home.store, domain=domain_of(config)) as stores,
            open_buyer(config, key, stores) as buyer,
        ):
            model = await buyer.catalog.choose("")
            with trio.fail_after(OFFERS_S):
                while len(buyer.market.live_offers(model.id)) < WORKERS:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            asked, reader = question_of(question), Reader.of(model)
            order = order_of(asked, reader, preferences_of(config, question))
            answer = answer_of(asked, reader, lambda _: None)
            accept = answer.accept

            def accepted(items: Any, told: Any) -> None:
                accept(items, told)
                arrivals.extend([time.monotonic()] * len(items))
                on_token(len(arrivals), watch.awards[-1])

            answer.accept = accepted  # type: ignore[method-assign]
            with trio.fail_after(JOB_S):
                outcome = await buyer.client.run(order, answer, watch)
        return Job(
            ids=tuple(answer.ids),
            arrivals_s=tuple(arrivals),
            outcome=outcome,
            workers=tuple(watch.awards),
        )


@contextmanager
def market(folder: Path) -> Iterator[Market]:
    """Up for as long as the block runs."""
    options = Options(
        workers=WORKERS,
        folder=folder,
        worker_settings={"engine.tokens_per_s_max": RATE_TPS},
    )
    with (
        network.up(options) as devnet,
        links([port_of(worker.multiaddr) for worker in devnet.workers]) as lines,
    ):
        yield Market(devnet, lines)


def run(kind: str, market: Market, *, jobs: int, tokens: int, seed: int, tell: Told) -> Result:
    """Strike the workers of so many jobs in one way.

    Args:
        kind: One of `KINDS`.
        market: All of its workers well.
        jobs: How many.
        tokens: Of each.
        seed: For the tokens at which the worker is struck.
        tell: Called with a line now and then.
    """
    rng, result, began_s = random.Random(f"{kind} {seed}"), Result(kind=kind), time.monotonic()
    whole: dict[int, tuple[int, ...]] = {}
    for number in range(jobs):
        sample = number % min(SAMPLES, jobs)
        question = question_numbered(sample, tokens)
        if sample not in whole:
            whole[sample] = trio.run(market.buy, question, ignore).ids
        job = _struck(market, kind, question, rng.randrange(FIRST, tokens - LAST))
        result.jobs += 1
        told = judge(job, whole[sample])
        result.violations += [f"job {number}: {each}" for each in told]
        if len(job.outcome.segments) > 1:
            result.struck += 1
            result.pauses_s.append(pause_s(job))
            result.extra_micro.append(extra_micro(job))
        for each in told:
            tell(f"{kind}: job {number}: {each}")
        if (number + 1) % 10 == 0:
            tell(f"{kind}: {number + 1}/{jobs} jobs, {len(result.violations)} faults")
    result.seconds = time.monotonic() - began_s
    return result


def _struck(market: Market, kind: str, question: SubmitRequest, at: int) -> Job:
    """A job whose worker is struck when so many tokens are there."""
    struck: list[int] = []

    def on_token(count: int, worker: str) -> None:
        if count >= at and not struck:
            struck.append(market.number_of(worker))
            market.strike(kind, struck[0])

    try:
        return trio.run(market.buy, question, on_token)
    finally:
        for number in struck:
            market.mend(kind, number)


def question_numbered(number: int, tokens: int) -> SubmitRequest:
    """Sampled, so that another seed or position would show."""
    return SubmitRequest(
        prompt=f"What is a voucher? {number}",
        max_tokens=tokens,
        ignore_eos=True,
        temperature=0.9,
        seed=1000 + number,
        started_s=time.monotonic(),
    )


def judge(job: Job, whole: Sequence[int]) -> list[str]:
    """What is wrong with a job, beside the same one undisturbed."""
    told, outcome = [], job.outcome
    if outcome.failure:
        told.append(f"it failed: {outcome.failure}")
    if job.ids != tuple(whole):
        same = next((n for n, (a, b) in enumerate(zip(job.ids, whole, strict=False)) if a != b), -1)
        told.append(f"{len(job.ids)} tokens, other ones from token {same}")
    report = verify(outcome.transcript, outcome.disclosure)
    if not report.passed:
        told.append(f"the transcript does not verify: {report.failed}")
    for segment in outcome.segments:
        due = _cost_micro(segment.job.award.tokens_in, segment)
        if segment.job.accepted_micro > due:
            told.append(f"{segment.job.accepted_micro} micro paid for what costs {due}")
    quantum = max(segment.job.terms.quantum for segment in outcome.segments)
    prefill = sum(
        _cost_micro(segment.job.award.tokens_in, segment) for segment in outcome.segments[1:]
    ) - sum(_cost_micro(0, segment) for segment in outcome.segments[1:])
    if extra_micro(job) > prefill + quantum:
        told.append(f"{extra_micro(job)} micro beyond the undisturbed tokens")
    return told


def extra_micro(job: Job) -> int:
    """Paid beyond the undisturbed tokens at each segment's prices."""
    first, *others = job.outcome.segments
    undisturbed = _cost_micro(first.job.award.tokens_in, first)
    undisturbed += sum(_cost_micro(0, segment) for segment in others)
    return job.outcome.amount_micro - undisturbed


def pause_s(job: Job) -> float:
    """The longest wait at a seam."""
    seams = [segment.job.award.position for segment in job.outcome.segments[1:]]
    return max(job.arrivals_s[at] - job.arrivals_s[at - 1] for at in seams)


def port_of(multiaddr: str) -> int:
    """TCP port of /ip4/…/tcp/PORT/p2p/…"""
    return int(multiaddr.split("/")[4])


def ignore(_count: int, _worker: str) -> None:
    """Nobody is struck."""


def _cost_micro(tokens_in: int, segment: Attempt) -> int:
    job, terms = segment.job, segment.job.terms
    return cost_micro(
        tokens_in=tokens_in,
        tokens_cached=0,
        tokens_out=job.tokens_out,
        price_in=terms.price_in,
        price_cached=0,
        price_out=terms.price_out,
    )
