"""Finding a model by name and fetching its files, among peers that lie, stall and flood."""

import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.config import ClientConfig
from node.errors import NoPeers, PeerError, SessionLost, Unavailable
from node.protocol import limits, signing
from node.protocol.frames import (
    Announcements,
    AnnouncementsWanted,
    ErrorFrame,
    FileData,
    FileWanted,
    OffersWanted,
)
from node.protocol.manifest import FileRole, Manifest, ModelFile
from node.protocol.statements import AnnouncedModel, Announcement, Tier
from node.roles.catalog import HEDGE_S, Catalog
from node.roles.dispatch import Dispatcher
from node.roles.files import TRANSFERS_PER_PEER_MAX, FileServer, fetch
from node.roles.hints import Hints
from node.roles.market import Market
from tests.roles.fakes import DOMAIN, FakeSession, FakeTransport, Net, TrioClock, key_of

TOKENIZER = b"t" * 40_000


def model(name: str, *, licence: str = "MIT", tokenizer: bytes = TOKENIZER) -> Manifest:
    entry = ModelFile(
        path="tokenizer.json",
        role=FileRole.TOKENIZER,
        sha256=hashlib.sha256(tokenizer).digest(),
        size=len(tokenizer),
    )
    return Manifest(
        name=name,
        architecture="llama",
        precision="float32",
        context=2048,
        vocab=1024,
        licence=licence,
        eos_ids=(0,),
        files=(entry,),
    )


TINY = model("tiny")


class MemoryFiles:
    """`ports.Files` in a dictionary."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {hashlib.sha256(each).digest(): each for each in contents}
        self.reads = 0

    def read(self, sha256: bytes) -> bytes | None:
        self.reads += 1
        return self.contents.get(sha256)

    def write(self, content: bytes) -> bytes:
        self.contents[hashlib.sha256(content).digest()] = content
        return hashlib.sha256(content).digest()


Send = Callable[[Any, bytes], Awaitable[None]]


async def honest(channel: Any, sha256: bytes) -> None:
    """Sends the tokenizer or the manifest of `TINY`."""
    content = TOKENIZER if sha256 != TINY.model_id else TINY.encode()
    for offset in range(0, len(content), limits.DATA_BYTES_MAX):
        data = content[offset : offset + limits.DATA_BYTES_MAX]
        await channel.send(FileData(job=channel.job, offset=offset, size=len(content), data=data))


async def silent(channel: Any, sha256: bytes) -> None:
    await trio.sleep_forever()


async def wrong(channel: Any, sha256: bytes) -> None:
    await channel.send(FileData(job=channel.job, offset=0, size=4, data=b"junk"))


async def endless(channel: Any, sha256: bytes) -> None:
    for offset in range(0, 2**30, limits.DATA_BYTES_MAX):
        data = bytes(limits.DATA_BYTES_MAX)
        await channel.send(FileData(job=channel.job, offset=offset, size=2**30, data=data))


async def growing(channel: Any, sha256: bytes) -> None:
    for offset in range(2**20):
        await channel.send(FileData(job=channel.job, offset=offset, size=offset + 2, data=b"x"))


async def empty_parts(channel: Any, sha256: bytes) -> None:
    while True:
        await channel.send(FileData(job=channel.job, offset=0, size=100, data=b""))


async def dripping(channel: Any, sha256: bytes) -> None:
    for offset in range(40_000):
        await channel.send(FileData(job=channel.job, offset=offset, size=40_000, data=b"x"))
        await trio.sleep(1)


async def has_none(channel: Any, sha256: bytes) -> None:
    await channel.send(ErrorFrame(job=channel.job, code=7, detail="no such file"))


async def leaving(channel: Any, sha256: bytes) -> None:
    channel._session.cut()


BAD = [silent, wrong, endless, growing, empty_parts, dripping, has_none, leaving]


@dataclass
class Place:
    """A client's catalog, and peers that announce and send what a test says."""

    net: Net
    nursery: trio.Nursery
    transports: list[FakeTransport]

    async def seller(self, number: int, send: Send, *sold: tuple[str, Manifest]) -> None:
        """A peer that announces models under names, and sends files its own way."""
        key, clock = key_of(number), TrioClock()
        transport = self.net.transport(key, sells=True)
        self.transports.append(transport)
        announcement = Announcement(
            worker=transport.address,
            payee=transport.address,
            addrs=transport.addrs,
            models=tuple(
                AnnouncedModel(
                    model=each.model_id, name=name, tier=Tier.IDS, price_in=1, price_out=1
                )
                for name, each in sold
            ),
            region="",
            issued_ms=clock.unix_ms(),
            ttl_s=3600,
        )
        signed = signing.sign(announcement, DOMAIN, key)

        async def serve(session: FakeSession) -> None:
            async with trio.open_nursery() as nursery:
                try:
                    await session.send(Announcements(items=(signed,)))
                    while True:
                        inbound = await session.receive()
                        match inbound.frame:
                            case AnnouncementsWanted():
                                await session.send(Announcements(items=()))
                            case FileWanted(sha256=sha256):
                                nursery.start_soon(quietly, send, inbound.channel, sha256)
                            case Announcements() | OffersWanted():
                                pass
                            case frame:
                                raise AssertionError(frame)
                except SessionLost:
                    nursery.cancel_scope.cancel()

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                async for session in transport.inbound():
                    nursery.start_soon(serve, session)

        self.nursery.start_soon(run)

    async def catalog(self, files: MemoryFiles) -> Catalog:
        transport, clock = self.net.transport(key_of(99)), TrioClock()
        hints = Hints(
            transport=transport,
            discovery=None,
            clock=clock,
            domain=DOMAIN,
            rng=random.Random(1),
            bootstrap=[each.addrs[0] for each in self.transports],
        )
        market = Market(
            transport=transport,
            hints=hints,
            clock=clock,
            domain=DOMAIN,
            key=key_of(99),
            payer=transport.address,
            rng=random.Random(2),
            config=ClientConfig(),
            store=None,
        )
        dispatcher = Dispatcher(
            transport, hints.handlers, market.handlers, greeters=(hints.greet, market.greet)
        )
        for role in (hints, market, dispatcher):
            await self.nursery.start(role.run)
        return Catalog(
            hints=hints,
            market=market,
            transport=transport,
            files=files,
            clock=clock,
            rng=random.Random(3),
            discover_s=5.0,
        )


