"""Kills this very process at a named point of its work, for proofs of what survives a crash.

Nothing here is part of a node: `devnet.spawner` calls `install` in a node's process before the
command runs, and wraps the places where something is saved, sent, received or written to a file.
There is no other way in: no setting, no variable and no peer reaches it.

A point has a name such as ``store.payer.save_vouchers.before``, ``send.VoucherFrame.after`` or
``rpc.broadcast.after``.  `Probe.passed` holds how often each was passed.
"""

import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Final

import trio

from node.protocol import codec
from node.protocol.frames import (
    Announcements,
    AnnouncementsWanted,
    Chunk,
    Credit,
    FileData,
    FileWanted,
    Frame,
    Offer,
    OffersWanted,
    Ping,
    Pong,
    RequestData,
)

LEAVES_S: Final = 0.03
"""A frame that was handed over has left the process by then."""
_PLAIN: Final = (
    Announcements, AnnouncementsWanted, Chunk, Credit, FileData, FileWanted, OffersWanted, Ping,
    Pong, RequestData,
)  # fmt: skip
"""Frames that hold no statement that could be signed twice."""
_READS: Final = (
    "load", "find_segments", "vouchers_after", "receipt_proof", "leaves", "releases", "segment",
    "segments", "totals", "job", "jobs", "bought", "measurements", "open_transaction",
    "nonce_last", "transactions",
)  # fmt: skip


@dataclass(slots=True)
class Probe:
    """What to do at which point."""

    point: str = ""
    """Where to die; empty: nowhere."""
    count: int = 1
    """The how-manieth pass is the last."""
    trace: Path | None = None
    """File that every point's name is appended to."""
    record: Path | None = None
    """File that every frame with a statement is appended to, before it leaves."""
    passed: Counter[str] = field(default_factory=Counter)

    def reach(self, name: str) -> None:
        """A point is passed, perhaps for the last time."""
        self.passed[name] += 1
        if self.trace is not None and self.passed[name] == 1:
            _append(self.trace, name.encode())
        if name == self.point and self.passed[name] >= self.count:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, direction: bytes, frame: Frame) -> None:
        """Keep a frame: what it says was signed, and is out of our hands."""
        if self.record is not None and not isinstance(frame, _PLAIN):
            _append(self.record, direction + codec.encode(frame).hex().encode())


def install(probe: Probe) -> None:
    """Wrap every boundary of this process.  Once, and before the node's command runs."""
    _wrap_stores(probe)
    _wrap_commits(probe)
    _wrap_frames(probe)
    _wrap_broadcast(probe)
    _wrap_files(probe)


def _append(path: Path, line: bytes) -> None:
    """One write: it is whole, and it outlives the process.  No limit of the node's is ours."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
        os.write(descriptor, line + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.close(descriptor)


def _wrap_stores(probe: Probe) -> None:
    from node.adapters.store import chain, client, payee, payer, worker

    stores: dict[str, type[Any]] = {
        "payer": payer.SqlitePayerStore,
        "payee": payee.SqlitePayeeStore,
        "worker": worker.SqliteWorkerStore,
        "client": client.SqliteClientStore,
        "market": client.SqliteMarketStore,
        "chain": chain.SqliteTransactionJournal,
    }
    for port, store in stores.items():
        for name in vars(store):
            if not name.startswith("_") and name not in _READS:
                _around(probe, store, name, f"store.{port}.{name}")


def _around(probe: Probe, owner: Any, name: str, point: str) -> None:
    """Points before and after an asynchronous method."""
    inner = getattr(owner, name)

    @wraps(inner)
    async def outer(*args: Any, **kwargs: Any) -> Any:
        probe.reach(f"{point}.before")
        result = await inner(*args, **kwargs)
        probe.reach(f"{point}.after")
        return result

    setattr(owner, name, outer)


def _around_sync(probe: Probe, owner: Any, name: str, point: str) -> None:
    inner = getattr(owner, name)

    @wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        probe.reach(f"{point}.before")
        result = inner(*args, **kwargs)
        probe.reach(f"{point}.after")
        return result

    setattr(owner, name, outer)


class _Connection:
    """A connection whose commits are points."""

    def __init__(self, connection: Any, probe: Probe) -> None:
        self._connection = connection
        self._probe = probe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: str, *args: Any) -> Any:
        if query != "COMMIT":
            return self._connection.execute(query, *args)
        self._probe.reach("store.commit.before")
        done = self._connection.execute(query)
        self._probe.reach("store.commit.after")
        return done


def _wrap_commits(probe: Probe) -> None:
    """In the writer's thread: everything is done but the commit, or nobody knows of it yet."""
    from node.adapters.store.writer import Writer

    do = Writer._do

    @wraps(do)
    def outer(self: Writer, connection: Any, jobs: Any) -> None:
        do(self, _Connection(connection, probe), jobs)  # type: ignore[arg-type]

    Writer._do = outer  # type: ignore[method-assign]


def _wrap_frames(probe: Probe) -> None:
    from node.adapters.p2p.channel import StreamChannel
    from node.adapters.p2p.session import StreamSession
    from node.roles.ports import Inbound

    def frame_of(got: Any) -> Frame:
        return got.frame if isinstance(got, Inbound) else got

    owner: Any
    for owner in (StreamChannel, StreamSession):
        owner.send = _sending(probe, owner.send)
        owner.receive = _receiving(probe, owner.receive, frame_of)


def _sending(probe: Probe, inner: Any) -> Any:
    @wraps(inner)
    async def send(self: Any, frame: Frame) -> None:
        name = f"send.{type(frame).__name__}"
        probe.reach(f"{name}.before")
        probe.note(b">", frame)
        await inner(self, frame)
        if probe.point == f"{name}.after":
            await trio.sleep(LEAVES_S)
        probe.reach(f"{name}.after")

    return send


def _receiving(probe: Probe, inner: Any, frame_of: Callable[[Any], Frame]) -> Any:
    @wraps(inner)
    async def receive(self: Any) -> Any:
        got = await inner(self)
        frame = frame_of(got)
        probe.note(b"<", frame)
        probe.reach(f"receive.{type(frame).__name__}")
        return got

    return receive


def _wrap_broadcast(probe: Probe) -> None:
    from node.adapters.chain.rpc import Rpc

    _around_sync(probe, Rpc, "broadcast_sync", "rpc.broadcast")


def _wrap_files(probe: Probe) -> None:
    from node.adapters import keystore
    from node.adapters.files import FolderFiles
    from node.app import home, receipts

    _around_sync(probe, keystore, "write_private", "file.private")
    _around_sync(probe, FolderFiles, "write", "file.model")
    _around_sync(probe, receipts, "save", "file.transcript")
    _around_sync(probe, home, "_write_owner", "file.owner")
    # Written, and not where it belongs yet; or torn, for all that is known before this returns.
    _around_sync(probe, os, "replace", "file.rename")
    _around_sync(probe, os, "fsync", "file.fsync")


__all__ = ["LEAVES_S", "Offer", "Probe", "install"]
