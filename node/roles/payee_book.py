"""The payee's ledger in memory and on disk.  Memory runs ahead; what pays was saved before."""

from collections.abc import Awaitable, Mapping
from dataclasses import replace

import structlog

from node.errors import CorruptState, NodeError
from node.protocol import payee_ledger
from node.protocol.fields import Address, Hash, Signed
from node.protocol.payee_state import (
    Effect,
    Event,
    Now,
    PaidSeen,
    PayeeRules,
    PayeeState,
    PayeeTab,
    SaveBest,
    SaveRedeemed,
    SaveTab,
    SaveVoucher,
)
from node.protocol.statements import Lock, Split, Voucher
from node.roles.ports import Clock
from node.roles.stores import PayeeStore, TabRow
from node.units import MS_PER_S

log = structlog.get_logger("payee")


class PayeeBook:
    """One payee's state, shared by what takes vouchers and what reads the chain."""

    def __init__(self, *, rules: PayeeRules, store: PayeeStore, clock: Clock) -> None:
        self.state = PayeeState(rules=rules)
        self.store = store
        self.rows: dict[Hash, TabRow] = {}
        """Tabs by id, as they are once every save under way is done."""
        self.held: dict[Hash, Signed[Voucher]] = {}
        """By tab: the voucher that is saved with all those before it."""
        self.locks: dict[Address, Signed[Lock]] = {}
        """By payer: to be submitted."""
        self._clock = clock
        self._chain_ahead_s = 0.0
        """Unix seconds of the chain's clock minus our monotonic one, at least."""
        self._halted = ""

    @property
    def halted(self) -> str:
        """Why nothing is taken any more; empty while all is well."""
        return self._halted

    def now(self) -> Now:
        """Both clocks.  Exits, locks and signers end by the chain's: ours may be behind it."""
        monotonic_s = self._clock.monotonic_s()
        chain_s = int(self._chain_ahead_s + monotonic_s)
        unix_s = max(self._clock.unix_ms() // MS_PER_S, chain_s)
        return Now(unix_s=unix_s, monotonic_s=monotonic_s)

    def block_seen(self, time_s: int, *, seen_s: float) -> None:
        """A block was read.

        Args:
            time_s: What it says, Unix seconds.
            seen_s: When, monotonic.
        """
        # The highest: a block that is read again later is not a clock that has stood still.
        self._chain_ahead_s = max(self._chain_ahead_s, time_s - seen_s)

    async def load(self) -> None:
        """Take over what was saved.  Nothing that ran before a restart runs after it."""
        rows, now_s = await self.store.load(), self._clock.monotonic_s()
        self.rows = {row.tab.id: row for row in rows.tabs}
        self.held = {row.tab.id: row.held for row in rows.tabs if row.held is not None}
        self.locks = {lock.statement.payer: lock for lock in rows.locks}
        self.state = payee_ledger.restore(
            self.state.rules,
            tabs=[row.tab for row in rows.tabs],
            segments=[replace(segment, ended_s=now_s) for segment in rows.segments],
            advances=rows.advances,
        )

    def step(self, event: Event) -> tuple[Effect, ...]:
        """Take a step of the ledger; what it raises has changed nothing.

        Raises:
            CorruptState: The disk failed before: memory is ahead of it.
        """
        if self._halted:
            raise CorruptState(f"nothing is taken any more: {self._halted}")
        self.state, effects = payee_ledger.step(self.state, event, self.now())
        return effects

    async def save_tab(self, effect: SaveTab, splits: tuple[Split, ...]) -> None:
        """Save a tab that is new here."""
        row = self.rows[effect.tab.id] = TabRow(tab=effect.tab, splits=splits)
        await self.saved(self.store.save_tab(row))

    async def save_voucher(self, effect: SaveVoucher | SaveBest, voucher: Signed[Voucher]) -> None:
        """Save a voucher; from then on it is what is redeemed, if it is the highest."""
        tab = effect.tab
        row = self._row(tab, held=isinstance(effect, SaveVoucher), voucher=voucher)
        if isinstance(effect, SaveVoucher):
            save = self.store.save_voucher(row, segments=effect.segments, advances=effect.advances)
        else:
            save = self.store.save_tab(row)
        await self.saved(save)
        if isinstance(effect, SaveVoucher):
            self._count_held(tab.id, voucher)

    async def redeemed(self, paid: Mapping[Hash, int]) -> None:
        """Take over what the escrow paid, at a finalised block."""
        for effect in self.step(PaidSeen(paid=paid)):
            assert isinstance(effect, SaveRedeemed)
            await self.saved(self.store.save_redeemed(effect.redeemed))
            for tab in effect.redeemed:
                self._count_redeemed(tab)

    async def saved(self, save: Awaitable[None]) -> None:
        """Await a save; a failure ends everything, until a restart."""
        try:
            await save
        except NodeError as error:
            if not self._halted:
                log.error("vouchers are no longer taken", reason=str(error))
            self._halted = str(error)
            raise

    def _row(self, tab: PayeeTab, *, held: bool, voucher: Signed[Voucher]) -> TabRow:
        """The tab's row with a voucher that was accepted (`held`) or is only the highest seen."""
        before = self.rows[tab.id]
        best = before.best
        if best is None or voucher.statement.cumulative >= best.statement.cumulative:
            best = voucher
        row = TabRow(
            tab=tab,
            splits=before.splits,
            held=voucher if held else before.held,
            best=best,
            owed_since_ms=before.owed_since_ms or self._clock.unix_ms(),
        )
        self.rows[tab.id] = row
        return row

    def _count_held(self, tab: Hash, voucher: Signed[Voucher]) -> None:
        """Who waited for one commit wakes in any order."""
        before = self.held.get(tab)
        if before is None or before.statement.cumulative < voucher.statement.cumulative:
            self.held[tab] = voucher

    def _count_redeemed(self, tab: Hash) -> None:
        row, now = self.rows[tab], self.state.tabs[tab]
        since = row.owed_since_ms if now.owed_micro else 0
        self.rows[tab] = replace(row, tab=now, owed_since_ms=since)
