"""What the bench does as a client, each stage in a process of its own."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from node import config as configs
from node.adapters import model_folder
from node.adapters.p2p.transport import Libp2pTransport, open_transport
from node.adapters.store import open_stores
from node.app import control
from node.app.buyer import Buyer, open_buyer
from node.app.domain import domain_of
from node.app.hello import hello_of
from node.app.home import Home
from node.app.init import draw_key
from node.app.unlock import session_key
from node.config import NetworkConfig
from node.protocol import signing
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import ZERO_ADDRESS, Address, Hash
from node.protocol.frames import (
    AskFrame,
    Bid,
    OffersWanted,
    Refusal,
    SamplingFields,
)
from node.protocol.logprobs import TokenLogprob
from node.protocol.offers import admit
from node.protocol.pieces import Item
from node.protocol.sampling import FRACTION
from node.protocol.signing import Domain
from node.protocol.statements import Ask, Lock, Tier
from node.protocol.stops import Output
from node.roles.answer import Answer
from node.roles.client import Outcome
from node.roles.market import Candidate, Effect, Event, Preferences
from node.roles.order import Order
from node.roles.ports import Session
from tests.bench.paced_engine import manifest
from tests.bench.seller import PROMPT, quiet

Send = Callable[[Any], None]
WITHIN_S: Final = 60.0
NOTICED_WITHIN_S: Final = 15.0
OFFERS_S: Final = 4.0
"""Offers are pushed every 1.5 s: by then one is here."""
ASK_GAP_S: Final = 0.12
"""A worker answers 16 asks a second of one client; faster ones are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A worker, as a stage needs to know it."""

    home: Path
    address: Address
    addrs: tuple[str, ...]


@dataclass(slots=True)
class Timed:
    """Watches one job (`client.Watcher`): when it was awarded, when its tokens came."""

    awarded_s: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def market(self, event: Event | Effect) -> None:
        pass

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        self.awarded_s = time.perf_counter()

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        self.refusals.append(f"{refusal.code}: {refusal.detail}")

    def failed(self, candidate: Candidate, why: str) -> None:
        self.refusals.append(why)

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        pass

    def stopped(self, candidate: Candidate, why: str) -> None:
        self.refusals.append(why)

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        self.refusals.append("a lock was asked for")


class TimedAnswer(Answer):
    """Notes when ids are accepted."""

    def __init__(self, output: Output, watcher: Timed) -> None:
        super().__init__(output, on_text=lambda _: None)
        self._watcher = watcher

    def accept(self, items: tuple[Item, ...], told: tuple[TokenLogprob, ...]) -> None:
        super().accept(items, told)
        self._watcher.arrivals.append((time.perf_counter(), len(items)))


# ------------------------------------------------------------------------------------- sessions


async def connects(domain: Domain, shops: Sequence[Shop], send: Send) -> None:
    """Seconds of the first dial of a process, and of those after it."""
    async with _transport(domain) as transport:
        taken_s = [await _connect_s(transport, shop) for shop in shops]
    send(taken_s)


async def asks(domain: Domain, shops: Sequence[Shop], model: Hash, count: int, send: Send) -> None:
    """Seconds from an ask to the last verified bid of all workers, each with a warm session."""
    key = draw_key()
    async with _transport(domain, key) as transport:
        sessions = [await transport.connect(shop.addrs) for shop in shops]
        taken_s = []
        for nonce in range(count):
            taken_s.append(await _ask_s(sessions, domain, key, model, nonce))
            await trio.sleep(ASK_GAP_S)
    send(taken_s[2:])


async def noticing(domain: Domain, shops: Sequence[Shop], send: Send) -> None:
    """Tell when all sessions stand; then, for each that is lost, which and when."""
    async with _transport(domain) as transport:
        sessions = [await transport.connect(shop.addrs) for shop in shops]
        await trio.sleep(2.0)  # until pings are under way
        send("ready")
        with trio.fail_after(NOTICED_WITHIN_S):
            async with trio.open_nursery() as nursery:
                for at, session in enumerate(sessions):
                    nursery.start_soon(_tell_lost, at, session, send)


async def crowd(domain: Domain, shop: Shop, model: Hash, count: int, send: Send) -> None:
    """Many clients of one worker, each with an identity and a host, all wanting its offers."""
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            await nursery.start(_subscriber, domain, shop, model)
        send("connected")
        await trio.sleep_forever()


# ----------------------------------------------------------------------------------------- jobs


async def first_tokens(home: Path, shop: Shop, rounds: int, send: Send) -> None:
    """By round: seconds to the first token in the worker's process, and through the market."""
    model = model_folder.load(model_folder.shipped()).manifest.model_id
    rows = []
    async with _buyer(home, shop, model) as buyer:
        for number in range(rounds + 2):
            direct_s = await trio.to_thread.run_sync(
                lambda: control.call(Home(shop.home), "first_token", {}, timeout_s=WITHIN_S)
            )
            watcher, started_s = Timed(), time.perf_counter()
            await _buy(buyer, shop, model, tokens=2, watcher=watcher)
            first_s = watcher.arrivals[0][0]
            if number >= 2:
                rows.append((direct_s, first_s - started_s, first_s - watcher.awarded_s))
    send(rows)


