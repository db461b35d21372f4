"""A market in memory for tests of jobs: real roles and stores, fake network and engine."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from devnet.misbehave import CheatingTransport
from node.adapters.store import open_stores
from node.config import ChainConfig, ClientConfig, EngineConfig, WorkerConfig
from node.errors import Unavailable, WalletError
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import Signed
from node.protocol.frames import Refusal, Resume, SamplingFields
from node.protocol.logprobs import TokenLogprob
from node.protocol.scoring import Preferences
from node.protocol.statements import Lock
from node.protocol.stops import Output
from node.roles.admission import rules_of
from node.roles.answer import Answer
from node.roles.client import Client, Outcome
from node.roles.dispatch import Dispatcher, Handler
from node.roles.generation import EngineLoad, EngineModel, EngineRates, GenerationRequest, TokenStep
from node.roles.hints import Hints
from node.roles.market import Candidate, Market
from node.roles.order import Order
from node.roles.payee import Payee
from node.roles.payer import Payer
from node.roles.ports import Inbound, Session
from node.roles.purchase import PurchasePorts
from node.roles.redeemer import Redeemer
from node.roles.segment import SegmentPorts
from node.roles.seller import Seller
from node.roles.stores import Stores
from node.roles.worker import Worker
from tests.roles.fakes import DOMAIN, FakeTransport, Net, TrioClock, key_of
from tests.roles.market_world import MANIFEST, MODEL
from tests.roles.model_escrow import ModelEscrow

DEPOSIT = 1_000_000
PLAIN = SamplingFields(
    temperature=0,
    top_p=1_000_000,
    top_k=0,
    presence=0,
    frequency=0,
    repetition=1_000_000,
    logprobs=0,
    choice=0,
)


class ScriptedEngine:
    """`generation.Engine` that writes 1, 2, 3 … and the end token after `length` of them.

    What follows a prefix is what would have followed it without a break.
    """

    def __init__(self, *, length: int = 40, step_s: float = 0.0) -> None:
        rates = EngineRates(
            prefill_tps=2000.0, decode_tps=100.0, decode_batch_tps=150.0, first_token_ms=10.0
        )
        self._sold = EngineModel(manifest=MANIFEST, context=2048, slots=4, rates=rates, exact=True)
        self.length = length
        self.step_s = step_s
        self.active = 0
        self.made = 0
        self.fails_after: int | None = None
        self.burst = 1
        """Tokens per step."""
        self.told: TokenLogprob | None = None
        """What is said of each token to whoever asks for log probabilities."""
        self.tenth = trio.Event()
        self.idle = trio.Event()

    def models(self) -> tuple[EngineModel, ...]:
        return (self._sold,)

    def load(self) -> EngineLoad:
        return EngineLoad(active=self.active, slots=4, queued=0, queue_max=16)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[TokenStep]]:
        self.active += 1
        try:
            yield self._steps(request)
        finally:
            self.active -= 1
            self.idle.set()

    async def _steps(self, request: GenerationRequest) -> AsyncIterator[TokenStep]:
        told = self.told if request.sampling.logprobs is not None else None
        first, most = len(request.prefix_ids) + 1, len(request.prefix_ids) + request.max_tokens
        for number in range(first, most + 1, self.burst):
            await trio.sleep(self.step_s)
            if number - first + 1 == self.fails_after:
                raise Unavailable("the engine broke")
            self.made += 1
            if self.made == 10:
                self.tenth.set()
            if number > self.length and not request.ignore_eos:
                yield TokenStep(ids=(0,), finish="stop")
                return
            past = min(number + self.burst, most + 1)
            ids = tuple(each % 1000 + 1 for each in range(number, past))
            yield TokenStep(
                ids=ids,
                logprobs=(told,) * len(ids) if told else (),
                finish="length" if past > most else None,
            )


@dataclass
class Watch:
    """A `client.Watcher` that remembers."""

    awards: list[Candidate] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    hedges: list[Candidate] = field(default_factory=list)
    stops: list[tuple[Candidate, str]] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)

    def market(self, event: Any) -> None:
        return

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        self.awards.append(candidate)

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def failed(self, candidate: Candidate, why: str) -> None:
        self.failures.append(why)

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        self.hedges.append(candidate)

    def stopped(self, candidate: Candidate, why: str) -> None:
        self.stops.append((candidate, why))

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        self.locks.append(lock)


def resume(role: Payer | Payee) -> Handler:
    async def handle(session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, Resume)
        await role.on_resume(session, inbound.frame)

    return handle


class LocksOnly:
    """A settlement that brings locks to the model of the escrow."""

    problem = ""

    def __init__(self, escrow: ModelEscrow) -> None:
        self._escrow = escrow

    async def settle(self) -> None:
        return

    async def submit_lock(self, lock: Signed[Lock]) -> None:
        if not self._escrow.submit_lock(lock.statement):
            raise WalletError("the escrow refuses the lock")
        self._escrow.settle()


@dataclass
class World:
    """One client and some workers on one chain."""

    net: Net
    escrow: ModelEscrow
    stack: AsyncExitStack
    folder: Path | None
    """Where stores are kept; None: in memory."""
    nursery: trio.Nursery
    clock: TrioClock = field(default_factory=TrioClock)
    transports: list[FakeTransport] = field(default_factory=list)
    engines: list[ScriptedEngine] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    payees: list[Payee] = field(default_factory=list)
    stores: list[Stores] = field(default_factory=list)
    """The workers' and then the client's, in the order of their start."""

    async def store(self) -> Stores:
        """A store of its own; it outlives all roles."""
        path = self.folder / f"{len(self.stores)}.sqlite" if self.folder else None
        stores = await self.stack.enter_async_context(open_stores(path, domain=DOMAIN))
        self.stores.append(stores)
        return stores

    async def sell(
        self, number: int, *, cheat: str = "", engine: Any = None, **settings: Any
    ) -> None:
        """A worker with the session key of this number."""
        key, stores = key_of(number), await self.store()
        config = replace(WorkerConfig(price_in=1_000_000, price_out=5_000_000), **settings)
        raw = self.net.transport(key, sells=True)
        transport: Any = CheatingTransport(raw, cheat, DOMAIN, key) if cheat else raw
        engine = engine or ScriptedEngine()
        hints = Hints(
            transport=raw,
            discovery=None,
            clock=self.clock,
            domain=DOMAIN,
            rng=random.Random(number),
        )
        payee = Payee(
            account=raw.address,
            domain=DOMAIN,
            chain=self.escrow,
            store=stores.payee,
            clock=self.clock,
            rules=rules_of(config, ChainConfig()),
        )
        seller = Seller(
            transport=raw,
            hints=hints,
            discovery=None,
            engine=engine,
            clock=self.clock,
            domain=DOMAIN,
            key=key,
            payee=raw.address,
            store=stores.worker,
            rng=random.Random(number),
            config=config,
            engine_config=EngineConfig(),
        )
        ports = SegmentPorts(
            domain=DOMAIN,
            key=key,
            engine=engine,
            payee=payee,
            store=stores.worker,
            clock=self.clock,
            started=seller.started,
            reservation_s=config.reservation_s,
            payment_s=config.payment_s,
        )
        worker = Worker(ports=ports, seller=seller, config=config)
        dispatcher = Dispatcher(
            transport,
            hints.handlers,
            seller.handlers,
            payee.handlers,
            worker.handlers,
            {Resume: resume(payee)},
            greeters=(hints.greet, payee.greet),
        )
        for role in (payee, hints, worker, seller, dispatcher):
            await self.nursery.start(role.run)
        self.transports.append(raw)
        self.engines.append(engine)
        self.workers.append(worker)
        self.payees.append(payee)

    async def redeem(self, number: int = 0) -> None:
        """Have a worker bring locks, and nothing else, to the escrow."""
        redeemer = Redeemer(
            claims=self.payees[number],
            chain=self.escrow,
            settlement=LocksOnly(self.escrow),  # type: ignore[arg-type]
            clock=self.clock,
            chain_config=ChainConfig(),
            worker_config=WorkerConfig(),
        )
        await self.nursery.start(redeemer.run)

    async def buy(self, *, stores: Stores | None = None, **settings: Any) -> Client:
        """The client; with `stores`, the next process of the home that these are of."""
        key, config = key_of(99), replace(ClientConfig(), **settings)
        stores = stores or await self.store()
        transport = self.net.transport(key)

        async def deliver(worker: bytes, frame: Any) -> None:
            session = transport.sessions().get(worker)
            if session is None:
                raise Unavailable("gone")
            await session.send(frame)

        payer = Payer(
            account=transport.address,
            domain=DOMAIN,
            key=key,
            chain=self.escrow,
            store=stores.payer,
            clock=self.clock,
            deliver=deliver,
        )
        hints = Hints(
            transport=transport,
            discovery=None,
            clock=self.clock,
            domain=DOMAIN,
            rng=random.Random(1),
            bootstrap=[worker.addrs[0] for worker in self.transports],
        )
        market = Market(
            transport=transport,
            hints=hints,
            clock=self.clock,
            domain=DOMAIN,
            key=key,
            payer=transport.address,
            rng=random.Random(2),
            config=config,
            store=stores.market,
        )
        client = Client(
            ports=PurchasePorts(
                domain=DOMAIN,
                key=key,
                payer=payer,
                store=stores.client,
                clock=self.clock,
                silence_s=config.silence_s,
            ),
            transport=transport,
            market=market,
            payer=payer,
            payer_account=transport.address,
            rng=random.Random(3),
        )
        dispatcher = Dispatcher(
            transport,
            hints.handlers,
            market.handlers,
            payer.handlers,
            {Resume: resume(payer)},
            greeters=(hints.greet, market.greet, payer.greet),
        )
        if not self.escrow.head.of(transport.address).free:
            self.escrow.deposit(transport.address, DEPOSIT)
            self.escrow.settle()
        for role in (payer, hints, market, dispatcher):
            await self.nursery.start(role.run)
        await client.recover()
        self.client_transport, self.payer = transport, payer
        return client


@asynccontextmanager
async def world(folder: Path | None = None) -> AsyncIterator[World]:
    clock = TrioClock()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        yield World(
            stack=stack,
            folder=folder,
            net=Net(),
            escrow=ModelEscrow(time_s=clock.unix_ms() // 1000),
            nursery=nursery,
            clock=clock,
        )
        nursery.cancel_scope.cancel()


def order(**changes: Any) -> Order:
    plain = Order(
        model=MODEL,
        prompt=tuple(range(1, 11)),
        sampling=PLAIN,
        output_max=100,
        preferences=Preferences(price_micro_max=1_000_000),
    )
    return replace(plain, **changes)


def answer(the_order: Order, shown: list[str]) -> Answer:
    output = Output(
        decode=lambda ids: "".join(f"{each} " for each in ids),
        eos_ids=MANIFEST.eos_ids,
        stops=the_order.stop,
        max_tokens=the_order.output_max,
        ignore_eos=the_order.ignore_eos,
    )
    return Answer(output, on_text=shown.append, vocab=MANIFEST.vocab)


async def bought(
    client: Client, *, watch: Watch | None = None, **changes: Any
) -> tuple[Outcome, Answer]:
    the_order = order(**changes)
    reply = answer(the_order, [])
    with trio.fail_after(120):
        return await client.run(the_order, reply, watch or Watch()), reply
