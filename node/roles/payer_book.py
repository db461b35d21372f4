"""The payer's ledger in memory and on disk.  Memory runs ahead; what leaves was saved before."""

from collections.abc import Awaitable
from dataclasses import replace

import structlog

from node.errors import NodeError
from node.protocol import payer_ledger
from node.protocol.fields import Address, Hash, Signed
from node.protocol.payer_state import (
    Effect,
    Event,
    PayerState,
    SaveHalt,
    SaveRedeemed,
    SaveReservation,
    SignedLock,
)
from node.protocol.statements import Lock, Voucher
from node.roles.ports import Clock
from node.roles.stores import Duplicate, PayerStore
from node.units import MS_PER_S

log = structlog.get_logger("payer")


class PayerBook:
    """One payer's state, shared by what signs, what reads the chain and what sends again.

    A step takes effect in memory at once, so that concurrent callers see each other's promises.  A
    save that fails therefore ends all signing until a restart: only the disk knows then.
    """

    def __init__(self, *, account: Address, store: PayerStore, clock: Clock) -> None:
        self.state = PayerState(payer=account)
        self.store = store
        self.vouchers: dict[Hash, Signed[Voucher]] = {}
        """The newest of each tab that is saved."""
        self.locks: dict[tuple[Address, int], Signed[Lock]] = {}
        """By payee and nonce."""
        self.watched: set[Address] = set()
        """Payees for whom a lock was ever signed, or is wanted now."""
        self._clock = clock

    async def load(self) -> None:
        """Take over what was saved."""
        rows = await self.store.load()
        self.vouchers = dict(rows.vouchers)
        self.watched = set(rows.lock_nonces)
        self.locks = {(lock.statement.payee, lock.statement.nonce): lock for lock in rows.locks}
        self.state = replace(
            self.state,
            tabs={tab.id: tab for tab in rows.tabs},
            reservations={each.ref: each for each in rows.reservations},
            locks=tuple(_signed_lock(lock.statement) for lock in rows.locks),
            lock_nonces=rows.lock_nonces,
            halted=rows.halted,
        )

    def step(self, event: Event) -> tuple[Effect, ...]:
        """Take a step of the ledger; what it raises has changed nothing."""
        now_s = self._clock.unix_ms() // MS_PER_S
        self.state, effects = payer_ledger.step(self.state, event, now_s)
        return effects

    async def perform(self, effects: tuple[Effect, ...]) -> None:
        """Do the saves that need no signature."""
        for effect in effects:
            match effect:
                case SaveReservation():
                    await self.saved(self.store.save_reservation(effect.reservation, effect.tab))
                case SaveRedeemed():
                    await self.saved(self.store.save_redeemed(effect.redeemed, effect.locks_ended))
                case SaveHalt():
                    log.error("signing stopped", reason=effect.reason)
                    await self.saved(self.store.save_halt(effect.reason))
                case _:
                    raise AssertionError(effect)

    async def saved(self, save: Awaitable[None]) -> None:
        """Await a save; a failure other than `Duplicate` ends all signing."""
        try:
            await save
        except Duplicate:
            raise
        except NodeError as error:
            self.stop(str(error))
            raise

    def stop(self, reason: str) -> None:
        """Sign nothing more in this process."""
        if not self.state.halted:
            log.error("signing stopped", reason=reason)
            self.state = replace(self.state, halted=reason)


def _signed_lock(lock: Lock) -> SignedLock:
    return SignedLock(
        payee=lock.payee, total_micro=lock.total, nonce=lock.nonce, expiry_s=lock.expiry
    )
