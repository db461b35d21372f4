"""What the roles need from outside.  Adapters implement these; the simulator and tests do too."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import Frame, Hello
from node.protocol.statements import Announcement


class Clock(Protocol):
    """Wall and monotonic time; `trio.sleep` follows the same monotonic clock."""

    def unix_ms(self) -> int:
        """Wall clock: what statements carry."""
        ...

    def monotonic_s(self) -> float:
        """For deadlines and for lives counted from arrival."""
        ...


class Channel(Protocol):
    """The frames of one job (or file transfer) on a session, under credit in both directions."""

    @property
    def job(self) -> bytes:
        """The 16 bytes that name this channel in every frame."""
        ...

    async def send(self, frame: Frame) -> None:
        """Queue a frame; waits while the peer has granted no credit.

        Raises:
            SessionLost: The session ended; the message says why.
        """
        ...

    async def receive(self) -> Frame:
        """The next frame of this channel, in order; consuming it grants the peer credit.

        Frames that arrived before the session was lost are still returned first.

        Raises:
            SessionLost: The session ended; the message says why.
        """
        ...

    def close(self) -> None:
        """Forget the channel; later frames for it are dropped and counted."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A frame that no open channel waits for.  An opener (`frames.OPENERS`) brings its channel."""

    frame: Frame
    channel: Channel | None
    arrived_s: float
    """Monotonic time of arrival: the start of an offer's life."""


class Session(Protocol):
    """The one long-lived stream between this node and a peer, after both hellos."""

    @property
    def peer(self) -> Address:
        """The peer's session key, as an address: proven by the handshake."""
        ...

    @property
    def peer_id(self) -> str:
        """The same as a libp2p PeerID."""
        ...

    @property
    def hello(self) -> Hello:
        """What the peer said first."""
        ...

    @property
    def lost(self) -> str | None:
        """Why the session ended, or None while it lives."""
        ...

    async def send(self, frame: Frame) -> None:
        """Queue a frame that belongs to no channel; waits while the queue is full.

        Raises:
            SessionLost: The session ended.
        """
        ...

    async def receive(self) -> Inbound:
        """The next frame that belongs to no open channel; one reader per session.

        Raises:
            SessionLost: The session ended.
        """
        ...

    def open_channel(self, job: bytes) -> Channel:
        """The channel of an opener that this side is about to send on it."""
        ...

    async def wait_lost(self) -> str:
        """Return the reason once the session has ended."""
        ...

    def close(self, reason: str) -> None:
        """End the session; what is queued is still sent, within a deadline."""
        ...


class Transport(Protocol):
    """Peers: sessions by address, and where to find workers."""

    @property
    def address(self) -> Address:
        """This node's session key, as an address."""
        ...

    @property
    def addrs(self) -> tuple[str, ...]:
        """Multiaddrs with PeerID under which this node listens."""
        ...

    def sessions(self) -> Mapping[Address, Session]:
        """Live sessions by peer."""
        ...

    def inbound(self) -> AsyncIterator[Session]:
        """Each session, dialled or accepted, once, when it is ready."""
        ...

    async def connect(self, addrs: Sequence[str]) -> Session:
        """The live session with the peer that the multiaddrs name, dialling if there is none.

        Raises:
            Unavailable: No address answered within the dial deadline.
            PeerError: Not our protocol, version, chain or escrow.
        """
        ...


class Discovery(Protocol):
    """Hints about workers.  No single source is needed for the market to work."""

    async def publish(self, announcement: Signed[Announcement]) -> int:
        """Gossip it on the topic of each of its models; to how many peers, at least."""
        ...

    async def follow(self, model: Hash) -> None:
        """Start to hear announcements of a model."""
        ...

    async def provide(self, model: Hash) -> None:
        """Say in the DHT that this node serves a model."""
        ...

    async def find(self, model: Hash) -> tuple[str, ...]:
        """Multiaddrs of peers that the DHT names for a model; may be empty, may lie."""
        ...

    def heard(self) -> AsyncIterator[Signed[Announcement]]:
        """Announcements that gossip brought: decoded, not verified.  Drops if unread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A payer as the escrow has it, at a finalised block."""

    free_micro: int
    locked_micro: int
    exit_ready_s: int
    """Unix second from which it may leave; 0 when no exit was requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockState:
    """A lock as the escrow has it."""

    amount_micro: int
    nonce: int
    expiry_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainView:
    """What one read of the chain gave about a payer and one payee, all at one block."""

    block: int
    block_time_s: int
    account: Account
    lock: LockState
    signer_expiry_s: int
    """0 when the asked-for signer is not authorised; far future when it is the payer itself."""
    signer_left_micro: int


class Chain(Protocol):
    """The escrow, read."""

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        """Account, lock and authority at the finality depth.

        Raises:
            Unavailable: No RPC answered.
        """
        ...

    async def tabs_paid(self, tabs: Sequence[Hash]) -> tuple[int, ...]:
        """Micro redeemed so far per tab id.

        Raises:
            Unavailable: No RPC answered.
        """
        ...


class Files(Protocol):
    """Content by hash, as a worker serves it and a client caches it."""

    def read(self, sha256: Hash) -> bytes | None:
        """The file's bytes, or None if it is not here."""
        ...

    def write(self, content: bytes) -> Hash:
        """Keep a file; returns its sha256."""
        ...
