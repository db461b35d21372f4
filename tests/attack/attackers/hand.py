"""A client played by hand: real keys, sessions, statements; which rules to keep is up to whoever
plays it.

It counts its own tab (cumulative, receipts tree), so that each voucher is one that an honest client
could have signed, until something is changed on purpose.
"""

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import trio

from node.adapters.p2p.patches import socket_of
from node.adapters.p2p.transport import open_transport
from node.config import NetworkConfig
from node.errors import SessionLost
from node.protocol import chain_hash, codec, receipts_tree, signing
from node.protocol.fields import ZERO_HASH, Address, Hash, Signed
from node.protocol.frames import (
    AwardFrame,
    Frame,
    Offer,
    OffersWanted,
    ProgressFrame,
    ReceiptFrame,
    Request,
    RequestData,
    Rise,
    SamplingFields,
    VoucherFrame,
)
from node.protocol.statements import Award, Terms, Voucher
from node.protocol.tabs import Tab, tab_id, tab_of_terms
from node.roles.ports import Channel, Session, Transport
from node.units import cost_micro
from tests.attack.attackers.peer import Target

PROMPT: Final = (5, 6, 7, 8, 9, 10)
GREEDY: Final = SamplingFields(
    temperature=0, top_p=1_000_000, top_k=0, presence=0, frequency=0, repetition=1_000_000,
    logprobs=0, choice=0,
)  # fmt: skip
OFFER_S: Final = 20.0
READ_S: Final = 20.0


@dataclass(slots=True, kw_only=True)
class Job:
    """One award and what has come of it."""

    award: Signed[Award]
    digest: Hash
    terms: Terms
    request: bytes
    channel: Channel
    frames: list[Frame] = field(default_factory=list)
    paid_micro: int = 0
    """What this client's vouchers come to for it."""

    @property
    def id(self) -> bytes:
        """Of the job."""
        return self.award.statement.job

    def billed_micro(self) -> int:
        """The worker's last running total."""
        for frame in reversed(self.frames):
            if isinstance(frame, ProgressFrame):
                return frame.progress.statement.amount
            if isinstance(frame, ReceiptFrame):
                return frame.receipt.statement.amount
        return 0


