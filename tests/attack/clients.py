"""A real client with something in between: a transport or a chain that is not what it seems."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast
from weakref import WeakKeyDictionary

from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.clock import SystemClock
from node.adapters.files import FolderFiles
from node.adapters.p2p.transport import open_transport
from node.app.buying import Buyer, BuyerPorts, buying
from node.app.domain import domain_of
from node.app.hello import hello_of
from node.app.home import Home
from node.config import Config
from node.protocol import signing
from node.protocol.fields import ZERO_ADDRESS, Address
from node.protocol.frames import AwardFrame, Frame, VoucherFrame
from node.roles.ports import Chain, Channel, Session, Transport
from node.roles.stores import Stores
from tests.attack.cutting import Cutter


@asynccontextmanager
async def open_client(
    config: Config,
    key: bytes,
    stores: Stores,
    *,
    transport_as: Callable[[Transport], Transport] = lambda transport: transport,
    chain_as: Callable[[Chain], Chain] = lambda chain: chain,
) -> AsyncIterator[Buyer]:
    """What `node submit` opens, around ports of one's own."""
    address, domain = signing.address_of_key(key), domain_of(config)
    hello = hello_of(domain, payer=address, payee=ZERO_ADDRESS, sells=False)
    rpc = Rpc(config.chain.rpc_url, chain_id=config.chain.chain_id)
    reader = EscrowReader(rpc, escrow=domain.escrow, finality_blocks=config.chain.finality_blocks)
    async with open_transport(replace(config.network, listen=()), key, hello) as transport:
        ports = BuyerPorts(
            transport=transport_as(transport),
            discovery=None,
            chain=chain_as(reader),
            stores=stores,
            files=FolderFiles(Home(config.home).files),
            clock=SystemClock(),
            rng=secrets.SystemRandom(),
        )
        async with buying(config, key, ports) as buyer:
            yield buyer


class CutTransport:
    """Cuts the first job that is awarded through it; all else passes."""

    def __init__(
        self, transport: Transport, *, mode: str, at: int, note: Callable[[str], None]
    ) -> None:
        """
        Args:
            transport: The real one.
            mode: Of `Cutter`.
            at: Of `Cutter`.
            note: Told which frame it was.
        """
        self._transport = transport
        self._how = (mode, at, note)
        self._wrapped: WeakKeyDictionary[Session, _Session] = WeakKeyDictionary()
        self.cutter: Cutter | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def sessions(self) -> Mapping[Address, Session]:
        """Live ones."""
        return {peer: self._wrap(each) for peer, each in self._transport.sessions().items()}

    async def connect(self, addrs: Any) -> Session:
        """As the real one."""
        return self._wrap(await self._transport.connect(addrs))

    async def inbound(self) -> AsyncIterator[Session]:
        """As the real one."""
        async for session in self._transport.inbound():
            yield self._wrap(session)

    def awarded(self, session: Session) -> Cutter:
        """A job begins: the one to be cut, if it is the first."""
        if self.cutter is None:
            mode, at, note = self._how
            self.cutter = Cutter(session, mode=mode, at=at, note=note)
        return self.cutter

    def _wrap(self, session: Session) -> Session:
        # By the session itself: an id may be given to another one later.
        found = self._wrapped.get(session)
        if found is None:
            found = self._wrapped[session] = _Session(session, self)
        return cast(Session, found)


class _Session:
    def __init__(self, session: Session, owner: CutTransport) -> None:
        self._session = session
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def send(self, frame: Frame) -> None:
        cutter = self._owner.cutter if isinstance(frame, VoucherFrame) else None
        if cutter is not None:
            await cutter.before(frame)
        await self._session.send(frame)
        if cutter is not None:
            await cutter.after(frame)

    def open_channel(self, job: bytes) -> "_Channel":
        return _Channel(self._session.open_channel(job), self._session, self._owner)


class _Channel:
    def __init__(self, channel: Channel, session: Session, owner: CutTransport) -> None:
        self._channel = channel
        self._session = session
        self._owner = owner
        self._cutter: Cutter | None = None

    @property
    def job(self) -> bytes:
        return self._channel.job

    async def send(self, frame: Frame) -> None:
        if isinstance(frame, AwardFrame):
            self._cutter = self._owner.awarded(self._session)
        if self._cutter is not None:
            await self._cutter.before(frame)
        await self._channel.send(frame)
        if self._cutter is not None:
            await self._cutter.after(frame)

    async def receive(self) -> Frame:
        frame = await self._channel.receive()
        if self._cutter is not None:
            await self._cutter.received(frame)
        return frame

    def close(self) -> None:
        self._channel.close()
