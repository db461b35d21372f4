"""A worker with everything it needs, opened and closed in order."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from node.adapters import model_folder
from node.adapters.clock import SystemClock
from node.adapters.files import FolderFiles
from node.adapters.model_folder import ModelFolder
from node.adapters.onnx.engine import OnnxEngine, OnnxModel
from node.adapters.p2p.discovery import open_discovery
from node.adapters.p2p.transport import open_transport
from node.adapters.text.chat import ChatText
from node.app.buyer import hello_of
from node.app.domain import domain_of
from node.app.home import Home
from node.app.redeem import Till, open_till, payee_account
from node.config import Config
from node.errors import SignatureError
from node.protocol import signing
from node.protocol.fields import Address, Signed
from node.protocol.frames import Resume
from node.protocol.statements import Announcement
from node.roles.dispatch import Dispatcher, Handler
from node.roles.files import FileServer
from node.roles.hints import Hints
from node.roles.payee import Payee
from node.roles.ports import Inbound, Session, Transport
from node.roles.segment import SegmentPorts
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
    engine: OnnxEngine
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
    address, clock, domain = signing.address_of_key(key), SystemClock(), domain_of(config)
    account = payee_account(config, key)
    hello = hello_of(domain, payer=address, payee=account, sells=True)
    rng = secrets.SystemRandom()
    folder = await trio.to_thread.run_sync(_load_model, config)
    engine = OnnxEngine(
        [
            OnnxModel(
                manifest=folder.manifest,
                graph=folder.graph,
                decode=ChatText.of(folder.client_files()).decode,
            )
        ],
        slots=config.engine.slots,
        threads=config.engine.threads,
        tokens_per_s_max=config.engine.tokens_per_s_max,
        queue_max=config.worker.queue_max,
    )
    async with (
        trio.open_nursery() as nursery,
        open_till(config, key, stores) as till,
        open_transport(config.network, key, hello) as network,
        open_discovery(network, config.network, accept=_genuine(domain), eager=True) as discovery,
    ):
        await nursery.start(engine.run)
        transport, payee = around(network, domain, key), till.payee
        hints = Hints(
            transport=transport,
            discovery=discovery,
            clock=clock,
            domain=domain,
            rng=rng,
            bootstrap=config.network.bootstrap,
        )
        seller = Seller(
            transport=transport,
            hints=hints,
            discovery=discovery,
            engine=engine,
            clock=clock,
            domain=domain,
            key=key,
            payee=account,
            store=stores.worker,
            rng=rng,
            config=config.worker,
            engine_config=config.engine,
        )
        ports = SegmentPorts(
            domain=domain,
            key=key,
            engine=engine,
            payee=payee,
            store=stores.worker,
            clock=clock,
            started=seller.started,
            reservation_s=config.worker.reservation_s,
            payment_s=config.worker.payment_s,
        )
        worker = Worker(ports=ports, seller=seller, config=config.worker)
        own = (folder.manifest.encode(), *folder.client_files().values())
        files = FileServer(FolderFiles(Home(config.home).files, own=own))
        dispatcher = Dispatcher(
            transport,
            hints.handlers,
            seller.handlers,
            payee.handlers,
            worker.handlers,
            files.handlers,
            {Resume: _resume(payee)},
            greeters=(hints.greet, payee.greet),
        )
        for role in (hints, worker, files, seller, dispatcher, till.redeemer):
            await nursery.start(role.run)
        yield Vendor(
            address=address,
            transport=transport,
            engine=engine,
            seller=seller,
            worker=worker,
            till=till,
        )
        nursery.cancel_scope.cancel()


def _resume(payee: Payee) -> Handler:
    async def handle(session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, Resume)
        await payee.on_resume(session, inbound.frame)

    return handle


def _load_model(config: Config) -> ModelFolder:
    root = Path(config.engine.model_dir) if config.engine.model_dir else model_folder.shipped()
    return model_folder.load(root)


def _genuine(domain: signing.Domain) -> Callable[[Signed[Announcement]], bool]:
    """Whether to relay an announcement: forgeries don't travel."""

    def genuine(signed: Signed[Announcement]) -> bool:
        try:
            return signing.recover(signed, domain) == signed.statement.worker
        except SignatureError:
            return False

    return genuine
