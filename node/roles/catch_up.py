"""What a payer does after a reconnect: compare vouchers with the worker, send what it missed."""

from collections import deque
from dataclasses import dataclass, field

import structlog
import trio

from node.errors import PeerError, SignatureError, Unavailable
from node.protocol import signing
from node.protocol.fields import Address, Hash, Signed
from node.protocol.frames import Resume
from node.protocol.payer_state import HeldByPayee
from node.protocol.signing import checksum
from node.protocol.statements import Voucher
from node.protocol.tabs import tab_id, tab_of_voucher
from node.roles.outbox import DELIVER_WITHIN_S, Deliver
from node.roles.payer_book import PayerBook
from node.roles.ports import Clock, Session
from node.roles.resume import RESUME_MAX

log = structlog.get_logger("payer")

PAGE = 64
"""Vouchers read from the store at a time."""
RESUMES_MAX = 32
"""That one worker may send in `RESUME_WINDOW_S`."""
RESUME_WINDOW_S = 10.0


@dataclass(slots=True)
class _Worker:
    """What is known of one worker's resumes."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=RESUMES_MAX))
    missing: dict[Hash, int] = field(default_factory=dict)
    """By tab: send again what lies above this cumulative."""
    sending: bool = False


class CatchUp:
    """Greets workers, and answers their resumes."""

    def __init__(
        self,
        book: PayerBook,
        deliver: Deliver,
        *,
        domain: signing.Domain,
        signer: Address,
        clock: Clock,
    ) -> None:
        """
        Args:
            book: Of the payer.
            deliver: Sends to the worker of this address; raises Unavailable if it is not there.
            domain: What vouchers are bound to.
            signer: Address of the key that signs them.
            clock: For the bound on resumes.
        """
        self._book = book
        self._deliver = deliver
        self._domain = domain
        self._signer = signer
        self._clock = clock
        self._workers: dict[Address, _Worker] = {}

    async def greet(self, session: Session) -> None:
        """Tell a worker which vouchers it was given last."""
        given = [
            self._book.vouchers[tab.id]
            for tab in self._book.state.tabs.values()
            if tab.worker == session.peer and tab.id in self._book.vouchers
        ]
        if given:
            await session.send(Resume(vouchers=tuple(given[-RESUME_MAX:])))

    async def on_resume(self, session: Session, frame: Resume, nursery: trio.Nursery) -> None:
        """A worker says what it holds: send the rest again, or stop if it holds more than we know.

        Raises:
            PeerError: It asks too often.
        """
        held = await self._check_held(frame)
        own = [t.id for t in self._book.state.tabs.values() if t.worker == session.peer]
        if not own:
            return
        worker = self._workers.setdefault(session.peer, _Worker())
        self._count(worker)
        whole = len(frame.vouchers) < RESUME_MAX
        worker.missing |= {tab: held.get(tab, 0) for tab in own if tab in held or whole}
        if not worker.sending:
            worker.sending = True
            nursery.start_soon(self._send_missing, session.peer, worker)
        for tab in held.keys() & set(own) if not self._book.state.halted else ():
            # Not when the escrow pays: a payee may redeem a voucher before it knows its rises.
            forget = self._book.store.forget_vouchers(tab, cumulative_micro=held[tab])
            await self._book.saved(forget)

    async def _check_held(self, frame: Resume) -> dict[Hash, int]:
        """Cumulative per tab of the vouchers in a resume that we signed; halts if we forgot one."""
        held: dict[Hash, int] = {}
        for signed in frame.vouchers:
            voucher = signed.statement
            if voucher.payer != self._book.state.payer or not self._is_own(signed):
                continue
            tab = tab_id(tab_of_voucher(voucher))
            held[tab] = voucher.cumulative
            event = HeldByPayee(
                tab_id=tab, cumulative_micro=voucher.cumulative, receipts=voucher.receipts
            )
            await self._book.perform(self._book.step(event))
        return held

    def _is_own(self, signed: Signed[Voucher]) -> bool:
        try:
            signer = signing.recover(signed, self._domain)
        except SignatureError:
            return False
        return signer in (self._signer, self._book.state.payer)

    def _count(self, worker: _Worker) -> None:
        now_s = self._clock.monotonic_s()
        times = worker.times
        if len(times) == RESUMES_MAX and now_s - times[0] < RESUME_WINDOW_S:
            raise PeerError("too many resumes")
        times.append(now_s)

    async def _send_missing(self, address: Address, worker: _Worker) -> None:
        """Send page by page, at the worker's pace; a resume meanwhile moves the position."""
        try:
            while worker.missing:
                tab, above_micro = worker.missing.popitem()
                frames = await self._book.store.vouchers_after(
                    tab, cumulative_micro=above_micro, count_max=PAGE
                )
                for frame in frames:
                    with trio.fail_after(DELIVER_WITHIN_S):
                        await self._deliver(address, frame)
                if frames:
                    worker.missing.setdefault(tab, frames[-1].voucher.statement.cumulative)
        except (Unavailable, trio.TooSlowError) as error:
            worker.missing.clear()
            reason = str(error) or "too slow"
            log.info("vouchers not sent again", worker=checksum(address), reason=reason)
        finally:
            worker.sending = False