async def streams(home: Path, shop: Shop, count: int, tokens: int, send: Send) -> None:
    """Many jobs at once: every stream's arrivals, and what it cost this process."""
    model = manifest().model_id
    watchers = [Timed() for _ in range(count)]
    async with _buyer(home, shop, model) as buyer:
        cpu_s = time.process_time()
        async with trio.open_nursery() as nursery:
            for watcher in watchers:
                nursery.start_soon(_buy_all, buyer, shop, model, tokens, watcher)
        cpu_s = time.process_time() - cpu_s
        paid_micro = buyer.payer.promised_micro
    send(
        {
            "arrivals": [watcher.arrivals for watcher in watchers],
            "cpu_s": cpu_s,
            "paid_micro": paid_micro,
        }
    )


# ------------------------------------------------------------------------------------ internals


@asynccontextmanager
async def _transport(domain: Domain, key: bytes | None = None) -> AsyncIterator[Libp2pTransport]:
    quiet()
    key = key or draw_key()
    hello = hello_of(domain, payer=signing.address_of_key(key), payee=ZERO_ADDRESS, sells=False)
    async with open_transport(NetworkConfig(listen=()), key, hello) as transport:
        yield transport


@asynccontextmanager
async def _buyer(home: Path, shop: Shop, model: Hash) -> AsyncIterator[Buyer]:
    """A client whose session with the worker is warm, with an offer at hand."""
    quiet()
    config = configs.load(home)
    key = session_key(config)
    async with (
        open_stores(Home(home).store, domain=domain_of(config)) as stores,
        open_buyer(config, key, stores) as buyer,
    ):
        await buyer.transport.connect(shop.addrs)
        buyer.market.follow(model)
        await buyer.payer.refresh()
        with trio.fail_after(WITHIN_S):
            # Nothing tells of a standing offer but an auction, which is not to begin yet.
            while not buyer.market.live_offers(model):  # noqa: ASYNC110
                await trio.sleep(0.05)
        yield buyer


async def _buy_all(buyer: Buyer, shop: Shop, model: Hash, tokens: int, watcher: Timed) -> None:
    await _buy(buyer, shop, model, tokens=tokens, watcher=watcher)


async def _buy(buyer: Buyer, shop: Shop, model: Hash, *, tokens: int, watcher: Timed) -> Outcome:
    order = Order(
        model=model,
        prompt=PROMPT,
        sampling=SamplingFields(
            temperature=FRACTION,
            top_p=FRACTION,
            top_k=0,
            presence=0,
            frequency=0,
            repetition=FRACTION,
            logprobs=0,
            choice=0,
        ),
        output_max=tokens,
        ignore_eos=True,
        preferences=Preferences(price_micro_max=10**9, worker=shop.address),
    )
    output = Output(decode=None, eos_ids=(), max_tokens=tokens, ignore_eos=True)
    outcome = await buyer.client.run(order, TimedAnswer(output, watcher), watcher)
    if outcome.failure or watcher.refusals:
        raise RuntimeError(f"a job failed: {outcome.failure or watcher.refusals}")
    return outcome


async def _connect_s(transport: Libp2pTransport, shop: Shop) -> float:
    started_s = time.perf_counter()
    await transport.connect(shop.addrs)
    return time.perf_counter() - started_s


async def _ask_s(
    sessions: Sequence[Session], domain: Domain, key: bytes, model: Hash, nonce: int
) -> float:
    """From making an ask to the last of the bids, verified."""
    client = signing.address_of_key(key)
    started_s = time.perf_counter()
    ask = Ask(
        client=client,
        payer=client,
        model=model,
        tier=Tier.IDS,
        tokens_in=len(PROMPT),
        output_max=100,
        nonce=nonce,
        expires_ms=int(time.time() * 1000) + 10_000,
    )
    frame = AskFrame(ask=signing.sign(ask, domain, key))
    digest = signing.digest(ask, domain)
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(_ask_one, session, frame, domain, digest)
    return time.perf_counter() - started_s


async def _ask_one(session: Session, frame: AskFrame, domain: Domain, digest: Hash) -> None:
    await session.send(frame)
    while True:
        inbound = await session.receive()
        match inbound.frame:
            case Bid(terms=terms) if terms.statement.ask == digest:
                admit(
                    terms,
                    peer=session.peer,
                    domain=domain,
                    ask=digest,
                    arrived_s=inbound.arrived_s,
                )
                return
            case Refusal(subject=subject, code=code) if subject == digest:
                raise RuntimeError(f"an ask was refused with {code}")


async def _tell_lost(at: int, session: Session, send: Send) -> None:
    await session.wait_lost()
    send((at, time.monotonic()))


async def _subscriber(
    domain: Domain, shop: Shop, model: Hash, *, task_status: trio.TaskStatus[None]
) -> None:
    async with _transport(domain) as transport:
        session = await transport.connect(shop.addrs)
        await session.send(OffersWanted(models=(model,)))
        task_status.started()
        while True:
            await session.receive()
