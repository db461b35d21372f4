"""Workers that cheat, for tests of clients: `python -m devnet.misbehave KIND --home DIR`.

It is the ordinary worker, whose frames are falsified on their way out and signed again with its own
key: everything but the cheating is real.
"""

import argparse
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node.protocol import codec, signing
from node.protocol.fields import Address
from node.protocol.frames import Chunk, End, Frame, ProgressFrame, ReceiptFrame
from node.roles.ports import Channel, Inbound, Session, Transport

Tamper = Callable[["Cheat", Frame], Sequence[Frame]]
OLD_JOB = b"\x01" * 16
OLD_AWARD = b"\x01" * 32
HONEST_CHUNKS = 3
"""Output that some cheats deliver properly first."""


@dataclass(slots=True)
class Cheat:
    """What a cheat knows of the job it is spoiling."""

    domain: signing.Domain
    key: bytes
    chunks: int = 0

    def resign(self, frame: ProgressFrame | ReceiptFrame, **changes: Any) -> Frame:
        """The frame with a changed statement under a valid signature."""
        if isinstance(frame, ProgressFrame):
            progress = replace(frame.progress.statement, **changes)
            return replace(frame, progress=signing.sign(progress, self.domain, self.key))
        receipt = replace(frame.receipt.statement, **changes)
        return replace(frame, receipt=signing.sign(receipt, self.domain, self.key))


def overbill(cheat: Cheat, frame: Frame) -> Sequence[Frame]:
    """Bills more tokens than it sent."""
    match frame:
        case ProgressFrame(progress=signed):
            return [cheat.resign(frame, tokens_out=signed.statement.tokens_out + 5)]
        case ReceiptFrame(receipt=signed_receipt):
            return [cheat.resign(frame, tokens_out=signed_receipt.statement.tokens_out + 5)]
    return [frame]


def reprice(cheat: Cheat, frame: Frame) -> Sequence[Frame]:
    """Bills at twice the awarded price."""
    match frame:
        case ProgressFrame(progress=signed):
            return [cheat.resign(frame, amount=2 * signed.statement.amount)]
        case ReceiptFrame(receipt=signed_receipt):
            return [cheat.resign(frame, amount=2 * signed_receipt.statement.amount)]
    return [frame]


def after_end(_cheat: Cheat, frame: Frame) -> Sequence[Frame]:
    """Sends more ids after the output was complete."""
    if not isinstance(frame, End):
        return [frame]
    more = Chunk(
        job=frame.job, position=frame.position, data=codec.pack_ids((5, 6, 7)), logprobs=b""
    )
    return [more, replace(frame, position=frame.position + 3)]


def old_job(cheat: Cheat, frame: Frame) -> Sequence[Frame]:
    """Goes on under the id of an old job, and bills for an old award."""
    match frame:
        case Chunk() if cheat.chunks > HONEST_CHUNKS:
            return [replace(frame, job=OLD_JOB)]
        case ProgressFrame() | ReceiptFrame():
            return [cheat.resign(frame, award=OLD_AWARD)]
    return [frame]


def silent(cheat: Cheat, frame: Frame) -> Sequence[Frame]:
    """Stops in the middle of the answer, without a word."""
    return [] if cheat.chunks > HONEST_CHUNKS else [frame]


KINDS: Mapping[str, Tamper] = {
    "overbill": overbill,
    "reprice": reprice,
    "after-end": after_end,
    "old-job": old_job,
    "silent": silent,
}


class _Channel:
    """A job's channel whose outgoing frames pass through the cheat."""

    def __init__(self, channel: Channel, session: Session, tamper: Tamper, cheat: Cheat) -> None:
        self._channel = channel
        self._session = session
        self._tamper = tamper
        self._cheat = cheat

    @property
    def job(self) -> bytes:
        return self._channel.job

    async def send(self, frame: Frame) -> None:
        self._cheat.chunks += isinstance(frame, Chunk)
        for falsified in self._tamper(self._cheat, frame):
            if getattr(falsified, "job", self.job) == self.job:
                await self._channel.send(falsified)
            else:
                await self._session.send(falsified)

    async def receive(self) -> Frame:
        return await self._channel.receive()

    def close(self) -> None:
        self._channel.close()


class _Session:
    """A session whose jobs are spoiled; all else passes."""

    def __init__(self, session: Session, tamper: Tamper, make: Callable[[], Cheat]) -> None:
        self._session = session
        self._tamper = tamper
        self._make = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def receive(self) -> Inbound:
        inbound = await self._session.receive()
        if inbound.channel is None:
            return inbound
        channel = _Channel(inbound.channel, self._session, self._tamper, self._make())
        return replace(inbound, channel=channel)


class CheatingTransport:
    """A transport whose sessions are spoiled for the roles that read them."""

    def __init__(self, transport: Transport, kind: str, domain: signing.Domain, key: bytes) -> None:
        self._transport = transport
        self._tamper = KINDS[kind]
        self._make = lambda: Cheat(domain, key)

    @property
    def address(self) -> Address:
        """The worker's own."""
        return self._transport.address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def inbound(self) -> AsyncIterator[Session]:
        """Each session, wrapped."""
        async for session in self._transport.inbound():
            yield _Session(session, self._tamper, self._make)


def main() -> int:
    """Serve from a home, cheating."""
    from node.app import serve
    from node.config import load

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args()
    config = load(home=options.home)
    return serve.run(
        config,
        around=lambda transport, domain, key: CheatingTransport(
            transport, options.kind, domain, key
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
