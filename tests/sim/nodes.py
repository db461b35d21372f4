"""Nodes of the simulation: production roles, in processes that end at any moment."""

import hashlib
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio

from node.adapters.chain.follower import CachedChain
from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.sender import Sender
from node.adapters.chain.settlement import EscrowSettlement
from node.app.buying import Buyer, BuyerPorts, buying
from node.app.domain import domain_of
from node.app.hello import hello_of
from node.app.selling import Cashier, Shop, ShopPorts, cashier_of, selling
from node.config import Config
from node.protocol import signing
from node.protocol.fields import ZERO_ADDRESS, Hash
from node.roles.stores import StoreFailed
from tests.roles.fakes import TrioClock
from tests.sim.chain import Chain
from tests.sim.disk import Disk, DiskWriter
from tests.sim.engine import MANIFEST, Pace, SimEngine
from tests.sim.gossip import Gossip, SimDiscovery
from tests.sim.network import Net, SimTransport
from tests.sim.rpc import RpcFaults, SimRpc
from tests.sim.trace import Trace

T = TypeVar("T")


class World(Protocol):
    """What nodes need of the run."""

    seed: int
    net: Net
    gossip: Gossip
    chain: Chain
    trace: Trace

    def fail(self, rule: str, what: str) -> None:
        """A rule is broken."""
        ...

    def committed(self, name: str, kinds: list[str]) -> None:
        """A node has saved something."""
        ...


class MemoryFiles:
    """`ports.Files`."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = {hashlib.sha256(content).digest(): content for content in contents}

    def read(self, sha256: Hash) -> bytes | None:
        return self._contents.get(sha256)

    def write(self, content: bytes) -> Hash:
        sha256 = hashlib.sha256(content).digest()
        self._contents[sha256] = content
        return sha256


class Life:
    """One process of a node, from its start to its end."""

    def __init__(self, node: "Node", number: int) -> None:
        world = node.world
        self.node = node
        self.rng = random.Random(f"{world.seed} {node.name} {number}")
        self.dead = False
        self.scope = trio.CancelScope()
        self.jobs: set[trio.CancelScope] = set()
        """What runs in the process on behalf of its user."""
        self.stop = trio.Event()
        self.ready = trio.Event()
        self.ended = trio.Event()
        hello = hello_of(
            domain_of(node.config), payer=node.address, payee=node.payee, sells=node.sells
        )
        self.transport = SimTransport(world.net, node.name, node.address, hello)
        self.discovery = SimDiscovery(world.net, world.gossip, self.transport)
        self.writer = node.make_writer(
            node.disk,
            rng=self.rng,
            boundary=self.boundary,
            committed=lambda kinds: world.committed(node.name, kinds),
        )
        self.rpc = SimRpc(
            world.chain,
            faults=node.rpc_faults,
            rng=self.rng,
            alive=lambda: not self.dead,
            boundary=self.boundary,
        )

    @contextmanager
    def scope_of_job(self) -> Iterator[None]:
        """What is done in here on behalf of the process ends with it."""
        with trio.CancelScope() as scope:
            self.jobs.add(scope)
            if self.dead:
                scope.cancel()
            try:
                yield
            except (Exception, BaseExceptionGroup) as error:
                if not self.dead:
                    raise
                # What falls out of a dead process means nothing, but for the end of the whole run.
                if (cancelled := cancelled_in(error)) is not None:
                    raise cancelled from None
            finally:
                self.jobs.discard(scope)

    def boundary(self, kind: str) -> None:
        """A point at which the process may end: the node's fuse says at which."""
        node = self.node
        if self.dead or node.fuse is None:
            return
        node.fuse -= 1
        if node.fuse <= 0:
            node.fuse = None
            self.die(self.rng.choice(("silent", "reset", "end")), kind)

    def die(self, how: str, why: str) -> None:
        """From now on nothing of this process has any effect outside."""
        if self.dead:
            return
        self.dead = True
        self.node.world.trace.note(self.node.name, "died", f"{why}, {how}")
        self.node.world.net.detach(self.transport, how=how)
        self.discovery.leave()
        self.writer.die()
        for scope in (self.scope, *self.jobs):
            scope.cancel()


