"""Content by hash between peers: manifests, tokenizers and templates, bounded and checked."""

import hashlib
import secrets
from collections.abc import Callable

import structlog
import trio

from node.errors import PeerError, Unavailable
from node.protocol import limits
from node.protocol.fields import Hash
from node.protocol.frames import ErrorFrame, Fault, FileData, FileWanted
from node.roles.dispatch import Handlers
from node.roles.ports import Channel, Files, Inbound, Session

log = structlog.get_logger("files")

TRANSFER_S = 60.0
TRANSFERS_MAX = 32
"""Files being sent at once, over all peers."""


class FileServer:
    """Sends the files that this node offers to whoever asks by hash."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._slots = trio.CapacityLimiter(TRANSFERS_MAX)
        self._nursery: trio.Nursery | None = None
        self.handlers: Handlers = {FileWanted: self._on_wanted}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Transfers live in this task."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def _on_wanted(self, _session: Session, inbound: Inbound) -> None:
        frame, channel = inbound.frame, inbound.channel
        assert isinstance(frame, FileWanted)
        assert channel is not None
        assert self._nursery is not None
        content = self._files.read(frame.sha256)
        if content is None or self._slots.available_tokens < 1:
            detail = "no such file" if content is None else "too many transfers"
            await channel.send(ErrorFrame(job=frame.job, code=Fault.NOT_FOUND, detail=detail))
            channel.close()
            return
        self._nursery.start_soon(self._send, channel, content)

    async def _send(self, channel: Channel, content: bytes) -> None:
        try:
            async with self._slots:
                with trio.move_on_after(TRANSFER_S):
                    for offset in range(0, max(len(content), 1), limits.DATA_BYTES_MAX):
                        data = content[offset : offset + limits.DATA_BYTES_MAX]
                        await channel.send(
                            FileData(job=channel.job, offset=offset, size=len(content), data=data)
                        )
        except Unavailable as error:
            log.info("transfer ended", reason=str(error))
        finally:
            channel.close()


async def fetch(
    session: Session,
    sha256: Hash,
    *,
    size_max: int = limits.FILE_BYTES_MAX,
    channel_id: Callable[[], bytes] = lambda: secrets.token_bytes(16),
) -> bytes:
    """A file by its hash from the peer.

    Args:
        session: Whom to ask.
        sha256: What the content must hash to.
        size_max: Largest size, in bytes, that is taken.
        channel_id: Where the transfer's 16-byte id comes from.

    Raises:
        PeerError: What came is not that file.
        Unavailable: The peer does not have it, was too slow, or left.
    """
    channel = session.open_channel(channel_id())
    try:
        with trio.fail_after(TRANSFER_S):
            await channel.send(FileWanted(job=channel.job, sha256=sha256))
            content = await _collect(channel, size_max)
    except trio.TooSlowError:
        raise Unavailable("the peer sent a file too slowly") from None
    finally:
        channel.close()
    if hashlib.sha256(content).digest() != sha256:
        raise PeerError("a file that does not match its hash")
    return content


async def _collect(channel: Channel, size_max: int) -> bytes:
    content = bytearray()
    while True:
        frame = await channel.receive()
        if isinstance(frame, ErrorFrame):
            raise Unavailable(f"the peer can't send the file: {frame.detail}")
        if not isinstance(frame, FileData) or frame.offset != len(content):
            raise PeerError("not the next part of the file")
        if frame.size > size_max or len(content) + len(frame.data) > frame.size:
            raise PeerError("a file larger than announced or allowed")
        content += frame.data
        if len(content) == frame.size:
            return bytes(content)
        if not frame.data:
            raise PeerError("an empty part of a file")
