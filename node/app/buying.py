"""The roles of a client, put together over whatever ports: the network's, or a simulation's."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.app.domain import domain_of
from node.config import Config
from node.errors import Unavailable
from node.protocol import signing
from node.protocol.fields import Address
from node.protocol.frames import VoucherFrame
from node.roles.catalog import Catalog
from node.roles.client import Client
from node.roles.dispatch import Dispatcher
from node.roles.hints import Hints
from node.roles.market import Market
from node.roles.outbox import Deliver
from node.roles.payer import Payer
from node.roles.ports import Chain, Clock, Discovery, Files, Transport
from node.roles.purchase import PurchasePorts
from node.roles.resume import resume_handlers
from node.roles.stores import Stores

CLOSE_S = 5.0
"""How long saved vouchers may take to leave when the command ends; a later one sends the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuyerPorts:
    """What a client needs from outside."""

    transport: Transport
    discovery: Discovery | None
    chain: Chain
    stores: Stores
    files: Files
    clock: Clock
    rng: random.Random
    """Cryptographic outside of simulations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """What commands that buy, or look at the market, work with."""

    address: Address
    transport: Transport
    hints: Hints
    market: Market
    catalog: Catalog
    payer: Payer
    client: Client


def buyer_of(config: Config, key: bytes, ports: BuyerPorts) -> Buyer:
    """The roles, not yet running.

    Args:
        config: The home's.
        key: 32-byte session key.
        ports: What they work on.
    """
    address, domain = signing.address_of_key(key), domain_of(config)
    payer = Payer(
        account=address,
        domain=domain,
        key=key,
        chain=ports.chain,
        store=ports.stores.payer,
        clock=ports.clock,
        deliver=deliverer(ports.transport),
    )
    hints = Hints(
        transport=ports.transport,
        discovery=ports.discovery,
        clock=ports.clock,
        domain=domain,
        rng=ports.rng,
        bootstrap=config.network.bootstrap,
    )
    market = Market(
        transport=ports.transport,
        hints=hints,
        clock=ports.clock,
        domain=domain,
        key=key,
        payer=address,
        rng=ports.rng,
        config=config.client,
        store=ports.stores.market,
    )
    catalog = Catalog(
        hints=hints,
        market=market,
        transport=ports.transport,
        files=ports.files,
        clock=ports.clock,
        rng=ports.rng,
        discover_s=config.client.discover_s,
    )
    client = Client(
        ports=PurchasePorts(
            domain=domain,
            key=key,
            payer=payer,
            store=ports.stores.client,
            clock=ports.clock,
            silence_s=config.client.silence_s,
        ),
        transport=ports.transport,
        market=market,
        payer=payer,
        payer_account=address,
        rng=ports.rng,
    )
    return Buyer(
        address=address,
        transport=ports.transport,
        hints=hints,
        market=market,
        catalog=catalog,
        payer=payer,
        client=client,
    )


@asynccontextmanager
async def buying(config: Config, key: bytes, ports: BuyerPorts) -> AsyncIterator[Buyer]:
    """A client at work; its tasks end with the context, its vouchers have left by then.

    Raises:
        ConfigError: A setting can't be used.
    """
    buyer = buyer_of(config, key, ports)
    hints, market, payer = buyer.hints, buyer.market, buyer.payer
    dispatcher = Dispatcher(
        ports.transport,
        hints.handlers,
        market.handlers,
        payer.handlers,
        resume_handlers(payer.on_resume),
        greeters=(hints.greet, market.greet, payer.greet),
    )
    async with trio.open_nursery() as nursery:
        for role in (payer, hints, market, dispatcher):
            await nursery.start(role.run)
        await buyer.client.recover()
        yield buyer
        with trio.move_on_after(CLOSE_S):
            await payer.flush()
            await market.flush()
        nursery.cancel_scope.cancel()


def deliverer(transport: Transport) -> Deliver:
    """Sends a voucher to a worker that is connected."""

    async def deliver(worker: Address, frame: VoucherFrame) -> None:
        session = transport.sessions().get(worker)
        if session is None:
            raise Unavailable("no session with the worker")
        await session.send(frame)

    return deliver
