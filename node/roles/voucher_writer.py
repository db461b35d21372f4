"""Signs and saves vouchers: what falls due on a tab while one is written goes into the next."""

import structlog
import trio

from node.errors import CorruptState, NodeError, Unavailable, WalletError
from node.protocol import payer_ledger, signing
from node.protocol.fields import Hash
from node.protocol.frames import VoucherFrame
from node.protocol.payer_state import Flush, SaveVoucher, SegmentRef, VoucherDraft
from node.roles.outbox import Outbox
from node.roles.payer_book import PayerBook
from node.roles.stores import Duplicate

log = structlog.get_logger("payer")


class VoucherWriter:
    """The only place where vouchers are signed."""

    def __init__(
        self, book: PayerBook, outbox: Outbox, *, domain: signing.Domain, key: bytes
    ) -> None:
        self._book = book
        self._outbox = outbox
        self._domain = domain
        self._key = key
        self._due = trio.Event()
        self._rounds: dict[Hash, _Round] = {}
        """Who waits for the next voucher of a tab."""
        self._saving: dict[Hash, _Round] = {}
        """Who waits for the one that is being saved."""
        self._stopped = False

    async def run(self, outbox_nursery: trio.Nursery) -> None:
        """Write until cancelled.

        Raises:
            StoreFailed, CorruptState: A save failed; nothing unsaved was sent.
        """
        self._due.set()  # what a crash left due
        try:
            while True:
                await self._due.wait()
                self._due = trio.Event()
                await self._write_all(outbox_nursery)
        finally:
            self._stopped = True
            self._finish_all(Unavailable("this node is stopping"))

    async def wait_covered(self, ref: SegmentRef, tab: Hash) -> VoucherFrame | None:
        """Return once vouchers cover what is due for a segment now.

        Returns:
            The frame that does; None if one that was saved before did.

        Raises:
            WalletError, CorruptState, StoreFailed: There is none, and nothing was sent.
        """
        frame = None
        found = self._book.state.reservations.get(ref)
        target_micro = found.due_micro if found else 0
        while found is not None and found.paid_micro < target_micro:
            if self._stopped:
                raise Unavailable("this node is stopping")
            waiting = self._rounds.setdefault(tab, _Round())
            self._due.set()
            frame = await waiting.wait()
            found = self._book.state.reservations.get(ref)
        if frame is None and tab in self._saving:
            return await self._saving[tab].wait()
        return frame

    async def flush(self) -> None:
        """Return once a voucher for all that is due now is saved, or there can't be one."""
        due = payer_ledger.due_tabs(self._book.state)
        waiting = [self._rounds.setdefault(tab, _Round()) for tab in due]
        self._due.set()
        for each in (*waiting, *self._saving.values()):
            try:
                await each.wait()
            except NodeError as error:
                log.warning("not all is vouchered", reason=str(error))

    async def _write_all(self, outbox_nursery: trio.Nursery) -> None:
        """One voucher for each tab on which something is due, all in one write."""
        due = payer_ledger.due_tabs(self._book.state)
        signed = [(draft, self._sign(draft)) for tab in due for draft in self._drafts(tab)]
        if not signed:
            return
        for draft, frame in signed:
            self._saving[draft.tab.id] = self._rounds.pop(draft.tab.id, _Round(frame))
            self._saving[draft.tab.id].frame = frame
        try:
            await self._book.saved(self._book.store.save_vouchers(signed))
        except Duplicate as error:
            # There is one with this cumulative: another process signs from this home.
            self._book.stop(str(error))
            self._finish_all(CorruptState(str(error)))
            raise CorruptState(str(error)) from error
        except NodeError as error:
            self._finish_all(error)
            raise
        for draft, frame in signed:
            self._book.vouchers[draft.tab.id] = frame.voucher
            self._outbox.post(draft.tab.worker, (frame,), outbox_nursery)
            self._saving.pop(draft.tab.id).finish(None)
        if payer_ledger.due_tabs(self._book.state):
            self._due.set()  # more than one voucher holds, or more came meanwhile

    def _drafts(self, tab: Hash) -> list[VoucherDraft]:
        try:
            effects = self._book.step(Flush(tab_id=tab))
        except (WalletError, CorruptState) as error:
            log.error("no voucher", tab=tab.hex(), reason=str(error))
            self._rounds.pop(tab, _Round()).finish(error)
            return []
        return [effect.draft for effect in effects if isinstance(effect, SaveVoucher)]

    def _sign(self, draft: VoucherDraft) -> VoucherFrame:
        return VoucherFrame(
            voucher=signing.sign(draft.voucher, self._domain, self._key),
            rises=draft.rises,
            receipts=draft.receipts,
        )

    def _finish_all(self, error: NodeError) -> None:
        for waiting in (*self._saving.values(), *self._rounds.values()):
            waiting.finish(error)
        self._saving.clear()
        self._rounds.clear()


class _Round:
    """Callers that wait for the same voucher."""

    def __init__(self, frame: VoucherFrame | None = None) -> None:
        self.frame = frame
        self._done = trio.Event()
        self._error: NodeError | None = None

    def finish(self, error: NodeError | None) -> None:
        """Let them go on, or raise."""
        self._error = error
        self._done.set()

    async def wait(self) -> VoucherFrame | None:
        """The frame, once it is saved."""
        await self._done.wait()
        if self._error is not None:
            raise type(self._error)(str(self._error), hint=self._error.hint)
        return self.frame
