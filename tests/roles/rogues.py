"""Peers that follow no rules: a client and a worker whose frames a test writes itself."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from node.errors import SessionLost
from node.protocol import chain_hash, codec, limits, signing
from node.protocol.fields import ZERO_HASH, Signed
from node.protocol.frames import (
    AcceptanceFrame,
    AskFrame,
    AwardFrame,
    Bid,
    Chunk,
    CutoffFrame,
    Frame,
    Offer,
    OffersWanted,
    Refusal,
    Request,
    RequestData,
    Rise,
    VoucherFrame,
)
from node.protocol.receipts_tree import EMPTY, root
from node.protocol.statements import Acceptance, Ask, Award, Cutoff, Receipt, Terms, Tier, Voucher
from node.protocol.tabs import splits_hash
from node.roles.ports import Inbound
from tests.roles.fakes import DOMAIN, FakeChannel, FakeSession, FakeTransport, key_of
from tests.roles.job_world import DEPOSIT, PLAIN, World
from tests.roles.market_world import MODEL


@dataclass
class RogueClient:
    """A client with a deposit, a session with one worker, and that worker's newest offer."""

    world: World
    key: bytes
    session: FakeSession
    terms: Signed[Terms]
    jobs: int = 0

    @classmethod
    async def join(
        cls, world: World, *, number: int = 66, worker: int = 0, model: bytes = MODEL
    ) -> "RogueClient":
        key = key_of(number)
        transport = world.net.transport(key)
        world.escrow.deposit(transport.address, DEPOSIT)
        world.escrow.settle()
        session = await transport.connect(world.transports[worker].addrs)
        await session.send(OffersWanted(models=(model,)))
        offer = await next_frame(session, Offer)
        return cls(world, key, session, offer.terms)

    def award(self, request: bytes, **changes: Any) -> Award:
        """A valid award of the next job, with changes."""
        self.jobs += 1
        client = signing.address_of_key(self.key)
        job = changes.pop("job", self.jobs.to_bytes(16, "big"))
        plain = Award(
            client=client,
            payer=client,
            worker=self.session.peer,
            job=job,
            attempt=0,
            terms=signing.digest(self.terms.statement, DOMAIN),
            request=signing.keccak256(request),
            request_bytes=len(request),
            tokens_in=10,
            output_max=100,
            cap=10_000,
            seed=1,
            position=0,
            chain=chain_hash.start(client, job),
            previous=ZERO_HASH,
            issued_ms=0,
        )
        return replace(plain, **changes)

    async def open(
        self, *, request: bytes | None = None, voucher: VoucherFrame | None = None, **changes: Any
    ) -> "RogueJob":
        """Award a job; its request is not sent yet."""
        body = request if request is not None else request_body()
        award = self.award(body, **changes)
        channel = self.session.open_channel(award.job)
        frame = AwardFrame(job=award.job, award=self.sign(award), voucher=voucher)
        await channel.send(frame)
        return RogueJob(self, award, channel, body)

    async def open_prepaid(self, *, tokens_in: int, brings_micro: int) -> "RogueJob":
        """Ask for terms, award on them with a voucher that brings so much, send the request."""
        client = signing.address_of_key(self.key)
        ask = Ask(
            client=client,
            payer=client,
            model=MODEL,
            tier=Tier.IDS,
            tokens_in=tokens_in,
            output_max=100,
            nonce=self.jobs,
            expires_ms=2**62,
        )
        await self.session.send(AskFrame(ask=self.sign(ask)))
        self.terms = (await next_frame(self.session, Bid)).terms
        body = request_body(prompt=codec.pack_ids((1,) * tokens_in))
        award = self.award(body, tokens_in=tokens_in)
        voucher = self.voucher(award, cumulative=brings_micro) if brings_micro else None
        job = await self.open(request=body, tokens_in=tokens_in, job=award.job, voucher=voucher)
        await job.send_request()
        return job

    async def begin(self, **changes: Any) -> "RogueJob":
        """Award a job and send its request; the worker has accepted it."""
        job = await self.open(**changes)
        await job.send_request()
        assert isinstance(await job.channel.receive(), AcceptanceFrame)
        return job

    def voucher(self, award: Award, *, cumulative: int, rise: int | None = None) -> VoucherFrame:
        """A voucher on the tab of the offer's terms, its first one unless `rise` says less."""
        terms = self.terms.statement
        statement = Voucher(
            payer=award.payer,
            payee=terms.payee,
            model=terms.model,
            splits=splits_hash(terms.splits),
            cumulative=cumulative,
            receipts=root(EMPTY),
        )
        rises = (Rise(job=award.job, attempt=award.attempt, amount=rise or cumulative),)
        return VoucherFrame(voucher=self.sign(statement), rises=rises, receipts=())

    def sign(self, statement: Any) -> Any:
        return signing.sign(statement, DOMAIN, self.key)


