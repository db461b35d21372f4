"""A worker with everything it needs, opened and closed in order."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.adapters.clock import SystemClock
from node.adapters.files import FolderFiles
from node.adapters.p2p.discovery import open_discovery
from node.adapters.p2p.transport import open_transport
from node.app.domain import domain_of
from node.app.engines import engine_of
from node.app.hello import hello_of
from node.app.home import Home
from node.app.redeem import Till, open_till
from node.app.selling import ShopPorts, payee_account, selling
from node.config import Config
from node.errors import SignatureError
from node.protocol import signing
from node.protocol.fields import Address, Signed
from node.protocol.statements import Announcement
from node.roles.generation import Engine
from node.roles.ports import Transport
from node.roles.seller import Seller
from node.roles.stores import Stores
from node.roles.worker import Worker

Around = Callable[[Transport, signing.Domain, bytes], Transport]
"""Puts something between the roles and the network; the devnet's cheats do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """What `serve` and its control socket work with."""

    address: Address
    transport: Transport
    engine: Engine
    seller: Seller
    worker: Worker
    till: Till


def unchanged(transport: Transport, _domain: signing.Domain, _key: bytes) -> Transport:
    """Nothing in between: the ordinary worker."""
    return transport


@asynccontextmanager
async def open_vendor(
    config: Config, key: bytes, stores: Stores, *, around: Around = unchanged
) -> AsyncIterator[Vendor]:
    """A worker on the network, ready to sell; its tasks end with the context.

    Raises:
        ConfigError: A setting, the model or the port can't be used.
    """
    address, domain = signing.address_of_key(key), domain_of(config)
    account = payee_account(config, key)
    hello = hello_of(domain, payer=address, payee=account, sells=True)
    equipment = await trio.to_thread.run_sync(engine_of, config)
    engine = equipment.engine
    async with (
        trio.open_nursery() as nursery,
        open_till(config, key, stores) as till,
        open_transport(config.network, key, hello) as network,
        open_discovery(network, config.network, accept=_genuine(domain), eager=True) as discovery,
    ):
        await nursery.start(engine.run)
        ports = ShopPorts(
            transport=around(network, domain, key),
            discovery=discovery,
            engine=engine,
            stores=stores,
            files=FolderFiles(Home(config.home).files, own=equipment.files),
            clock=SystemClock(),
            rng=secrets.SystemRandom(),
        )
        async with selling(config, key, ports, till.cashier) as shop:
            yield Vendor(
                address=address,
                transport=ports.transport,
                engine=engine,
                seller=shop.seller,
                worker=shop.worker,
                till=till,
            )
        nursery.cancel_scope.cancel()


def _genuine(domain: signing.Domain) -> Callable[[Signed[Announcement]], bool]:
    """Whether to relay an announcement: forgeries don't travel."""

    def genuine(signed: Signed[Announcement]) -> bool:
        try:
            return signing.recover(signed, domain) == signed.statement.worker
        except SignatureError:
            return False

    return genuine