class Hand:
    """One client of one worker."""

    def __init__(self, transport: Transport, target: Target, key: bytes, payer: Address) -> None:
        self.transport = transport
        self.target = target
        self.domain = target.domain
        self.key = key
        self.address = signing.address_of_key(key)
        self.payer = payer
        self.cumulative_micro = 0
        self.tree = receipts_tree.EMPTY
        self.heard: list[Frame] = []
        """What came outside of channels, in order."""
        self._offer: Signed[Terms] | None = None
        self._news = trio.Event()

    async def connect(self) -> Session:
        """The session with the worker, dialling if there is none."""
        with trio.fail_after(OFFER_S):
            while True:
                session = await self.transport.connect((self.target.addr,))
                if session.lost is None:
                    return session
                await trio.sleep(0.02)  # one that has just ended is still being wound up

    async def read_sessions(self) -> None:
        """Take what comes outside of channels, for as long as this runs."""
        async with trio.open_nursery() as nursery:
            async for session in self.transport.inbound():
                nursery.start_soon(self._read, session)

    async def offer(self) -> Signed[Terms]:
        """A fresh offer."""
        self._offer = None
        session = await self.connect()
        await session.send(OffersWanted(models=(self.target.model,)))
        with trio.fail_after(OFFER_S):
            while self._offer is None:
                await self._news.wait()
        return self._offer

    async def hear(self, kind: type[Frame], *, within_s: float) -> Any:
        """The next frame of a kind outside of channels that was not taken yet, or None."""
        with trio.move_on_after(within_s):
            while True:
                for frame in self.heard:
                    if isinstance(frame, kind):
                        self.heard.remove(frame)
                        return frame
                await self._news.wait()
        return None

    async def draft(self, *, tokens: int = 24, session: Session | None = None) -> Job:
        """An order that could be sent; nothing leaves yet."""
        terms = await self.offer()
        session = session or await self.connect()
        job = os.urandom(16)
        request = codec.encode(
            Request(
                salt=os.urandom(32), prompt=codec.pack_ids(PROMPT), prefix=b"", sampling=GREEDY,
                stop=(), ignore_eos=True,
            )
        )  # fmt: skip
        award = Award(
            client=self.address,
            payer=self.payer,
            worker=terms.statement.worker,
            job=job,
            attempt=0,
            terms=signing.digest(terms.statement, self.domain),
            request=signing.keccak256(request),
            request_bytes=len(request),
            tokens_in=len(PROMPT),
            output_max=tokens,
            cap=_cost(terms.statement, tokens),
            seed=1,
            position=0,
            chain=chain_hash.start(self.address, job),
            previous=ZERO_HASH,
            issued_ms=terms.statement.expires_ms,
        )
        return self.job_of(award, terms.statement, request, session)

    def job_of(self, award: Award, terms: Terms, request: bytes, session: Session) -> Job:
        """A job for an award of one's own."""
        return Job(
            award=signing.sign(award, self.domain, self.key),
            digest=signing.digest(award, self.domain),
            terms=terms,
            request=request,
            channel=session.open_channel(award.job),
        )

    async def send(self, job: Job, *, award: Signed[Award] | None = None) -> None:
        """Send the award, or another in its place, and the request."""
        await job.channel.send(AwardFrame(job=job.id, award=award or job.award, voucher=None))
        await job.channel.send(RequestData(job=job.id, offset=0, data=job.request))

    async def read(
        self, job: Job, until: Callable[[Frame], bool], *, within_s: float = READ_S
    ) -> Frame | None:
        """Read the job's frames until one of them fits; None if the time or the session ends."""
        with trio.move_on_after(within_s), suppress(SessionLost):
            while True:
                frame = await job.channel.receive()
                job.frames.append(frame)
                if until(frame):
                    return frame
        return None

    def voucher(self, rises: Sequence[tuple[Job, int]], receipts: Sequence[Hash] = ()) -> Voucher:
        """The tab's next voucher, which pays `rises`; take it into account with `raised`."""
        job = rises[0][0]
        tab = self.tab(job.terms)
        return Voucher(
            payer=tab.payer,
            payee=tab.payee,
            model=tab.model,
            splits=tab.splits,
            cumulative=self.cumulative_micro + sum(micro for _, micro in rises),
            receipts=receipts_tree.root(receipts_tree.append(self.tree, receipts)),
        )

    def frame(
        self,
        signed: Signed[Voucher],
        rises: Sequence[tuple[Job, int]],
        receipts: Sequence[Hash] = (),
    ) -> VoucherFrame:
        """A voucher as it is sent."""
        return VoucherFrame(
            voucher=signed,
            rises=tuple(Rise(job=job.id, attempt=0, amount=micro) for job, micro in rises),
            receipts=tuple(receipts),
        )

    def raised(self, rises: Sequence[tuple[Job, int]], receipts: Sequence[Hash] = ()) -> None:
        """A voucher over these rises was sent, and counts."""
        for job, micro in rises:
            job.paid_micro += micro
            self.cumulative_micro += micro
        self.tree = receipts_tree.append(self.tree, receipts)

    def next_voucher(self, job: Job) -> VoucherFrame:
        """Pays what the worker has billed for a job so far; taken into account."""
        last = job.frames[-1] if job.frames else None
        receipts: tuple[Hash, ...] = ()
        if isinstance(last, ReceiptFrame):
            receipts = (signing.digest(last.receipt.statement, self.domain),)
        rises = [(job, job.billed_micro() - job.paid_micro)]
        frame = self.frame(
            signing.sign(self.voucher(rises, receipts), self.domain, self.key), rises, receipts
        )
        self.raised(rises, receipts)
        return frame

    def tab(self, terms: Terms) -> Tab:
        """What its vouchers are on."""
        return tab_of_terms(terms, payer=self.payer)

    def tab_id(self, terms: Terms) -> Hash:
        """The same, as the escrow and the stores know it."""
        return tab_id(self.tab(terms))

    async def _read(self, session: Session) -> None:
        with suppress(SessionLost):
            while True:
                frame = (await session.receive()).frame
                if isinstance(frame, Offer):
                    self._offer = frame.terms
                else:
                    self.heard.append(frame)
                self._news.set()
                self._news = trio.Event()


def _cost(terms: Terms, tokens: int) -> int:
    return cost_micro(
        tokens_in=len(PROMPT),
        tokens_cached=0,
        tokens_out=tokens,
        price_in=terms.price_in,
        price_cached=terms.price_cached,
        price_out=terms.price_out,
    )


def reset(session: Any) -> None:
    """Cut the TCP connection below a session with a reset: no goodbye, nothing queued leaves."""
    sock = socket_of(session._stream._conn.secured_conn)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def open_hand(
    target: Target, *, key: bytes, payer: Address | None = None
) -> AsyncIterator[Hand]:
    """A client with a session of its own, to play."""
    own = signing.address_of_key(key)
    hello = replace(target.hello(key=key), payer=payer or own)
    config = NetworkConfig(listen=(), gossip=False, dht=False)
    async with (
        open_transport(config, key, lambda: hello) as transport,
        trio.open_nursery() as nursery,
    ):
        hand = Hand(transport, target, key, payer or own)
        nursery.start_soon(hand.read_sessions)
        yield hand
        nursery.cancel_scope.cancel()
