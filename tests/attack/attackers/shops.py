"""No attacker: several honest workers in one process, each the whole node, from homes of their own.

Orders: homes.  Says when all are ready, and runs until its parent ends it.
"""

from contextlib import AsyncExitStack
from pathlib import Path

import trio

from tests.attack.attackers import peer
from tests.attack.attackers.peer import Target


async def main(target: Target) -> None:
    """What `node serve` opens, once per home."""
    from node.adapters.store import open_stores
    from node.app.domain import domain_of
    from node.app.home import Home
    from node.app.unlock import session_key
    from node.app.vendor import open_vendor
    from node.config import load

    async with AsyncExitStack() as stack:
        workers = []
        for home in target.orders["homes"]:
            config = load(Path(home))
            stores = await stack.enter_async_context(
                open_stores(Home(config.home).store, domain=domain_of(config))
            )
            vendor = await stack.enter_async_context(
                open_vendor(config, session_key(config), stores)
            )
            workers.append("0x" + vendor.address.hex())
        peer.say(workers=workers)
        await trio.sleep_forever()


if __name__ == "__main__":
    peer.run(main)