async def quietly(send: Send, channel: Any, sha256: bytes) -> None:
    try:
        await send(channel, sha256)
    except SessionLost:
        return


@asynccontextmanager
async def place() -> Any:
    async with trio.open_nursery() as nursery:
        yield Place(Net(), nursery, [])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bad", BAD)
async def test_files_come_from_whoever_sends_them(autojump_clock: MockClock, bad: Send) -> None:
    async with place() as p:
        for number in range(1, 6):
            await p.seller(number, bad, ("tiny", TINY))
        await p.seller(9, honest, ("tiny", TINY))
        catalog = await p.catalog(MemoryFiles())
        found = await catalog.choose("tiny")
        assert found.files == {FileRole.TOKENIZER: TOKENIZER}
        assert trio.current_time() < 2 * 5 * HEDGE_S + 5


@pytest.mark.parametrize("bad", [silent, dripping])
async def test_many_that_stall_make_room_for_others(autojump_clock: MockClock, bad: Send) -> None:
    """And whoever sent one file is asked first for the next."""
    async with place() as p:
        for number in range(1, 21):
            await p.seller(number, honest if number == 17 else bad, ("tiny", TINY))
        catalog = await p.catalog(MemoryFiles())
        found = await catalog.choose("tiny")
        assert found.files == {FileRole.TOKENIZER: TOKENIZER}
        assert trio.current_time() < 20 * HEDGE_S + 5


@pytest.mark.parametrize("bad", BAD)
async def test_without_anybody_honest_it_ends(autojump_clock: MockClock, bad: Send) -> None:
    async with place() as p:
        await p.seller(1, bad, ("tiny", TINY))
        catalog = await p.catalog(MemoryFiles())
        with pytest.raises(NoPeers):
            await catalog.choose("tiny")
        assert trio.current_time() < 120


