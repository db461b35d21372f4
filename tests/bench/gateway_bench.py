"""Our gateway, with three workers behind it, beside the LiteLLM proxy and the upstream itself.

The upstream is synthetic and fast, so that what is measured is what stands before it.  Sides take
turns in every round; figures are over all rounds, ratios between sides of the same run.
"""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.figures import Figure, Report, median, percentile
from tests.bench.gateway import load
from tests.bench.gateway.load import Streamed
from tests.bench.gateway.sides import Side, sides

CALLERS: Final = 16
STREAMS: Final = 64
PACE_MS: Final = 5
OPEN_STREAMS: Final = 1000
OPEN_PACE_MS: Final = 500
OPEN_TOKENS: Final = 24
MS: Final = 1000
US: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is run, per round and side."""

    rounds: int
    firsts: int
    requests: int
    paced_tokens: int
    flat_tokens: dict[str, int]
    """Per stream: as many as each side makes in a few seconds."""


QUICK: Final = Plan(
    rounds=1, firsts=30, requests=5, paced_tokens=100,
    flat_tokens={"direct": 2000, "LiteLLM": 30, "ours": 1000},
)  # fmt: skip
FULL: Final = Plan(
    rounds=3, firsts=100, requests=20, paced_tokens=400,
    flat_tokens={"direct": 8000, "LiteLLM": 60, "ours": 4000},
)  # fmt: skip


@dataclass(slots=True)
class Taken:
    """What one side showed, over all rounds."""

    first_s: list[float] = field(default_factory=list)
    requests_per_s: list[float] = field(default_factory=list)
    paced_tps: list[float] = field(default_factory=list)
    flat_tps: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)
    """CPU of the gateway per token, flat out."""
    workers_us: list[float] = field(default_factory=list)
    paced_us: list[float] = field(default_factory=list)


def main(*, quick: bool, json: bool) -> int:
    plan = QUICK if quick else FULL
    report = Report(json, "Our gateway and three workers beside LiteLLM and the upstream itself")
    try:
        with sides(report) as every:
            taken = {side.name: Taken() for side in every}
            for side in every:
                _warm(side)
            # First: workers that were flooded sell nothing to the same client for a while.
            for side in (every[0], every[2], every[1]):  # the slow one last
                _open_many(report, side)
            for number in range(plan.rounds):
                report.say(f"round {number + 1} of {plan.rounds}")
                for side in every:
                    _round(plan, side, taken[side.name])
            _tell(report, taken)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        report.failures.append(str(error))
    return report.end()


def _warm(side: Side) -> None:
    _run(side, load.in_turn(side.target, count=20, tokens=4, every_ms=1))
    _run(side, load.requests(side.target, callers=CALLERS, each=2, tokens=4))


def _round(plan: Plan, side: Side, taken: Taken) -> None:
    target, name = side.target, side.name
    firsts = _run(side, load.in_turn(target, count=plan.firsts, tokens=2, every_ms=1))
    taken.first_s += [each.first_token_s for each in firsts]
    each = plan.requests
    taken.requests_per_s.append(
        _per_s(_run(side, load.requests(target, callers=CALLERS, each=each, tokens=8)), count=1)
    )
    before_s = side.gateway_cpu_s()
    paced = _run(
        side, load.streams(target, count=STREAMS, tokens=plan.paced_tokens, every_ms=PACE_MS)
    )
    taken.paced_us.append((side.gateway_cpu_s() - before_s) / _words(paced) * US)
    taken.paced_tps.append(_per_s(paced))
    before_s, workers_s = side.gateway_cpu_s(), side.workers_cpu_s()
    flat = _run(side, load.streams(target, count=STREAMS, tokens=plan.flat_tokens[name]))
    taken.gateway_us.append((side.gateway_cpu_s() - before_s) / _words(flat) * US)
    taken.workers_us.append((side.workers_cpu_s() - workers_s) / _words(flat) * US)
    taken.flat_tps.append(_per_s(flat))


def _run(side: Side, calls: Awaitable[list[Streamed]]) -> list[Streamed]:
    """
    Raises:
        RuntimeError: A call failed: nothing measured beside it would mean anything.
    """

    async def awaited() -> list[Streamed]:
        return await calls

    done = asyncio.run(awaited())
    failures = [each.failure for each in done if each.failure]
    if failures:
        raise RuntimeError(f"{side.name}: {len(failures)} of {len(done)} calls: {failures[0]}")
    return done


def _words(done: Sequence[Streamed]) -> int:
    return sum(each.words for each in done)


def _per_s(done: Sequence[Streamed], *, count: int = 0) -> float:
    """Words per second over all streams together, or answers if `count` is 1."""
    took_s = max(each.ended_s for each in done) - min(each.began_s for each in done)
    return (len(done) if count else _words(done)) / took_s


def _tell(report: Report, taken: dict[str, Taken]) -> None:
    direct, theirs, ours = taken["direct"], taken["LiteLLM"], taken["ours"]

    def ratio(
        name: str, get: Callable[[Taken], float], beside: Taken, target: float, note: str = ""
    ) -> None:
        figures = f"{get(ours):,.0f} and {get(beside):,.0f}"
        report.add(
            Figure(
                name=name, measured=get(ours) / get(beside), unit="x", target=target, at_least=True,
                note=f"{figures} {note}".strip(),
            )
        )  # fmt: skip

    def added_ms(side: Taken, share: float) -> float:
        return (percentile(side.first_s, share) - percentile(direct.first_s, share)) * MS

    for name, side in taken.items():
        first = f"{median(side.first_s) * MS:.2f} / {percentile(side.first_s, 0.99) * MS:.2f} ms"
        report.say(f"  {name}: first token p50 / p99 {first}")
    p50, p99, theirs_p50 = added_ms(ours, 0.5), added_ms(ours, 0.99), added_ms(theirs, 0.5)
    report.add(
        Figure(name="first token added over direct, p50", measured=p50, unit="ms", target=2.5)
    )
    report.add(Figure(name="first token added over direct, p99", measured=p99, unit="ms", target=6))
    report.add(
        Figure(
            name="first token added, LiteLLM's over ours", measured=theirs_p50 / p50, unit="x",
            target=7, at_least=True, note=f"LiteLLM adds {theirs_p50:.1f} ms",
        )
    )  # fmt: skip
    name = f"requests per second, {CALLERS} callers, over LiteLLM"
    ratio(name, lambda side: median(side.requests_per_s), theirs, 15)
    name = f"{STREAMS} streams of {PACE_MS} ms per token, over direct"
    ratio(name, lambda side: median(side.paced_tps), direct, 0.8, "tok/s")
    name = f"flat out, {STREAMS} streams, over"
    ratio(f"{name} LiteLLM", lambda side: median(side.flat_tps), theirs, 30, "tok/s")
    ratio(f"{name} direct", lambda side: median(side.flat_tps), direct, 0.25, "tok/s")
    for side_name, side in (("ours", ours), ("LiteLLM", theirs)):
        report.add(
            Figure(
                name=f"CPU of the gateway per token flat out, {side_name}",
                measured=median(side.gateway_us), unit="µs",
                note=f"paced {median(side.paced_us):.0f}; workers {median(side.workers_us):.0f}",
            )
        )  # fmt: skip


def _open_many(report: Report, side: Side) -> None:
    """Many slow streams at once; a failure is a figure here, for whoever it happens to."""
    before_mb = side.gateway_mb()
    memory_mb = before_mb

    async def watched() -> list[Streamed]:
        nonlocal memory_mb
        pace_s = OPEN_PACE_MS / MS
        calls = asyncio.ensure_future(
            load.streams(
                side.target, count=OPEN_STREAMS, tokens=OPEN_TOKENS, every_ms=OPEN_PACE_MS,
                stagger_s=4 * pace_s,
            )
        )  # fmt: skip
        while not calls.done():
            memory_mb = max(memory_mb, side.gateway_mb())
            await asyncio.wait([calls], timeout=0.5)
        return calls.result()

    done = asyncio.run(watched())
    failed = [each for each in done if each.failure or each.words != OPEN_TOKENS]
    ours = side.name == "ours"
    name = f"{OPEN_STREAMS} open streams, {side.name}"
    report.add(
        Figure(
            name=f"{name}: errors", measured=len(failed), unit="", target=0 if ours else None,
            note=failed[0].failure if failed else "",
        )
    )  # fmt: skip
    gaps_s = [gap for each in done for gap in each.gaps_s]
    if gaps_s:
        p99 = percentile(gaps_s, 0.99) * MS / OPEN_PACE_MS
        target = 1.25 if ours else None
        report.add(
            Figure(name=f"{name}: gap p99 over nominal", measured=p99, unit="x", target=target)
        )
    if side.gateway_pid:
        report.add(
            Figure(
                name=f"{name}: memory added", measured=memory_mb - before_mb, unit="MB",
                target=40 if ours else None, note=f"{before_mb:.0f} MB before",
            )
        )  # fmt: skip
