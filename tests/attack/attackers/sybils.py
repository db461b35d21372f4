"""Many identities with the best terms in the market, from few networks; none does a job.

Orders: count, networks, and `known`, whom they tell of themselves.  Says their addresses, then
how many awards each trick got, and runs until its parent ends it.  By turns they refuse, ignore the
award, accept it and fall silent, accept it and send garbage, or deliver some tokens and stop.
"""

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import count as counting
from typing import TypeVar

import trio

from node.adapters.p2p.transport import Libp2pTransport, open_transport
from node.config import NetworkConfig
from node.errors import NodeError, SessionLost
from node.protocol import codec, signing
from node.protocol.fields import ZERO_HASH, Hash, Signed
from node.protocol.frames import (
    AcceptanceFrame,
    Announcements,
    AnnouncementsWanted,
    AskFrame,
    AwardFrame,
    Bid,
    Chunk,
    FileData,
    FileWanted,
    Offer,
    OffersWanted,
    Refusal,
    Refused,
)
from node.protocol.statements import Acceptance, AnnouncedModel, Announcement, Terms, Tier
from node.roles.ports import Channel, Session
from tests.attack.attackers import peer
from tests.attack.attackers.peer import Target

T = TypeVar("T")
PUSH_S = 2.0
PORT = 17_000
Trick = Callable[["Sybil", Session, Channel, AwardFrame], Awaitable[None]]


class Sybil:
    """One identity."""

    def __init__(self, target: Target, number: int, transport: Libp2pTransport, key: bytes) -> None:
        self.target, self.transport, self.key = target, transport, key
        self.trick = TRICKS[number % len(TRICKS)]
        self.serials = counting(1)
        self.awards = 0

    def terms(self, ask: Hash = ZERO_HASH) -> Signed[Terms]:
        """Half the price and ten times the rate of anybody else."""
        own = signing.address_of_key(self.key)
        return self.signed(
            Terms(
                worker=own,
                payee=own,
                model=self.target.model,
                tier=Tier.IDS,
                tokenizer=ZERO_HASH,
                price_in=30_000,
                price_cached=10_000,
                price_out=100_000,
                splits=(),
                quantum=2_000,
                prepay=0,
                context_max=int(self.target.orders["context_max"]),
                output_max=int(self.target.orders["context_max"]),
                first_token_ms=5,
                rate_mtps=900_000,
                prefill_tps=0,
                slots_free=64,
                queued=0,
                region="",
                serial=next(self.serials),
                expires_ms=unix_ms() + 15_000,
                ask=ask,
            )
        )

    def announcement(self) -> Signed[Announcement]:
        """Where it is, which is true: it wants to be dialled."""
        own = signing.address_of_key(self.key)
        model = AnnouncedModel(
            model=self.target.model,
            name=self.target.orders["model_name"],
            tier=Tier.IDS,
            price_in=30_000,
            price_out=100_000,
        )
        return self.signed(
            Announcement(
                worker=own,
                payee=own,
                addrs=self.transport.addrs,
                models=(model,),
                region="",
                issued_ms=unix_ms(),
                ttl_s=3600,
            )
        )

    def signed(self, statement: T) -> Signed[T]:
        """Under its own key."""
        return signing.sign(statement, self.target.domain, self.key)

    async def run(self) -> None:
        """Serve whoever connects."""
        async with trio.open_nursery() as nursery:
            async for session in self.transport.inbound():
                nursery.start_soon(self._serve, session)

    async def tell(self, addr: str) -> None:
        """Connect to somebody, and say where it is."""
        try:
            session = await self.transport.connect((addr,))
            await session.send(Announcements(items=(self.announcement(),)))
        except NodeError:
            return

    async def _serve(self, session: Session) -> None:
        try:
            async with trio.open_nursery() as nursery:
                await session.send(Announcements(items=(self.announcement(),)))
                while True:
                    inbound = await session.receive()
                    match inbound.frame:
                        case OffersWanted(models=models) if models:
                            nursery.start_soon(self._push, session)
                        case AnnouncementsWanted():
                            await session.send(Announcements(items=OTHERS[:64]))
                        case AskFrame(ask=ask):
                            digest = signing.digest(ask.statement, self.target.domain)
                            await session.send(Bid(terms=self.terms(digest)))
                        case AwardFrame() as frame if inbound.channel is not None:
                            self.awards += 1
                            AWARDS[self.trick.__name__] += 1
                            nursery.start_soon(self._trick, session, inbound.channel, frame)
                        case FileWanted(job=job) if inbound.channel is not None:
                            junk = FileData(job=job, offset=0, size=1000, data=bytes(1000))
                            await inbound.channel.send(junk)
        except* SessionLost:
            pass

    async def _trick(self, session: Session, channel: Channel, frame: AwardFrame) -> None:
        await self.trick(self, session, channel, frame)

    async def _push(self, session: Session) -> None:
        while True:
            await session.send(Offer(terms=self.terms()))
            await trio.sleep(PUSH_S)

    async def accept(self, channel: Channel, frame: AwardFrame) -> None:
        """As an honest worker would."""
        award = signing.digest(frame.award.statement, self.target.domain)
        accepted = self.signed(Acceptance(award=award, accepted_ms=unix_ms()))
        await channel.send(AcceptanceFrame(job=frame.job, acceptance=accepted))