@dataclass
class RogueJob:
    """One job of a rogue client."""

    client: RogueClient
    award: Award
    channel: FakeChannel
    body: bytes
    ids: list[int] = field(default_factory=list)
    data: bytes = b""
    """Output as it came."""

    @property
    def digest(self) -> bytes:
        return signing.digest(self.award, DOMAIN)

    async def send_request(self) -> None:
        for offset in range(0, len(self.body), limits.DATA_BYTES_MAX):
            data = self.body[offset : offset + limits.DATA_BYTES_MAX]
            await self.channel.send(RequestData(job=self.award.job, offset=offset, data=data))

    async def cut(self, position: int, *, award: bytes | None = None) -> None:
        """Send a cutoff at a position that was delivered."""
        statement = Cutoff(
            award=award or self.digest,
            position=position,
            chain=chain_hash.extend(self.award.chain, self.ids[:position]),
            reason=1,
        )
        cutoff = self.client.sign(statement)
        await self.channel.send(CutoffFrame(job=self.award.job, cutoff=cutoff))

    async def until(self, kind: type[Any]) -> Any:
        """The next frame of this class; output before it is kept in `ids`."""
        with trio.fail_after(60):
            while True:
                frame = await self.channel.receive()
                if isinstance(frame, Chunk):
                    self.data += frame.data
                    if self.client.terms.statement.tier == Tier.IDS:
                        self.ids += codec.unpack_ids(frame.data)
                if isinstance(frame, kind):
                    return frame


def request_body(**changes: Any) -> bytes:
    """A request for ten prompt tokens."""
    plain = Request(
        salt=bytes(32),
        prompt=codec.pack_ids(tuple(range(1, 11))),
        prefix=b"",
        sampling=PLAIN,
        stop=(),
        ignore_eos=True,
    )
    return codec.encode(replace(plain, **changes))


Script = Callable[["RogueSale"], Awaitable[None]]


@dataclass
class RogueSale:
    """An award that a rogue worker got, and what it may sign for it."""

    key: bytes
    award: Award
    terms: Terms
    channel: Any
    session: FakeSession

    @property
    def digest(self) -> bytes:
        return signing.digest(self.award, DOMAIN)

    def sign(self, statement: Any) -> Any:
        return signing.sign(statement, DOMAIN, self.key)

    async def accept(self, **changes: Any) -> None:
        statement = replace(
            Acceptance(award=self.digest, accepted_ms=self.award.issued_ms), **changes
        )
        await self.send(AcceptanceFrame(job=self.award.job, acceptance=self.sign(statement)))

    async def deliver(self, ids: tuple[int, ...], *, position: int = 0, told: bytes = b"") -> None:
        data = codec.pack_ids(ids)
        await self.send(Chunk(job=self.award.job, position=position, data=data, logprobs=told))

    def refusal(self, **changes: Any) -> Refusal:
        plain = Refusal(
            job=self.award.job, subject=self.digest, code=1, detail="", offer=None, lock_total=0
        )
        return replace(plain, **changes)

    def receipt(self, ids: tuple[int, ...], **changes: Any) -> Receipt:
        """A right receipt for these ids, with changes."""
        tokens_in = self.award.tokens_in
        cost = tokens_in * self.terms.price_in + len(ids) * self.terms.price_out
        plain = Receipt(
            award=self.digest,
            tokens_in=tokens_in,
            tokens_cached=0,
            tokens_out=len(ids),
            amount=-(-cost // 10**6) if ids else 0,
            chain=chain_hash.extend(self.award.chain, ids),
            finish=1,
            accepted_ms=self.award.issued_ms,
            first_token_ms=self.award.issued_ms if ids else 0,
            ended_ms=self.award.issued_ms,
        )
        return replace(plain, **changes)

    async def send(self, frame: Frame) -> None:
        await self.channel.send(frame)


async def rogue_worker(
    world: World, script: Script, *, number: int = 77, **changes: Any
) -> FakeTransport:
    """A worker that offers (terms with changes) as it should, and then does what `script` says."""
    key = key_of(number)
    transport = world.net.transport(key, sells=True)
    serial = 0

    def offer() -> Offer:
        nonlocal serial
        serial += 1
        terms = replace(terms_of(transport), serial=serial, **changes)
        return Offer(terms=signing.sign(terms, DOMAIN, key))

    async def serve(session: FakeSession) -> None:
        offered: dict[bytes, Terms] = {}
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    inbound: Inbound = await session.receive()
                    match inbound.frame:
                        case OffersWanted():
                            frame = offer()
                            terms = frame.terms.statement
                            offered[signing.digest(terms, DOMAIN)] = terms
                            await session.send(frame)
                        case AwardFrame(award=award):
                            statement = award.statement
                            terms = offered[statement.terms]
                            sale = RogueSale(key, statement, terms, inbound.channel, session)
                            nursery.start_soon(_quietly, script, sale)
            except SessionLost:
                return

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            async for session in transport.inbound():
                nursery.start_soon(serve, session)

    world.nursery.start_soon(run)
    world.transports.append(transport)
    return transport


def terms_of(transport: FakeTransport) -> Terms:
    """Good terms at a low price."""
    return Terms(
        worker=transport.address,
        payee=transport.address,
        model=MODEL,
        tier=Tier.IDS,
        tokenizer=bytes(32),
        price_in=1_000_000,
        price_cached=0,
        price_out=5_000_000,
        splits=(),
        quantum=2_000,
        prepay=0,
        context_max=2048,
        output_max=2048,
        first_token_ms=1,
        rate_mtps=1_000_000,
        prefill_tps=100_000,
        slots_free=4,
        queued=0,
        region="",
        serial=1,
        expires_ms=2**62,
        ask=ZERO_HASH,
    )


async def _quietly(script: Script, sale: RogueSale) -> None:
    try:
        await script(sale)
    except SessionLost:
        return


async def next_frame(session: FakeSession, kind: type[Any]) -> Any:
    """The next frame of this class that belongs to no channel; others are passed over."""
    with trio.fail_after(10):
        while True:
            inbound = await session.receive()
            if isinstance(inbound.frame, kind):
                return inbound.frame