@dataclass(kw_only=True)
class Node:
    """A home and whatever process runs on it."""

    name: str
    key: bytes
    config: Config
    world: World
    sells: bool
    make_writer: Callable[..., DiskWriter] = DiskWriter
    disk: Disk = field(default_factory=Disk)
    files: MemoryFiles = field(default_factory=MemoryFiles)
    rpc_faults: RpcFaults = field(default_factory=RpcFaults)
    fuse: int | None = None
    """Boundaries until the process ends."""
    life: Life | None = None
    lives: int = 0
    clock: TrioClock = field(default_factory=TrioClock)

    def __post_init__(self) -> None:
        self.address = signing.address_of_key(self.key)
        self.payee = self.address if self.sells else ZERO_ADDRESS

    async def start(self, nursery: trio.Nursery) -> None:
        """Start a process; returns when it is ready, or has ended."""
        assert self.life is None, "it runs"
        self.lives += 1
        life = self.life = Life(self, self.lives)
        self.world.trace.note(self.name, "starts", str(self.lives))
        nursery.start_soon(self._process, life)
        async with trio.open_nursery() as waiting:
            for event in (life.ready, life.ended):
                waiting.start_soon(_wait, event, waiting.cancel_scope)

    async def crash(self, how: str, why: str = "killed") -> None:
        """End the process at once; returns when nothing of it is left."""
        if self.life is not None:
            life = self.life
            life.die(how, why)
            await life.ended.wait()

    async def close(self) -> None:
        """End the process in order."""
        if self.life is not None:
            life = self.life
            life.stop.set()
            await life.ended.wait()

    async def _process(self, life: Life) -> None:
        try:
            with life.scope:
                async with trio.open_nursery() as nursery:
                    for task in (life.writer.run, life.transport.run):
                        await nursery.start(task)
                    await self.live(life)
                    nursery.cancel_scope.cancel()
        except (Exception, BaseExceptionGroup) as error:
            self._ended_by(life, error)
            if (cancelled := cancelled_in(error)) is not None:
                raise cancelled from None
        finally:
            life.die("end", "ended")
            self.life = None
            life.ended.set()

    def _ended_by(self, life: Life, error: BaseException) -> None:
        """A dead process may raise what it likes; one that lives only for its disk."""
        if life.dead:
            return
        reasons = [each for each in leaves(error) if not isinstance(each, trio.Cancelled)]
        if all(isinstance(each, StoreFailed) for each in reasons):
            life.die("end", "store failed")
            return
        text = "".join(traceback.format_exception(error))
        self.world.fail("no fault ends a node", f"{self.name}: {text}")

    async def live(self, life: Life) -> None:
        """What the process does."""
        raise NotImplementedError


async def _wait(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def cancelled_in(error: BaseException) -> BaseException | None:
    """The cancellations in a group of groups, if there are any."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled)
    return None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


@dataclass(kw_only=True)
class WorkerNode(Node):
    """A node that sells."""

    sells: bool = True
    pace: Pace = field(default_factory=Pace)
    engine: SimEngine | None = None
    shop: Shop | None = None
    cashier: Cashier | None = None

    async def live(self, life: Life) -> None:
        config, domain, rpc = self.config, domain_of(self.config), life.rpc
        self.files.write(MANIFEST.encode())
        stores, finality = life.writer.stores(), config.chain.finality_blocks
        reader = EscrowReader(
            rpc, escrow=domain.escrow, finality_blocks=finality, now=trio.current_time
        )
        chain = CachedChain(rpc, reader, escrow=domain.escrow, clock=self.clock)
        sender = Sender(
            rpc,
            key=self.key,
            journal=stores.chain,
            clock=self.clock,
            finality_blocks=finality,
            fee_max_gwei=config.chain.fee_max_gwei,
        )
        settlement = EscrowSettlement(rpc, reader, sender, escrow=domain.escrow)
        cashier = self.cashier = cashier_of(
            config,
            self.key,
            chain=chain,
            settlement=settlement,
            stores=stores,
            clock=self.clock,
        )
        engine = self.engine = SimEngine(self.pace, life.rng)
        ports = ShopPorts(
            transport=life.transport,
            discovery=life.discovery,
            engine=engine,
            stores=stores,
            files=self.files,
            clock=self.clock,
            rng=life.rng,
            aside=inline,
        )
        async with trio.open_nursery() as nursery:
            for role in (chain, cashier.payee, engine):
                await nursery.start(role.run)
            async with selling(config, self.key, ports, cashier) as shop:
                self.shop = shop
                life.ready.set()
                await life.stop.wait()
            nursery.cancel_scope.cancel()


@dataclass(kw_only=True)
class ClientNode(Node):
    """A node that buys."""

    sells: bool = False
    buyer: Buyer | None = None

    async def live(self, life: Life) -> None:
        config, domain = self.config, domain_of(self.config)
        reader = EscrowReader(
            life.rpc,
            escrow=domain.escrow,
            finality_blocks=config.chain.finality_blocks,
            now=trio.current_time,
        )
        ports = BuyerPorts(
            transport=life.transport,
            discovery=None,
            chain=reader,
            stores=life.writer.stores(),
            files=self.files,
            clock=self.clock,
            rng=life.rng,
        )
        async with buying(config, self.key, ports) as buyer:
            self.buyer = buyer
            life.ready.set()
            await life.stop.wait()


async def inline(work: Callable[..., T], /, *args: object) -> T:
    """`roles.files.Aside` without a thread."""
    await trio.lowlevel.checkpoint()
    return work(*args)