async def refuse(sybil: Sybil, _: Session, channel: Channel, frame: AwardFrame) -> None:
    """At once, with fresh terms that are as good."""
    subject = signing.digest(frame.award.statement, sybil.target.domain)
    await channel.send(
        Refusal(
            job=frame.job,
            subject=subject,
            code=Refused.BUSY,
            detail="",
            offer=sybil.terms(),
            lock_total=0,
        )
    )


async def ignore(sybil: Sybil, _: Session, channel: Channel, frame: AwardFrame) -> None:
    """No word."""


async def stall(sybil: Sybil, _: Session, channel: Channel, frame: AwardFrame) -> None:
    """Accepts, and no more."""
    await sybil.accept(channel, frame)


async def garbage(sybil: Sybil, _: Session, channel: Channel, frame: AwardFrame) -> None:
    """Ids that no model has."""
    await sybil.accept(channel, frame)
    ids = codec.pack_ids((2**32 - 1, 2**31))
    await channel.send(Chunk(job=frame.job, position=0, data=ids, logprobs=b""))


async def stop_half_way(sybil: Sybil, _: Session, channel: Channel, frame: AwardFrame) -> None:
    """Some tokens, unpaid, and then no more: the job is spoiled."""
    await sybil.accept(channel, frame)
    for position in range(3):
        ids = codec.pack_ids((40 + position,))
        await channel.send(Chunk(job=frame.job, position=position, data=ids, logprobs=b""))


TRICKS: tuple[Trick, ...] = (refuse, ignore, stall, garbage, stop_half_way)
OTHERS: tuple[Signed[Announcement], ...] = ()
AWARDS: Counter[str] = Counter()


def unix_ms() -> int:
    """Wall clock."""
    return time.time_ns() // 1_000_000


async def main(target: Target) -> None:
    """Open them all, tell the known ones, and wait to be chosen."""
    global OTHERS
    networks = int(target.orders["networks"])
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        sybils = []
        for number in range(int(target.orders["count"])):
            key = os.urandom(32)
            place = f"127.77.{number % networks}.{1 + number // networks}"
            config = NetworkConfig(listen=(f"/ip4/{place}/tcp/{PORT}",), sessions_max=50)
            transport = await stack.enter_async_context(
                open_transport(config, key, partial(target.hello, key=key, sells=True))
            )
            sybils.append(Sybil(target, number, transport, key))
            nursery.start_soon(sybils[-1].run)
        OTHERS = tuple(each.announcement() for each in sybils)
        for sybil in sybils:
            for addr in target.orders["known"]:
                await sybil.tell(addr)
        peer.say(addrs=[each.transport.addrs[0] for each in sybils])
        while True:
            await trio.sleep(1)
            peer.say(awards=AWARDS)


if __name__ == "__main__":
    peer.run(main)