async def test_a_name_that_many_claim_for_a_model_that_nobody_has(
    autojump_clock: MockClock,
) -> None:
    async with place() as p:
        fake = model("tiny", licence="GPL")
        for number in range(1, 6):
            await p.seller(number, has_none, ("tiny", fake))
        await p.seller(9, honest, ("tiny", TINY))
        catalog = await p.catalog(MemoryFiles())
        assert (await catalog.choose("tiny")).id == TINY.model_id
        assert (await catalog.choose("")).id == TINY.model_id


async def test_a_name_that_many_claim_for_a_model_of_another_name(
    autojump_clock: MockClock,
) -> None:
    async with place() as p:
        other = model("other")
        files = MemoryFiles(other.encode())
        for number in range(1, 6):
            await p.seller(number, has_none, ("tiny", other))
        await p.seller(9, honest, ("tiny", TINY))
        catalog = await p.catalog(files)
        assert (await catalog.choose("tiny")).id == TINY.model_id


async def test_a_name_means_the_model_that_it_meant_before(autojump_clock: MockClock) -> None:
    async with place() as p:
        fake = model("tiny", licence="GPL")

        async def sends_fake(channel: Any, sha256: bytes) -> None:
            content = fake.encode()
            await channel.send(FileData(job=channel.job, offset=0, size=len(content), data=content))

        for number in range(1, 6):
            await p.seller(number, sends_fake, ("tiny", fake))
        await p.seller(9, honest, ("tiny", TINY))
        catalog = await p.catalog(MemoryFiles(TINY.encode()))
        assert (await catalog.choose("tiny")).id == TINY.model_id


async def test_what_is_sold_is_named_where_a_model_is_not(autojump_clock: MockClock) -> None:
    async with place() as p:
        await p.seller(1, honest, ("tiny", TINY))
        catalog = await p.catalog(MemoryFiles())
        with pytest.raises(NoPeers, match="nobody sells the model huge; sold are tiny"):
            await catalog.choose("huge")
        with pytest.raises(NoPeers, match="nobody sells the model 0x"):
            await catalog.choose("0x" + "g" * 64)


# ------------------------------------------------------------------------------------ the server


TRANSFER = b"t" * 16


@asynccontextmanager
async def served(*contents: bytes) -> Any:
    """A file server, and the client's end of a session with it."""
    net, files = Net(), MemoryFiles(*contents)
    worker, client = net.transport(key_of(1), sells=True), net.transport(key_of(2))
    server = FileServer(files)
    async with trio.open_nursery() as nursery:
        for role in (server, Dispatcher(worker, server.handlers)):
            await nursery.start(role.run)
        yield await client.connect(worker.addrs), files
        nursery.cancel_scope.cancel()


async def test_a_file_arrives_whole() -> None:
    async with served(TOKENIZER, b"") as (session, _):
        for content in (TOKENIZER, b""):
            assert (
                await fetch(session, hashlib.sha256(content).digest(), channel=TRANSFER) == content
            )
        with pytest.raises(Unavailable, match="no such file"):
            await fetch(session, bytes(32), channel=TRANSFER)
        with pytest.raises(PeerError, match="larger than"):
            await fetch(session, hashlib.sha256(TOKENIZER).digest(), channel=TRANSFER, size_max=100)


async def test_a_peer_has_only_so_many_transfers_and_those_refused_leave_nothing() -> None:
    big = bytes(2 * limits.JOB_WINDOW_BYTES)
    digest = hashlib.sha256(big).digest()
    async with served(big) as (session, _):
        other: FakeSession = session._other
        for number in range(20):
            job = (number + 1).to_bytes(16, "big")
            channel = session.open_channel(job)
            await channel.send(FileWanted(job=job, sha256=digest))
            if number >= TRANSFERS_PER_PEER_MAX:
                frame = await channel.receive()
                assert isinstance(frame, ErrorFrame)
                channel.close()
        with trio.fail_after(5):
            while len(other.open_jobs) != TRANSFERS_PER_PEER_MAX:  # noqa: ASYNC110
                await trio.sleep(0.01)
