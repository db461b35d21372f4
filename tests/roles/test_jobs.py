"""Whole jobs in memory: real roles and stores, a fake network, a scripted engine."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio

from devnet.misbehave import KINDS, CheatingTransport
from node.adapters.store import open_stores
from node.config import ChainConfig, ClientConfig, EngineConfig, WorkerConfig
from node.errors import Unavailable
from node.protocol.auction_record import AuctionRecord
from node.protocol.frames import Refusal, Resume, SamplingFields
from node.protocol.scoring import Preferences
from node.protocol.statements import CutoffReason, Finish
from node.protocol.stops import Output
from node.protocol.transcript_verify import verify
from node.roles.admission import rules_of
from node.roles.answer import Answer
from node.roles.client import Client, Order, Outcome
from node.roles.dispatch import Dispatcher, Handler
from node.roles.generation import EngineLoad, EngineModel, EngineRates, GenerationRequest, TokenStep
from node.roles.hints import Hints
from node.roles.market import Candidate, Market
from node.roles.payee import Payee
from node.roles.payer import Payer
from node.roles.ports import Inbound, Session
from node.roles.purchase import PurchasePorts
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
    """`generation.Engine` that writes 1, 2, 3 … and the end token after `length` of them."""

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
        for number in range(1, request.max_tokens + 1):
            await trio.sleep(self.step_s)
            if number == self.fails_after:
                raise Unavailable("the engine broke")
            self.made += 1
            if self.made == 10:
                self.tenth.set()
            if number > self.length and not request.ignore_eos:
                yield TokenStep(ids=(0,), finish="stop")
                return
            last = number == request.max_tokens
            yield TokenStep(ids=(number % 1000 + 1,), finish="length" if last else None)


@dataclass
class Watch:
    """A `client.Watcher` that remembers."""

    awards: list[Candidate] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def market(self, event: Any) -> None:
        return

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        self.awards.append(candidate)

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        self.refusals.append(refusal)


def resume(role: Payer | Payee) -> Handler:
    async def handle(session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, Resume)
        await role.on_resume(session, inbound.frame)

    return handle


@dataclass
class World:
    """One client and some workers on one chain."""

    net: Net
    escrow: ModelEscrow
    nursery: trio.Nursery
    clock: TrioClock = field(default_factory=TrioClock)
    transports: list[FakeTransport] = field(default_factory=list)
    engines: list[ScriptedEngine] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    payees: list[Payee] = field(default_factory=list)

    async def sell(self, number: int, stores: Stores, *, cheat: str = "", **settings: Any) -> None:
        key = key_of(number)
        config = replace(WorkerConfig(price_in=1_000_000, price_out=5_000_000), **settings)
        raw = self.net.transport(key, sells=True)
        transport: Any = CheatingTransport(raw, cheat, DOMAIN, key) if cheat else raw
        engine = ScriptedEngine()
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
            engine=engine,  # type: ignore[arg-type]
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
            engine=engine,  # type: ignore[arg-type]
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

    async def buy(self, stores: Stores, **settings: Any) -> Client:
        key, config = key_of(99), replace(ClientConfig(), **settings)
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
            config=config,
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
        self.escrow.deposit(transport.address, DEPOSIT)
        self.escrow.settle()
        for role in (payer, hints, market, dispatcher):
            await self.nursery.start(role.run)
        self.client_transport, self.payer = transport, payer
        return client


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    clock = TrioClock()
    async with trio.open_nursery() as nursery:
        yield World(
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
    return Answer(output, on_text=shown.append)


async def bought(client: Client, **changes: Any) -> tuple[Outcome, Answer]:
    the_order = order(**changes)
    reply = answer(the_order, [])
    with trio.fail_after(20):
        return await client.run(the_order, reply, Watch()), reply


async def test_an_honest_job_leaves_a_transcript_that_verifies() -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a)
        client = await w.buy(b)
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert reply.ids[-1] == 0
        assert len(reply.ids) == 41
        job = outcome.attempt.job
        assert job.complete is Finish.STOP
        assert job.accepted_micro == 10 + 41 * 5
        report = verify(outcome.transcript, outcome.disclosure)
        assert report.passed, [check for check in report.checks if not check.passed]
        await w.payer.flush()
        with trio.fail_after(5):
            assert await w.payees[0].wait_paid_above(job.digest, 214) == 215
        assert w.engines[0].active == 0


async def test_many_jobs_side_by_side_share_vouchers_and_add_up() -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a, jobs_per_client_max=64)
        client = await w.buy(b)
        outcomes: list[Outcome] = []

        async def one(number: int) -> None:
            outcome, _ = await bought(client, output_max=5 + number)
            outcomes.append(outcome)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert [outcome.failure for outcome in outcomes] == [""] * 12
        total = sum(outcome.attempt.job.accepted_micro for outcome in outcomes)
        await w.payer.flush()
        with trio.fail_after(5):
            for job in (outcome.attempt.job for outcome in outcomes):
                await w.payees[0].wait_paid_above(job.digest, job.accepted_micro - 1)
        [due] = w.payees[0].vouchers_to_redeem()
        assert (
            due.voucher.statement.cumulative
            == total
            == sum(10 + 5 * (5 + number) for number in range(12))
        )
        assert all(verify(o.transcript, o.disclosure).passed for o in outcomes)


async def test_a_small_quantum_is_paid_in_steps() -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a, quantum_micro=40)
        client = await w.buy(b)
        outcome, reply = await bought(client)
        assert outcome.failure == ""
        assert len(reply.ids) == 41


CHEATS = {
    "overbill": "output tokens, delivered",
    "reprice": "where the terms come to",
    "after-end": "output after the end",
    "old-job": "another award",
    "silent": "no token for",
}


@pytest.mark.parametrize("cheat", sorted(KINDS))
async def test_a_cheat_is_cut_off_and_gets_no_more_than_it_delivered(cheat: str) -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a, cheat=cheat, quantum_micro=60)
        client = await w.buy(b, silence_s=0.5)
        outcome, reply = await bought(client)
        assert CHEATS[cheat] in outcome.failure
        job = outcome.attempt.job
        assert job.accepted_micro <= 10 + 5 * len(reply.ids)
        assert job.cut is not None
        report = verify(outcome.transcript, outcome.disclosure)
        assert report.passed, [check for check in report.checks if not check.passed]
        await w.payer.flush()
        assert w.payer.promised_micro == job.accepted_micro


async def test_a_cancelled_job_stops_the_engine_and_pays_for_what_came() -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a)
        w.engines[0].step_s = 0.01
        client = await w.buy(b)

        async def cancel_soon() -> None:
            await w.engines[0].tenth.wait()
            await client.cancel(CutoffReason.CANCELLED, "cancelled")

        w.nursery.start_soon(cancel_soon)
        outcome, reply = await bought(client, ignore_eos=True, output_max=1000)
        assert outcome.failure == ""
        assert 0 < len(reply.ids) < 100
        assert w.engines[0].active == 0
        assert outcome.attempt.evidence.receipt is not None
        assert outcome.attempt.evidence.receipt.statement.finish == Finish.CUTOFF
        assert verify(outcome.transcript, outcome.disclosure).passed


async def test_a_lost_worker_ends_the_job_with_its_reason_and_keeps_the_answer() -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a)
        w.engines[0].step_s = 0.01
        client = await w.buy(b)

        async def cut_soon() -> None:
            await w.engines[0].tenth.wait()
            for session in w.client_transport.sessions().values():
                session.cut("the peer is gone")

        w.nursery.start_soon(cut_soon)
        outcome, reply = await bought(client, ignore_eos=True, output_max=1000)
        assert outcome.failure == "the peer is gone"
        assert reply.ids
        assert outcome.attempt.job.accepted_micro == 10 + 5 * len(reply.ids)
        assert verify(outcome.transcript, outcome.disclosure).passed
        with trio.fail_after(5):
            await w.engines[0].idle.wait()


async def test_an_engine_that_breaks_is_paid_for_what_it_made() -> None:
    async with (
        world() as w,
        open_stores(None, domain=DOMAIN) as a,
        open_stores(None, domain=DOMAIN) as b,
    ):
        await w.sell(1, a)
        w.engines[0].fails_after = 5
        client = await w.buy(b)
        outcome, reply = await bought(client)
        assert "engine failed" in outcome.failure
        assert len(reply.ids) == 4
        assert outcome.attempt.job.accepted_micro == 10 + 20
        assert verify(outcome.transcript, outcome.disclosure).passed
