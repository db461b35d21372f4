"""A client with everything it needs, opened and closed in order."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.clock import SystemClock
from node.adapters.files import FolderFiles
from node.adapters.p2p.transport import open_transport
from node.app.domain import domain_of
from node.app.home import Home
from node.config import Config
from node.errors import Unavailable
from node.protocol import limits, signing
from node.protocol.fields import ZERO_ADDRESS, Address
from node.protocol.frames import Hello, Resume, VoucherFrame
from node.roles.catalog import Catalog
from node.roles.client import Client
from node.roles.dispatch import Dispatcher, Handler
from node.roles.hints import Hints
from node.roles.market import Market
from node.roles.outbox import Deliver
from node.roles.payer import Payer
from node.roles.ports import Inbound, Session, Transport
from node.roles.purchase import PurchasePorts
from node.roles.stores import Stores

CLOSE_S = 5.0
"""How long saved vouchers may take to leave when the command ends; a later one sends the rest."""


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


@asynccontextmanager
async def open_buyer(config: Config, key: bytes, stores: Stores) -> AsyncIterator[Buyer]:
    """A client on the network; its tasks end with the context, its vouchers have left by then.

    Raises:
        ConfigError: A setting can't be used.
    """
    address, clock = signing.address_of_key(key), SystemClock()
    domain = domain_of(config)
    # Nobody needs to dial a client, and a second one on the machine could not have the port.
    network = replace(config.network, listen=())
    hello = hello_of(domain, payer=address, payee=ZERO_ADDRESS, sells=False)
    rng = secrets.SystemRandom()
    rpc = Rpc(config.chain.rpc_url, chain_id=config.chain.chain_id)
    reader = EscrowReader(rpc, escrow=domain.escrow, finality_blocks=config.chain.finality_blocks)
    async with (
        open_transport(network, key, hello) as transport,
        trio.open_nursery() as nursery,
    ):
        payer = Payer(
            account=address,
            domain=domain,
            key=key,
            chain=reader,
            store=stores.payer,
            clock=clock,
            deliver=deliverer(transport),
        )
        hints = Hints(
            transport=transport,
            discovery=None,
            clock=clock,
            domain=domain,
            rng=rng,
            bootstrap=config.network.bootstrap,
        )
        market = Market(
            transport=transport,
            hints=hints,
            clock=clock,
            domain=domain,
            key=key,
            payer=address,
            rng=rng,
            config=config.client,
            store=stores.market,
        )
        catalog = Catalog(
            hints=hints,
            market=market,
            transport=transport,
            files=FolderFiles(Home(config.home).files),
            clock=clock,
            rng=rng,
            discover_s=config.client.discover_s,
        )
        client = Client(
            ports=PurchasePorts(
                domain=domain,
                key=key,
                payer=payer,
                store=stores.client,
                clock=clock,
                silence_s=config.client.silence_s,
            ),
            transport=transport,
            market=market,
            payer=payer,
            payer_account=address,
            config=config.client,
            rng=rng,
        )
        dispatcher = Dispatcher(
            transport,
            hints.handlers,
            market.handlers,
            payer.handlers,
            {Resume: _resume(payer)},
            greeters=(hints.greet, market.greet, payer.greet),
        )
        for role in (payer, hints, market, dispatcher):
            await nursery.start(role.run)
        await client.recover()
        yield Buyer(
            address=address,
            transport=transport,
            hints=hints,
            market=market,
            catalog=catalog,
            payer=payer,
            client=client,
        )
        with trio.move_on_after(CLOSE_S):
            await payer.flush()
            await market.flush()
        nursery.cancel_scope.cancel()


def hello_of(
    domain: signing.Domain, *, payer: Address, payee: Address, sells: bool
) -> Callable[[], Hello]:
    """What this node says first on a session."""
    from node import __version__

    def hello() -> Hello:
        return Hello(
            version_min=1,
            version_max=1,
            chain_id=domain.chain_id,
            escrow=domain.escrow,
            payer=payer,
            payee=payee,
            sells=sells,
            job_window=limits.JOB_WINDOW_BYTES,
            agent=f"gpunode/{__version__}",
        )

    return hello


def deliverer(transport: Transport) -> Deliver:
    """Sends a voucher to a worker that is connected."""

    async def deliver(worker: Address, frame: VoucherFrame) -> None:
        session = transport.sessions().get(worker)
        if session is None:
            raise Unavailable("no session with the worker")
        await session.send(frame)

    return deliver


def _resume(payer: Payer) -> Handler:
    async def handle(session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, Resume)
        await payer.on_resume(session, inbound.frame)

    return handle
