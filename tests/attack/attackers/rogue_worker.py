"""A real worker whose outgoing frames pass through a script that its home names: `role.json`.

    python -m tests.attack.attackers.rogue_worker --home DIR

``{"forge": KIND, "variant": NAME}``: the statement of that kind goes out in a variant of the replay
matrix.  ``{"cut": MODE, "at": N}``: the N-th frame of the next job, in either direction, is the
last; see `tests.attack.cutting`.  ``{}``: an ordinary worker.
"""

import argparse
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from node.protocol import payee_ledger, signing
from node.protocol.fields import Signed
from node.protocol.frames import (
    AcceptanceFrame,
    AwardFrame,
    Bid,
    Frame,
    LockReleaseFrame,
    Offer,
    ProgressFrame,
    ReceiptFrame,
    Resume,
    VoucherFrame,
)
from node.protocol.statements import LockRelease, Voucher
from node.roles.disowned import Disowned
from node.roles.ports import Channel, Inbound, Session, Transport
from tests.attack import replay_matrix as matrix
from tests.attack.cutting import Cutter
from tests.attack.replay_matrix import forged

ROLE: Final = "role.json"
FORGED: Final = "forged.txt"
CUT: Final = "cut.txt"
DAY_MS: Final = 86_400_000
_FIELDS: Final = {
    AcceptanceFrame: ("acceptance", "acceptance"),
    ProgressFrame: ("progress", "progress"),
    ReceiptFrame: ("receipt", "receipt"),
    Offer: ("offer", "terms"),
    Bid: ("offer", "terms"),
}
"""Kind of the matrix, and where the frame has the statement."""


class Rogue:
    """Falsifies frames as the home's role says now."""

    def __init__(self, home: Path, domain: signing.Domain, key: bytes) -> None:
        self.home = home
        self.domain = domain
        self.key = key
        self.address = signing.address_of_key(key)
        self._offers: list[Signed[Any]] = []

    @property
    def role(self) -> dict[str, Any]:
        """What to do; read anew, since whoever runs the test changes it."""
        loaded: dict[str, Any] = json.loads((self.home / ROLE).read_text())
        return loaded

    def outgoing(self, frame: Frame) -> Sequence[Frame]:
        """What goes out in place of a frame."""
        found = _FIELDS.get(type(frame))
        if isinstance(frame, Offer):
            self._offers.append(frame.terms)
        role = self.role
        if found is None or role.get("forge") != found[0]:
            return [frame]
        signed = getattr(frame, found[1])
        bad, both = self._variant(found[0], role["variant"], signed)
        self.note(bad)
        falsified: Frame = replace(frame, **{found[1]: bad})  # type: ignore[arg-type]
        return [frame, falsified] if both else [falsified]

    def unasked(self) -> Sequence[Frame]:
        """What is sent with an award that arrives, by itself."""
        role, name = self.role, ""
        if role.get("forge") not in ("lock release", "resume"):
            return []
        name = role["variant"]
        payer, payee = bytes.fromhex(role["payer"]), self.address
        if role["forge"] == "lock release":
            release = LockRelease(payer=payer, payee=payee, total=1, nonce=9)
            signed: Signed[Any] = signing.sign(release, self.domain, self.key)
            bad, _ = self._variant("lock release", name, signed)
            self.note(bad)
            return [LockReleaseFrame(release=bad)]
        voucher = Voucher(
            payer=payer,
            payee=payee,
            model=bytes.fromhex(role["model"]),
            splits=signing.keccak256(b""),
            cumulative=10**12,
            receipts=bytes(32),
        )
        # The payer's own key is not here: every one of these is somebody else's.
        signed = signing.sign(voucher, self.domain, self.key)
        bad, _ = self._variant("resume", name, signed)
        self.note(bad)
        return [Resume(vouchers=(bad,))]

    def note(self, signed: Signed[Any]) -> None:
        """Say what was forged, for the one who judges."""
        with (self.home / FORGED).open("a") as file:
            file.write(signed.signature.hex() + "\n")

    def note_cut(self, frame: str) -> None:
        """Say where a job was cut off; on disk before a process is gone."""
        with (self.home / CUT).open("a") as file:
            file.write(frame + "\n")

    def _variant(self, kind: str, name: str, signed: Signed[Any]) -> tuple[Signed[Any], bool]:
        """The forged statement, and whether the genuine one goes out before it."""
        statement = signed.statement
        if name == matrix.SAME_TWICE:
            return signed, True
        if name == matrix.OLD_NONCE:
            changed = {
                "acceptance": {"accepted_ms": getattr(statement, "accepted_ms", 0) - 2 * DAY_MS},
                "progress": {"at_ms": 1},
                "receipt": {"accepted_ms": getattr(statement, "accepted_ms", 0) - 1},
                "offer": {"serial": getattr(statement, "serial", 1) - 1, "price_out": 1},
            }[kind]
            return signing.sign(replace(statement, **changed), self.domain, self.key), (
                kind == "offer"
            )
        if name == matrix.OTHER_WORKER and hasattr(statement, "award"):
            other = replace(statement, award=matrix.STRANGER.rjust(32, b"\1"))
            return signing.sign(other, self.domain, self.key), False
        return forged(signed, domain=self.domain, key=self.key)[name], False


