"""Planted bugs: what the simulator has to find.  Each is one save that is not what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import trio

from node.adapters.store.payee import SqlitePayeeStore
from node.adapters.store.payer import SqlitePayerStore
from node.adapters.store.worker import SqliteWorkerStore
from node.adapters.store.writer import _Job
from node.protocol.frames import VoucherFrame
from node.protocol.payee_state import Segment, SegmentKey
from node.protocol.payer_state import VoucherDraft
from node.roles.stores import Stores, TabRow
from tests.sim.disk import DiskWriter


class ForgetfulPayer(SqlitePayerStore):
    """Saves of what a voucher pays only that it is due: after a crash that is paid again."""

    async def save_vouchers(self, vouchers: Sequence[tuple[VoucherDraft, VoucherFrame]]) -> None:
        await super().save_vouchers([(_unpaid(draft), frame) for draft, frame in vouchers])


def _unpaid(draft: VoucherDraft) -> VoucherDraft:
    return replace(draft, reservations=tuple(replace(r, paid_micro=0) for r in draft.reservations))


class DoublePayment(DiskWriter):
    """See `ForgetfulPayer`."""

    def stores(self) -> Stores:
        return replace(super().stores(), payer=ForgetfulPayer(self))


class HastyPayee(SqlitePayeeStore):
    """Counts a voucher before it is on the disk."""

    async def save_voucher(
        self, row: TabRow, *, segments: Sequence[Segment], advances: Mapping[SegmentKey, int]
    ) -> None:
        assert isinstance(self._writer, LostVoucher)
        self._writer.hasty = True
        await super().save_voucher(row, segments=segments, advances=advances)


class LostVoucher(DiskWriter):
    """Answers that a voucher is saved, and writes it later: a crash in between loses it."""

    hasty = False

    async def _submit(self, work: object, *, writes: bool) -> object:
        if not self.hasty:
            return await super()._submit(work, writes=writes)  # type: ignore[arg-type]
        self.hasty = False
        token = trio.lowlevel.current_trio_token()
        self._jobs.append(_Job(work=work, writes=True, token=token))  # type: ignore[arg-type]
        self._asked.set()
        await trio.lowlevel.checkpoint()
        return None

    def stores(self) -> Stores:
        return replace(super().stores(), payee=HastyPayee(self))


class ForgetfulWorker(SqliteWorkerStore):
    """Does not save which serials it gave out: after a restart it signs other terms under them."""

    async def next_serials(self, count: int, *, at_least: int = 0) -> int:
        await trio.lowlevel.checkpoint()
        return 1


class DoubleSignature(DiskWriter):
    """See `ForgetfulWorker`."""

    def stores(self) -> Stores:
        return replace(super().stores(), worker=ForgetfulWorker(self))


PLANTS: dict[str, type[DiskWriter]] = {
    "double-payment": DoublePayment,
    "lost-voucher": LostVoucher,
    "double-signature": DoubleSignature,
}
