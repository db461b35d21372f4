"""11: a worker that is gone at every place of a job: what its client pays, and can prove."""

import threading
import time
from collections import Counter
from typing import Any

from devnet.network import Options
from tests.attack.accounts import MONEY, QUANTUM_MICRO
from tests.attack.cutting import MODES
from tests.attack.harness import Attacker, Figures, World, at_least, at_most
from tests.attack.rogues import RogueWorker, rogue_worker

RESULT_S = 3600.0
LOOK_S = 0.05


class WorkerCut:
    """By TCP reset, by kill -9 (it is started again), and by silence."""

    number: int = 11
    name: str = "the worker is cut off"
    target: str = "worker cut likewise: client overpays ≤ 1 quantum, its transcript verifies"
    options: Options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        with rogue_worker(world, "cut-worker", settings={"engine.tokens_per_s_max": 90.0}) as rogue:
            victim = world.start(
                "cut_buyer",
                home=str(world.net.clients[0].home),
                step=world.count(1, 23),
                **rogue.orders(),
            )
            result = _while_restarting(rogue, victim)
        rows = result["rows"]
        cuts = [row for row in rows if row["cut"]]
        overpaid = max(row["paid_micro"] - row["worth_micro"] for row in rows)
        unverified = [row for row in rows if row["verified"] is False]
        unpaid = [row for row in rows if row["tokens"] and row["verified"] is None]
        modes = Counter(row["mode"] for row in cuts)
        return Figures(
            checks=(
                at_least("cuts", len(cuts), world.count(100, 3)),
                at_least("cuts in the rarest mode", min(modes[m] for m in MODES), 1),
                at_most("overpaid", overpaid, QUANTUM_MICRO, "micro"),
                at_most("transcripts that don't verify", len(unverified), 0),
                at_most("tokens without a transcript", len(unpaid), 0),
                at_most(
                    "vouchers above what came",
                    result["promised_micro"] - sum(row["worth_micro"] for row in rows),
                    QUANTUM_MICRO,
                    "micro",
                ),
                at_most("left reserved", rows[-1]["reserved_micro"], 0, "micro"),
            ),
            details={
                "modes": modes,
                "overpaid": dict(Counter(r["paid_micro"] - r["worth_micro"] for r in rows)),
                "errors": dict(Counter(row["error"][:60] for row in rows)),
                "verified": sum(row["verified"] is True for row in rows),
                "unverified": unverified,
            },
        )


def _while_restarting(rogue: RogueWorker, victim: Attacker) -> dict[str, Any]:
    """The victim's result; the worker is started again each time that it was killed."""
    found: list[dict[str, Any] | BaseException] = []

    def wait() -> None:
        try:
            found.append(victim.result(RESULT_S))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    # Started from this thread: a process ends with the thread that started it.
    while thread.is_alive():
        if not rogue.process.running:
            rogue.restart()
        time.sleep(LOOK_S)
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    return result
