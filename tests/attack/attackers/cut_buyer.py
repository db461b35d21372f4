"""A real client whose worker is cut off in mid-job, at every place and in every way, job by job.

The client is the one who is attacked: what it pays and what it can prove are judged here.
"""

import json
import time
from pathlib import Path
from typing import Any

import structlog
import trio

from node.adapters.store import open_stores
from node.app import control, receipts
from node.app.buyer import Buyer, open_buyer
from node.app.domain import domain_of
from node.app.home import Home
from node.app.unlock import session_key
from node.config import Config, load
from node.errors import NodeError, Unavailable
from tests.attack.attackers.peer import Target, run, say
from tests.attack.attackers.rogue_worker import CUT, ROLE
from tests.attack.buying import Bought, buy
from tests.attack.cutting import MODES

TOKENS = 14
READY_S = 60.0
FRAMES_MAX = 60


class CutWorker:
    """Runs one job per cut."""

    def __init__(self, buyer: Buyer, config: Config, orders: dict[str, Any]) -> None:
        self._buyer = buyer
        self._config = config
        self._orders = orders
        self._rogue_home = Path(orders["rogue_home"])
        self.rows: list[dict[str, Any]] = []
        self.before_micro = 0
        """Promised before the first cut."""

    async def run(self) -> None:
        """Every place in steps; a mode is over when a job has ended without having been cut."""
        await self._ready()
        first = await buy(self._buyer, self._config, worker=self._orders["rogue"], tokens=TOKENS)
        assert not first.error, first.error
        self.before_micro = self._buyer.payer.promised_micro
        for mode in MODES:
            for at in range(0, 2 * FRAMES_MAX, self._orders["step"]):
                if not await self._case(mode, at):
                    break

    async def _case(self, mode: str, at: int) -> bool:
        """Whether there was still something to cut."""
        await self._ready()
        self._play({"cut": mode, "at": at})
        cuts, began_s = self._cuts(), time.monotonic()
        bought = await buy(self._buyer, self._config, worker=self._orders["rogue"], tokens=TOKENS)
        took_s = time.monotonic() - began_s
        self._play({})
        cut = self._cuts() > cuts
        self.rows.append(
            {
                "mode": mode,
                "at": at,
                "cut": cut,
                "error": bought.error,
                "paid_micro": bought.paid_micro,
                "worth_micro": bought.worth_micro,
                "tokens": bought.job.tokens_out if bought.job else 0,
                "took_s": took_s,
                "verified": self._verified(bought),
                "reserved_micro": sum(each.claim_micro for each in self._buyer.payer.reservations),
            }
        )
        return cut

    def _cuts(self) -> int:
        path = self._rogue_home / CUT
        return len(path.read_text().split()) if path.exists() else 0

    def _verified(self, bought: Bought) -> bool | None:
        """What `receipts verify` says of the transcript; None where there is nothing to prove."""
        if bought.outcome is None:
            return None
        outcome, folder = bought.outcome, Home(self._config.home).transcripts
        path = receipts.save(folder, outcome.job, outcome.transcript, outcome.disclosure)
        return receipts.verify_file(path, disclosure=path.with_suffix(".disclosure")).passed

    async def _ready(self) -> None:
        """Until the worker is up (again), and this client can buy from it."""
        deadline_s = time.monotonic() + READY_S
        worker = bytes.fromhex(self._orders["rogue"][2:])
        while time.monotonic() < deadline_s:
            try:
                await trio.to_thread.run_sync(
                    lambda: control.call(Home(self._rogue_home), "status", {}, timeout_s=5.0)
                )
                await self._buyer.transport.connect((self._orders["rogue_addr"],))
            except (NodeError, Unavailable):
                await trio.sleep(0.1)
                continue
            session = self._buyer.transport.sessions().get(worker)
            if session is not None and session.lost is None:
                return
            await trio.sleep(0.05)
        raise AssertionError("the worker did not come back")

    def _play(self, role: dict[str, Any]) -> None:
        draft = self._rogue_home / f"{ROLE}.draft"
        draft.write_text(json.dumps(role))
        draft.rename(self._rogue_home / ROLE)


async def main(target: Target) -> None:
    """All cuts."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    flags = {
        "network.bootstrap": [target.orders["rogue_addr"]],
        "client.discover_s": 2.0,
        "client.silence_s": 2.0,
    }
    config = load(Path(target.orders["home"]), flags=flags)
    async with (
        open_stores(Home(config.home).store, domain=domain_of(config)) as stores,
        open_buyer(config, session_key(config), stores) as buyer,
    ):
        cut = CutWorker(buyer, config, target.orders)
        await cut.run()
        say(rows=cut.rows, promised_micro=buyer.payer.promised_micro - cut.before_micro)


if __name__ == "__main__":
    run(main)
