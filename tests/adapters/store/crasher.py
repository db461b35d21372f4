"""Signs and saves vouchers one after the other; prints each cumulative once it is saved."""

import sys
from pathlib import Path

import structlog
import trio

from node.adapters.store import open_stores
from node.roles.stores import StoreFailed
from tests.adapters.store.samples import PAYER_TAB, draft, reservation
from tests.roles.fakes import DOMAIN


async def main() -> None:
    path, count = Path(sys.argv[1]), int(sys.argv[2])
    async with open_stores(path, domain=DOMAIN) as stores:
        try:
            await stores.payer.reserve(reservation(1), PAYER_TAB)
            tab = PAYER_TAB
            for cumulative in range(1, count + 1):
                made, frame = draft(tab, 1, 1)
                await stores.payer.save_vouchers([(made, frame)])
                tab = made.tab
                print(cumulative, flush=True)
        except StoreFailed as error:
            print("failed", flush=True)
            print(error, file=sys.stderr)


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
trio.run(main)
