"""A client that goes on buying while its withdrawal is under way: it hides the exit from itself.

One JSON line per job, until the file that its orders name is there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import trio

from node.adapters.store import open_stores
from node.app.domain import domain_of
from node.config import load
from node.roles.ports import Chain, ChainView
from tests.attack.attackers.peer import Target, run, say
from tests.attack.buying import buy
from tests.attack.clients import open_client

TOKENS = 40


class NoExit:
    """The escrow as an honest payer would see it that has not asked to leave."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def view(self, **pair: Any) -> ChainView:
        """Without the exit."""
        view = await self._chain.view(**pair)
        return replace(view, account=replace(view.account, exit_ready_s=0))


async def main(target: Target) -> None:
    """Buy from one worker until told to stop."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    orders = target.orders
    flags = {"network.bootstrap": [orders["rogue_addr"]], "client.discover_s": 1.0}
    config = load(Path(orders["home"]), flags=flags)
    stop, store = Path(orders["stop"]), Path(orders["store"])
    async with (
        open_stores(store, domain=domain_of(config)) as stores,
        open_client(
            config,
            bytes.fromhex(orders["key"]),
            stores,
            chain_as=lambda chain: NoExit(chain),
        ) as buyer,
    ):
        while not stop.exists():  # noqa: ASYNC240  # a look of microseconds
            bought = await buy(buyer, config, worker=orders["rogue"], tokens=TOKENS)
            say(error=bought.error, paid_micro=bought.paid_micro, worth_micro=bought.worth_micro)
            if bought.error:
                await trio.sleep(0.3)
        say(done=True)


if __name__ == "__main__":
    run(main)
