"""One run of the simulator: a plan, played to its end."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from tests.sim.disk import DiskWriter
from tests.sim.plan import Plan
from tests.sim.world import Echo, World

STUCK_CPU_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a seed."""

    seed: int
    digest: str
    events: int
    rule: str = ""
    """That was broken; empty if none was."""
    what: str = ""
    trace: tuple[str, ...] = ()
    outcomes: dict[str, int] = field(default_factory=dict)
    """How jobs ended."""
    seconds: float = 0.0
    """Virtual."""


class Stuck(Exception):
    """The simulated clock stands still, or nearly."""


@contextmanager
def _bounded() -> Iterator[None]:
    """A run takes a second, or a few: one that goes on waits for nothing again and again."""

    def stop(_number: int, _frame: object) -> None:
        raise Stuck(f"not over after {STUCK_CPU_S:g} s of CPU")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def simulate(
    plan: Plan, *, writer: type[DiskWriter] = DiskWriter, echo: Echo | None = None
) -> Result:
    """Run a plan, in this thread, to its end."""
    from trio._core import _run

    gc.collect()
    gc.freeze()  # what was imported is not looked at again and again
    gc.disable()  # an object that is collected now or later is an event now or later
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(f"trio {plan.seed}")
    worlds: list[World] = []

    async def main() -> float:
        world = World(plan, writer, echo)
        worlds.append(world)
        await world.run()
        return trio.current_time()

    seconds, ended_by = 0.0, ""
    try:
        with _bounded():
            seconds = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except Exception as error:  # whatever it is, it is this seed's: others go on
        if not worlds:
            raise
        ended_by = f"{type(error).__name__}: {error}"
    finally:
        gc.enable()
    (world,) = worlds
    rule, what = world.broken or (("a run ends by itself", ended_by) if ended_by else ("", ""))
    return Result(
        seed=plan.seed,
        digest=world.trace.digest,
        events=world.trace.count,
        rule=rule,
        what=what,
        trace=tuple(world.trace.lines()) if rule else (),
        outcomes=world.outcomes,
        seconds=seconds,
    )
