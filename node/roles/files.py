"""Content by hash between peers: manifests, tokenizers and templates, bounded and checked."""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog
import trio

from node.errors import PeerError, Unavailable
from node.protocol import limits
from node.protocol.fields import Address, Hash
from node.protocol.frames import ErrorFrame, Fault, FileData, FileWanted
from node.roles.dispatch import Handlers
from node.roles.ports import Channel, Files, Inbound, Session

log = structlog.get_logger("files")

T = TypeVar("T")

TRANSFER_S = 60.0
TRANSFERS_MAX = 32
"""Files being sent at once, over all peers."""
TRANSFERS_PER_PEER_MAX = 4
PART_BYTES_MIN = 1024
"""Parts of a file are this large on average: frames cost more than bytes."""
REPLY_S = 5.0
"""How long a refusal may wait for a peer that does not read."""


class Aside(Protocol):
    """Runs blocking work off the loop, as `trio.to_thread.run_sync` does."""

    def __call__(self, work: Callable[..., T], /, *args: object) -> Awaitable[T]:
        """What `work` returns."""
        ...


class FileServer:
    """Sends the files that this node offers to whoever asks by hash."""

    def __init__(self, files: Files, *, aside: Aside = trio.to_thread.run_sync) -> None:
        """
        Args:
            files: What there is.
            aside: Where a file is read and hashed.
        """
        self._files = files
        self._aside = aside
        self._running: Counter[Address] = Counter()
        """Transfers by peer."""
        self._nursery: trio.Nursery | None = None
        self.handlers: Handlers = {FileWanted: self._on_wanted}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Transfers live in this task."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def _on_wanted(self, session: Session, inbound: Inbound) -> None:
        frame, channel = inbound.frame, inbound.channel
        assert isinstance(frame, FileWanted)
        assert channel is not None
        assert self._nursery is not None
        peer = session.peer
        if self._running.total() >= TRANSFERS_MAX or self._running[peer] >= TRANSFERS_PER_PEER_MAX:
            await _refuse(channel, "too many transfers")
            return
        self._running[peer] += 1
        self._nursery.start_soon(self._serve, peer, channel, frame.sha256)

    async def _serve(self, peer: Address, channel: Channel, sha256: Hash) -> None:
        try:
            # Off the loop: a file is read and hashed whole.
            content = await self._aside(self._files.read, sha256)
            if content is None:
                await _refuse(channel, "no such file")
                return
            with trio.move_on_after(TRANSFER_S):
                await _send(channel, content)
        except Unavailable as error:
            log.info("transfer ended", reason=str(error))
        finally:
            channel.close()
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]


async def _send(channel: Channel, content: bytes) -> None:
    for offset in range(0, max(len(content), 1), limits.DATA_BYTES_MAX):
        data = content[offset : offset + limits.DATA_BYTES_MAX]
        await channel.send(FileData(job=channel.job, offset=offset, size=len(content), data=data))


async def _refuse(channel: Channel, detail: str) -> None:
    try:
        with trio.move_on_after(REPLY_S):
            await channel.send(ErrorFrame(job=channel.job, code=Fault.NOT_FOUND, detail=detail))
    except Unavailable as error:
        log.info("transfer ended", reason=str(error))
    finally:
        channel.close()


async def fetch(
    session: Session,
    sha256: Hash,
    *,
    channel: bytes,
    size_max: int = limits.FILE_BYTES_MAX,
    on_received: Callable[[int], None] = lambda _: None,
) -> bytes:
    """A file by its hash from the peer.

    Args:
        session: Whom to ask.
        sha256: What the content must hash to.
        size_max: Largest size, in bytes, that is taken.
        channel: The transfer's 16-byte id: drawn at random, so that no peer can be in its way.
        on_received: Told with each part how many bytes there are; must be quick.

    Raises:
        PeerError: What came is not that file.
        Unavailable: The peer does not have it, was too slow, or left.
    """
    transfer = session.open_channel(channel)
    try:
        with trio.fail_after(TRANSFER_S):
            await transfer.send(FileWanted(job=channel, sha256=sha256))
            content = await _collect(transfer, size_max, on_received)
    except trio.TooSlowError:
        raise Unavailable("the peer sent a file too slowly") from None
    finally:
        transfer.close()
    if hashlib.sha256(content).digest() != sha256:
        raise PeerError("a file that does not match its hash")
    return content


async def _collect(channel: Channel, size_max: int, on_received: Callable[[int], None]) -> bytes:
    content, parts = bytearray(), 0
    while True:
        frame = await channel.receive()
        if isinstance(frame, ErrorFrame):
            raise Unavailable(f"the peer can't send the file: {frame.detail}")
        if not isinstance(frame, FileData) or frame.offset != len(content):
            raise PeerError("not the next part of the file")
        if frame.size > size_max or len(content) + len(frame.data) > frame.size:
            raise PeerError("a file larger than announced or allowed")
        content += frame.data
        on_received(len(content))
        parts += 1
        if len(content) == frame.size:
            return bytes(content)
        if len(content) < (parts - 1) * PART_BYTES_MIN or not frame.data:
            raise PeerError("a file in too small parts")
