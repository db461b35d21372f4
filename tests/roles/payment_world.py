"""A payer and payees with the real roles and tables, over the fake network and a model escrow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from node.errors import SessionLost
from node.protocol import signing
from node.protocol.fields import ZERO_HASH, Address, Hash
from node.protocol.frames import VoucherFrame
from node.protocol.payee_state import PayeeRules, Refuse
from node.protocol.statements import Award, Finish, Receipt, Terms, Tier
from node.roles.dispatch import Dispatcher
from node.roles.outbox import Deliver
from node.roles.payee import Payee
from node.roles.payer import Payer
from node.roles.resume import resume_handlers
from tests.roles.fakes import DOMAIN, UNIX_MS_START, FakeTransport, Net, TrioClock, key_of
from tests.roles.inline_store import InlineWriter
from tests.roles.model_escrow import ModelEscrow

START_S = UNIX_MS_START // 1000
MODEL = b"m" * 32
MARGIN_S = 600
RULES = PayeeRules(
    credit_micro=1_000, credit_new_micro=5_000, debt_max_micro=100, exit_margin_s=MARGIN_S
)


def terms_of(worker: Address, *, model: Hash = MODEL, quantum: int = 100) -> Terms:
    """One token costs one micro; the prompt is free."""
    return Terms(
        worker=worker,
        payee=worker,
        model=model,
        tier=Tier.IDS,
        tokenizer=ZERO_HASH,
        price_in=0,
        price_cached=0,
        price_out=1_000_000,
        splits=(),
        quantum=quantum,
        prepay=0,
        context_max=4096,
        output_max=4096,
        first_token_ms=0,
        rate_mtps=0,
        prefill_tps=0,
        slots_free=1,
        queued=0,
        region="",
        serial=1,
        expires_ms=0,
        ask=ZERO_HASH,
    )


def award_of(client: Address, terms: Terms, number: int, *, cap: int = 100) -> Award:
    return Award(
        client=client,
        payer=client,
        worker=terms.worker,
        job=number.to_bytes(16, "big"),
        attempt=0,
        terms=ZERO_HASH,
        request=ZERO_HASH,
        request_bytes=1,
        tokens_in=0,
        output_max=cap,
        cap=cap,
        seed=0,
        position=0,
        chain=ZERO_HASH,
        previous=ZERO_HASH,
        issued_ms=0,
    )


def digest_of(award: Award) -> Hash:
    return signing.digest(award, DOMAIN)


class Wire:
    """The way from a payer to its workers; tests put faults in its place."""

    def __init__(self, transport: FakeTransport) -> None:
        self.delivered: list[VoucherFrame] = []
        """All that was given to sessions, in order."""
        self.send: Deliver = self.honest
        self._transport = transport

    async def deliver(self, worker: Address, frame: VoucherFrame) -> None:
        await self.send(worker, frame)

    async def honest(self, worker: Address, frame: VoucherFrame) -> None:
        session = self._transport.sessions().get(worker)
        if session is None:
            raise SessionLost("no session")
        self.delivered.append(frame)
        await session.send(frame)


@dataclass
class Buyer:
    """A node that buys; `transport` may be replaced to lose its sessions."""

    key: bytes
    transport: FakeTransport
    writer: InlineWriter
    payer: Payer
    dispatcher: Dispatcher
    wire: "Wire"

    @property
    def account(self) -> Address:
        return self.payer.account


@dataclass
class Seller:
    """A node that sells."""

    key: bytes
    transport: FakeTransport
    writer: InlineWriter
    payee: Payee
    dispatcher: Dispatcher

    @property
    def account(self) -> Address:
        return signing.address_of_key(self.key)


class World:
    """Builds nodes on one net and one escrow; they run in its nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.net = Net()
        self.escrow = ModelEscrow(time_s=START_S)
        self.clock = TrioClock()
        self.nursery = nursery
        self.jobs = 0

    async def buyer(
        self,
        number: int = 1,
        *,
        deposit: int = 10_000,
        writer: InlineWriter | None = None,
        account: Address | None = None,
    ) -> Buyer:
        key = key_of(number)
        transport = self.net.transport(key)
        writer = writer or InlineWriter()
        wire = Wire(transport)
        payer = Payer(
            account=account or signing.address_of_key(key),
            domain=DOMAIN,
            key=key,
            chain=self.escrow,
            store=writer.stores().payer,
            clock=self.clock,
            deliver=wire.deliver,
        )
        if deposit:
            self.escrow.deposit(payer.account, deposit)
        dispatcher = Dispatcher(
            transport, payer.handlers, resume_handlers(payer.on_resume), greeters=(payer.greet,)
        )
        await self.nursery.start(payer.run)
        await self.nursery.start(dispatcher.run)
        return Buyer(key, transport, writer, payer, dispatcher, wire)

    async def seller(
        self,
        number: int = 2,
        *,
        rules: PayeeRules = RULES,
        writer: InlineWriter | None = None,
    ) -> Seller:
        key = key_of(number)
        transport = self.net.transport(key, sells=True)
        writer = writer or InlineWriter()
        payee = Payee(
            account=signing.address_of_key(key),
            domain=DOMAIN,
            chain=self.escrow,
            store=writer.stores().payee,
            clock=self.clock,
            rules=rules,
        )
        dispatcher = Dispatcher(
            transport, payee.handlers, resume_handlers(payee.on_resume), greeters=(payee.greet,)
        )
        await self.nursery.start(payee.run)
        await self.nursery.start(dispatcher.run)
        return Seller(key, transport, writer, payee, dispatcher)

    async def connect(self, buyer: Buyer, seller: Seller) -> None:
        await buyer.transport.connect(seller.transport.addrs)
        await self.settle()

    async def settle(self) -> None:
        """Until nothing is due at this moment."""
        await trio.testing.wait_all_tasks_blocked()

    def order(self, buyer: Buyer, seller: Seller, *, cap: int = 100) -> Award:
        self.jobs += 1
        return award_of(buyer.account, terms_of(seller.account), self.jobs, cap=cap)

    async def begin(self, buyer: Buyer, seller: Seller, *, cap: int = 100) -> Award:
        """Reserve, admit and save one segment."""
        award = self.order(buyer, seller, cap=cap)
        await self.reserve(buyer, award)
        assert await self.admit(seller, award) is None
        return award

    async def reserve(self, buyer: Buyer, award: Award) -> None:
        await buyer.payer.reserve(
            job=award.job,
            attempt=award.attempt,
            worker=award.worker,
            terms=terms_of(award.worker),
            cap_micro=award.cap,
        )

    async def admit(self, seller: Seller, award: Award) -> Refuse | None:
        terms = terms_of(seller.account)
        refusal = await seller.payee.admit(award=award, terms=terms)
        if refusal is None:
            await seller.writer.stores().worker.begin_segment(
                digest=digest_of(award),
                award=signing.sign(award, DOMAIN, key_of(99)),
                terms=signing.sign(terms, DOMAIN, seller.key),
                at_ms=self.jobs,
            )
        return refusal

    async def finish(self, seller: Seller, award: Award, *, amount: int) -> Hash:
        """The worker ends the segment with a receipt; its digest."""
        receipt = Receipt(
            award=digest_of(award),
            tokens_in=0,
            tokens_cached=0,
            tokens_out=amount,
            amount=amount,
            chain=ZERO_HASH,
            finish=Finish.STOP,
            accepted_ms=0,
            first_token_ms=0,
            ended_ms=0,
        )
        digest = signing.digest(receipt, DOMAIN)
        signed = signing.sign(receipt, DOMAIN, seller.key)
        await seller.writer.stores().worker.save_receipt(signed, digest=digest)
        seller.payee.ended(receipt.award, earned_micro=amount, receipt=digest)
        return digest


@asynccontextmanager
async def payment_world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()
