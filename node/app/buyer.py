"""A client with everything it needs, opened and closed in order."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.clock import SystemClock
from node.adapters.files import FolderFiles
from node.adapters.p2p.transport import open_transport
from node.app.buying import Buyer, BuyerPorts, buying
from node.app.domain import domain_of
from node.app.hello import hello_of
from node.app.home import Home
from node.config import Config
from node.protocol import signing
from node.protocol.fields import ZERO_ADDRESS
from node.roles.stores import Stores

__all__ = ["Buyer", "open_buyer"]


@asynccontextmanager
async def open_buyer(config: Config, key: bytes, stores: Stores) -> AsyncIterator[Buyer]:
    """A client on the network; its tasks end with the context, its vouchers have left by then.

    Raises:
        ConfigError: A setting can't be used.
    """
    address, domain = signing.address_of_key(key), domain_of(config)
    # Nobody needs to dial a client, and a second one on the machine could not have the port.
    network = replace(config.network, listen=())
    hello = hello_of(domain, payer=address, payee=ZERO_ADDRESS, sells=False)
    rpc = Rpc(config.chain.rpc_url, chain_id=config.chain.chain_id)
    async with open_transport(network, key, hello) as transport:
        ports = BuyerPorts(
            transport=transport,
            discovery=None,
            chain=EscrowReader(
                rpc, escrow=domain.escrow, finality_blocks=config.chain.finality_blocks
            ),
            stores=stores,
            files=FolderFiles(Home(config.home).files),
            clock=SystemClock(),
            rng=secrets.SystemRandom(),
        )
        async with buying(config, key, ports) as buyer:
            yield buyer
