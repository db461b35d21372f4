"""A small market in memory: real roles on both sides, fake transport, gossip, engine and store."""

import random
from dataclasses import dataclass, field
from typing import Any, cast

import trio

from node.config import ClientConfig, EngineConfig, WorkerConfig
from node.protocol.fields import Address, Hash
from node.protocol.manifest import FileRole, Manifest, ModelFile
from node.protocol.scoring import Need, Preferences
from node.protocol.statements import Tier
from node.roles.dispatch import Dispatcher
from node.roles.generation import Engine, EngineLoad, EngineModel, EngineRates
from node.roles.hints import Hints
from node.roles.market import Market
from node.roles.seller import Seller
from node.roles.stores import MarketStore, Measurement, StoreFailed, WorkerStore
from tests.roles.fakes import (
    DOMAIN,
    FakeDiscovery,
    FakeTransport,
    Gossip,
    Net,
    TrioClock,
    key_of,
)


def manifest_named(name: str) -> Manifest:
    weights = ModelFile(path="model.onnx", role=FileRole.GRAPH, sha256=bytes(32), size=1)
    return Manifest(
        name=name,
        architecture="llama",
        precision="float32",
        context=2048,
        vocab=1024,
        licence="Apache-2.0",
        eos_ids=(0,),
        files=(weights,),
    )


MANIFEST = manifest_named("tiny")
MODEL = MANIFEST.model_id
NEED = Need(model=MODEL, tier=Tier.IDS, tokens_in=100, output_max=100)
PREFS = Preferences(price_micro_max=1_000_000)


class FakeEngine:
    """Says what it is told to; computes nothing."""

    def __init__(self, *, slots: int = 2, decode_tps: float = 100.0) -> None:
        rates = EngineRates(
            prefill_tps=2000.0,
            decode_tps=decode_tps,
            decode_batch_tps=1.5 * decode_tps,
            first_token_ms=10.0,
        )
        self.sold = EngineModel(
            manifest=MANIFEST, context=2048, slots=slots, rates=rates, exact=True
        )
        self.there = True
        """Whether what runs the model is up."""
        self.busy = EngineLoad(active=0, slots=slots, queued=0, queue_max=16)

    def models(self) -> tuple[EngineModel, ...]:
        return (self.sold,) if self.there else ()

    def load(self) -> EngineLoad:
        return self.busy


class FakeStore:
    """Serials and measurements that outlive a role, as a store's do."""

    def __init__(self) -> None:
        self.serial = 0
        self.broken = False
        self.rows: dict[tuple[Address, Hash], Measurement] = {}

    async def next_serials(self, count: int, *, at_least: int = 0) -> int:
        await trio.lowlevel.checkpoint()
        first = max(self.serial, at_least)
        self.serial = first + count
        return first

    async def save_measurement(self, measurement: Measurement) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise StoreFailed("disk full")
        self.rows[measurement.worker, measurement.model] = measurement

    async def measurements(self) -> tuple[Measurement, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(sorted(self.rows.values(), key=lambda row: -row.updated_ms))


@dataclass(kw_only=True)
class Node:
    """One node's roles."""

    key: bytes
    transport: FakeTransport
    hints: Hints
    clock: TrioClock
    store: FakeStore = field(default_factory=FakeStore)
    engine: FakeEngine = field(default_factory=FakeEngine)
    discovery: FakeDiscovery | None = None

    @property
    def address(self) -> Address:
        return self.transport.address

    async def sell(self, config: WorkerConfig, nursery: trio.Nursery, **more: Any) -> Seller:
        seller = Seller(
            transport=self.transport,
            hints=self.hints,
            discovery=self.discovery,
            engine=cast(Engine, self.engine),
            clock=self.clock,
            domain=DOMAIN,
            key=self.key,
            payee=self.address,
            store=cast(WorkerStore, self.store),
            rng=random.Random(self.key),
            config=config,
            engine_config=EngineConfig(),
            **more,
        )
        dispatcher = Dispatcher(
            self.transport,
            self.hints.handlers,
            seller.handlers,
            greeters=(self.hints.greet,),
        )
        nursery.start_soon(dispatcher.run)
        await nursery.start(self.hints.run)
        await nursery.start(seller.run)
        return seller

    async def buy(self, nursery: trio.Nursery, config: ClientConfig | None = None) -> Market:
        market = Market(
            transport=self.transport,
            hints=self.hints,
            clock=self.clock,
            domain=DOMAIN,
            key=self.key,
            payer=self.address,
            rng=random.Random(self.key),
            config=config or ClientConfig(),
            store=cast(MarketStore, self.store),
        )
        dispatcher = Dispatcher(
            self.transport,
            self.hints.handlers,
            market.handlers,
            greeters=(self.hints.greet, market.greet),
        )
        nursery.start_soon(dispatcher.run)
        await nursery.start(self.hints.run)
        await nursery.start(market.run)
        return market


class World:
    """Makes nodes of one network."""

    def __init__(self, net: Net, *, gossip: Gossip | None = None) -> None:
        self.net = net
        self.gossip = gossip
        self.clock = TrioClock()
        self.workers: list[Node] = []

    def node(self, number: int, *, sells: bool = False, bootstrap: tuple[str, ...] = ()) -> Node:
        key = key_of(number)
        transport = self.net.transport(key, sells=sells)
        discovery = self.gossip.discovery(transport.addrs) if self.gossip is not None else None
        hints = Hints(
            transport=transport,
            discovery=discovery,
            clock=self.clock,
            domain=DOMAIN,
            rng=random.Random(number),
            bootstrap=bootstrap,
        )
        return Node(
            key=key, transport=transport, hints=hints, clock=self.clock, discovery=discovery
        )

    async def worker(
        self,
        nursery: trio.Nursery,
        *,
        price_out: int = 400_000,
        bootstrap: bool = True,
        **engine: Any,
    ) -> tuple[Node, Seller]:
        """A worker that knows the first one's address, and nobody else."""
        known = self.workers[0].transport.addrs if self.workers and bootstrap else ()
        node = self.node(100 + len(self.workers), sells=True, bootstrap=known)
        node.engine = FakeEngine(**engine)
        self.workers.append(node)
        seller = await node.sell(WorkerConfig(price_out=price_out), nursery)
        return node, seller

    async def client(
        self,
        nursery: trio.Nursery,
        *,
        number: int = 1,
        bootstrap: tuple[str, ...] | None = None,
        config: ClientConfig | None = None,
    ) -> tuple[Node, Market]:
        """A client whose bootstrap is the first worker, unless told otherwise."""
        known = self.workers[0].transport.addrs if bootstrap is None else bootstrap
        node = self.node(number, bootstrap=known)
        return node, await node.buy(nursery, config)
