"""12: fifty jobs at once on one small deposit, over several workers, each with a tab of its own."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from node.protocol.signing import address_of_key, checksum
from tests.attack import saved
from tests.attack.accounts import MONEY, funded
from tests.attack.harness import Figures, World, at_least, at_most

JOBS = 50
DEPOSIT_MICRO = 300
"""A third of what the fifty may cost together."""


class OneDeposit:
    """The client is honest, and its fifty jobs compete; then every worker redeems."""

    number = 12
    name = "many jobs on one deposit"
    target = "50 parallel jobs on one deposit: promised ≤ deposit, always"
    options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        results = [self._round(world, number) for number in world.rounds()]
        return Figures(
            checks=(
                at_least("jobs", JOBS * len(results), JOBS),
                at_least("served in the worst round", min(r["served"] for r in results), 5),
                at_least("workers", min(r["workers"] for r in results), 2),
                at_least("looks", sum(r["looks"] + r["disk_looks"] for r in results), 1000),
                at_most("promised above the deposit", _worst(results, "worst_micro"), 0, "micro"),
                at_most("the same on disk", _worst(results, "disk_worst_micro"), 0, "micro"),
                at_most("short after redeeming", _worst(results, "short_micro"), 0, "micro"),
                at_most("paid for nothing", _worst(results, "idle_micro"), 0, "micro"),
            ),
            details={"rounds": results},
        )

    def _round(self, world: World, number: int) -> dict[str, Any]:
        (key,) = funded(world, 1, deposit_micro=DEPOSIT_MICRO)
        workers = world.net.workers
        attacker = world.start(
            "parallel",
            key=key.hex(),
            deposit_micro=DEPOSIT_MICRO,
            home=str(world.net.clients[0].home),
            store=str(world.scratch / f"one-deposit-{number}.sqlite"),
            bootstrap=world.net.bootstrap,
            workers=[checksum(worker.identity.address) for worker in workers],
            jobs=JOBS,
        )
        result = attacker.result()
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(lambda worker: worker.process.ask("redeem"), workers))
        tabs = [
            tab
            for worker in workers
            for tab in saved.payer_tabs(worker.identity.home, address_of_key(key))
        ]
        result["short_micro"] = sum(tab.best - tab.redeemed for tab in tabs)
        result["redeemed_micro"] = sum(tab.redeemed for tab in tabs)
        result["idle_micro"] = result["paid_micro"] - result["worth_micro"]
        result["short_micro"] += max(0, result["paid_micro"] - result["redeemed_micro"])
        return result


def _worst(results: list[dict[str, Any]], name: str) -> int:
    return max(int(result[name]) for result in results)