class _Channel:
    """A job's channel through the script."""

    def __init__(self, channel: Channel, rogue: Rogue, cutter: Cutter | None) -> None:
        self._channel = channel
        self._rogue = rogue
        self._cutter = cutter

    @property
    def job(self) -> bytes:
        return self._channel.job

    async def send(self, frame: Frame) -> None:
        if self._cutter is not None:
            await self._cutter.before(frame)
        for each in self._rogue.outgoing(frame):
            await self._channel.send(each)
        if self._cutter is not None:
            await self._cutter.after(frame)

    async def receive(self) -> Frame:
        frame = await self._channel.receive()
        if self._cutter is not None:
            await self._cutter.received(frame)
        return frame

    def close(self) -> None:
        self._channel.close()


class _Session:
    """A session through the script."""

    def __init__(self, session: Session, rogue: Rogue) -> None:
        self._session = session
        self._rogue = rogue
        self._cutter: Cutter | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def send(self, frame: Frame) -> None:
        for each in self._rogue.outgoing(frame):
            await self._session.send(each)

    async def receive(self) -> Inbound:
        inbound = await self._session.receive()
        if inbound.channel is None:
            if self._cutter is not None and isinstance(inbound.frame, VoucherFrame):
                await self._cutter.received(inbound.frame)
            return inbound
        if not isinstance(inbound.frame, AwardFrame):
            return inbound
        for each in self._rogue.unasked():
            await self._session.send(each)
        role = self._rogue.role
        if "cut" in role:
            self._cutter = Cutter(
                self._session, mode=role["cut"], at=role["at"], note=self._rogue.note_cut
            )
            await self._cutter.received(inbound.frame)
        return replace(inbound, channel=_Channel(inbound.channel, self._rogue, self._cutter))


class RogueTransport:
    """A transport whose sessions go through the script."""

    def __init__(self, transport: Transport, rogue: Rogue) -> None:
        self._transport = transport
        self._rogue = rogue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def inbound(self) -> AsyncIterator[Session]:
        """Each session, wrapped."""
        async for session in self._transport.inbound():
            yield _Session(session, self._rogue)


def main() -> int:
    """Serve from a home, by its script."""
    from node.app import serve
    from node.config import load

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    home: Path = parser.parse_args().home
    # It goes on working for the very clients whom it drives away.
    Disowned.exceeded = lambda *_: False  # type: ignore[method-assign]
    payee_ledger.debt_micro = lambda *_: 0
    return serve.run(
        load(home),
        around=lambda transport, domain, key: RogueTransport(transport, Rogue(home, domain, key)),
    )


if __name__ == "__main__":
    sys.exit(main())
