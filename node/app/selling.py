"""The roles of a worker, put together over whatever ports: the network's, or a simulation's."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node.app.domain import domain_of
from node.config import Config
from node.errors import ConfigError
from node.protocol import signing
from node.protocol.fields import Address
from node.roles.admission import rules_of
from node.roles.dispatch import Dispatcher
from node.roles.files import Aside, FileServer
from node.roles.generation import Engine
from node.roles.hints import Hints
from node.roles.payee import Payee
from node.roles.ports import Chain, Clock, Discovery, Files, Transport
from node.roles.redeemer import Redeemer, Settlement
from node.roles.resume import resume_handlers
from node.roles.segment import SegmentPorts
from node.roles.seller import Seller
from node.roles.stores import Stores
from node.roles.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Cashier:
    """What takes vouchers, and turns them into money."""

    payee: Payee
    redeemer: Redeemer


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopPorts:
    """What a worker needs from outside, besides what its cashier has."""

    transport: Transport
    discovery: Discovery | None
    engine: Engine
    stores: Stores
    files: Files
    clock: Clock
    rng: random.Random
    """Cryptographic outside of simulations."""
    aside: Aside = trio.to_thread.run_sync
    """Where a file is read and hashed: off the loop, where there are threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What sells, and serves what was sold."""

    hints: Hints
    seller: Seller
    worker: Worker
    dispatcher: Dispatcher
    files: FileServer


def cashier_of(
    config: Config,
    key: bytes,
    *,
    chain: Chain,
    settlement: Settlement,
    stores: Stores,
    clock: Clock,
) -> Cashier:
    """The payee and its redeemer, not yet running.

    Args:
        config: The home's.
        key: 32-byte session key.
        chain: The escrow, read.
        settlement: The escrow, written to.
        stores: The home's.
        clock: Both clocks.
    """
    payee = Payee(
        account=payee_account(config, key),
        domain=domain_of(config),
        chain=chain,
        store=stores.payee,
        clock=clock,
        rules=rules_of(config.worker, config.chain),
    )
    redeemer = Redeemer(
        claims=payee,
        chain=chain,
        settlement=settlement,
        clock=clock,
        chain_config=config.chain,
        worker_config=config.worker,
    )
    return Cashier(payee=payee, redeemer=redeemer)


def shop_of(config: Config, key: bytes, ports: ShopPorts, payee: Payee) -> Shop:
    """The roles around a payee, not yet running.

    Raises:
        ConfigError: The escrow would refuse the splits, or clients the prices.
    """
    check_prices(config)
    domain, transport = domain_of(config), ports.transport
    hints = Hints(
        transport=transport,
        discovery=ports.discovery,
        clock=ports.clock,
        domain=domain,
        rng=ports.rng,
        bootstrap=config.network.bootstrap,
    )
    seller = Seller(
        transport=transport,
        hints=hints,
        discovery=ports.discovery,
        engine=ports.engine,
        clock=ports.clock,
        domain=domain,
        key=key,
        payee=payee_account(config, key),
        store=ports.stores.worker,
        rng=ports.rng,
        config=config.worker,
        engine_config=config.engine,
    )
    segments = SegmentPorts(
        domain=domain,
        key=key,
        engine=ports.engine,
        payee=payee,
        store=ports.stores.worker,
        clock=ports.clock,
        started=seller.started,
        reservation_s=config.worker.reservation_s,
        payment_s=config.worker.payment_s,
    )
    worker = Worker(ports=segments, seller=seller, config=config.worker)
    files = FileServer(ports.files, aside=ports.aside)
    dispatcher = Dispatcher(
        transport,
        hints.handlers,
        seller.handlers,
        payee.handlers,
        worker.handlers,
        files.handlers,
        resume_handlers(payee.on_resume),
        greeters=(hints.greet, payee.greet),
    )
    return Shop(hints=hints, seller=seller, worker=worker, dispatcher=dispatcher, files=files)


@asynccontextmanager
async def selling(
    config: Config, key: bytes, ports: ShopPorts, cashier: Cashier
) -> AsyncIterator[Shop]:
    """A worker at work; engine and payee are running.  Its tasks end with the context.

    Raises:
        ConfigError: A setting can't be used.
    """
    shop = shop_of(config, key, ports, cashier.payee)
    async with trio.open_nursery() as nursery:
        roles = (shop.hints, shop.worker, shop.files, shop.seller, shop.dispatcher)
        for role in (*roles, cashier.redeemer):
            await nursery.start(role.run)
        yield shop
        nursery.cancel_scope.cancel()


def check_prices(config: Config) -> None:
    """Terms that every client refuses would sell nothing, in silence.

    Raises:
        ConfigError: Such prices are set.
    """
    worker = config.worker
    if worker.price_cached > worker.price_in:
        raise ConfigError(
            f"worker.price_cached is {worker.price_cached} and worker.price_in {worker.price_in}: "
            "no client takes cached tokens that are dearer than computed ones",
            hint=f"--set worker.price_cached={worker.price_in}, or less",
        )


def payee_account(config: Config, key: bytes) -> Address:
    """Where this node's terms are paid to."""
    if config.worker.payee:
        return bytes.fromhex(config.worker.payee[2:])
    return signing.address_of_key(key)
