"""Turns vouchers into money: watches what is owed, and redeems when it pays or is urgent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
import trio

from node.config import ChainConfig, WorkerConfig
from node.errors import Unavailable, WalletError
from node.protocol.fields import Address, Hash, Signed
from node.protocol.statements import Lock
from node.roles.ports import Account, Chain, ChainView, Clock, LockState
from node.roles.redemption import EVERY_S, Due, Gas, Plan, Policy, gas_micro, plan, plan_all
from node.units import BPS_PER_WHOLE, MS_PER_S

PASS_S: Final = 5.0
"""Between looks at what is owed."""
LOCK_GAS: Final = 100_000
"""Of bringing a lock to the chain (scripts/bench-gas)."""

_log = structlog.get_logger(__name__)


class Claims(Protocol):
    """What the payee knows of vouchers: `roles.payee.Payee`."""

    def vouchers_to_redeem(self) -> Sequence[Due]:
        """Every tab with more vouchered than was paid."""
        ...

    async def redeemed(self, paid: Mapping[Hash, int]) -> None:
        """Save what the escrow has paid on these tabs, in all, at a final block; never falls."""
        ...

    def locks_to_submit(self) -> Sequence[Signed[Lock]]:
        """Locks that payers signed for us and that the chain does not show yet."""
        ...

    async def drop_lock(self, *, payer: Address, nonce: int) -> None:
        """The chain has the lock, or will never take it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A voucher that the escrow did not pay."""

    payer: Address
    payee: Address
    index: int
    """Its number in the batch."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """A final transaction that redeemed vouchers."""

    tx_hash: Hash
    block: int
    gas_used: int
    fee_wei: int
    vouchers: int
    """How many were paid."""
    amount_micro: int
    paid: Mapping[Hash, int]
    """Micro that each tab was paid so far, in all."""
    skipped: tuple[Skip, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A final transaction that paid out our credit."""

    tx_hash: Hash
    block: int
    to: Address
    amount_micro: int
    fee_wei: int


class Settlement(Protocol):
    """The escrow, written to; one transaction at a time, each seen through to finality."""

    @property
    def problem(self) -> str:
        """Why a transaction in flight does not advance; empty when nothing is wrong."""
        ...

    async def batches(self, dues: Sequence[Due]) -> tuple[tuple[Due, ...], ...]:
        """The dues in as few transactions as a block leaves room for.

        Raises:
            Unavailable: No RPC answered.
        """
        ...

    async def gas(self) -> Gas:
        """What gas costs now.

        Raises:
            Unavailable: No RPC answered.
        """
        ...

    async def redeem(self, batch: Sequence[Due]) -> Redemption:
        """One transaction for one of `batches`.

        Raises:
            WalletError: Refused, reverted, or no coins for gas.
            Unavailable: Nothing was signed.
        """
        ...

    async def submit_lock(self, lock: Signed[Lock]) -> None:
        """Have the escrow set a lock; raises as `redeem`."""
        ...

    async def claim(self, to: Address) -> Claimed | None:
        """Pay our credit out, if there is any; raises as `redeem`."""
        ...

    async def settle(self) -> Redemption | None:
        """See through what an earlier process left in flight; tells if it was a redemption.

        Raises:
            WalletError: It ended without effect.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemReport:
    """What one redemption did."""

    why: str
    """Empty when there was nothing to redeem."""
    transactions: tuple[Redemption, ...]
    claimed: Claimed | None
    left_micro: int
    """Still owed: payers without funds, skipped vouchers."""

    @property
    def amount_micro(self) -> int:
        """Redeemed in all."""
        return sum(each.amount_micro for each in self.transactions)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemerStatus:
    """For `node status`."""

    owed_micro: int
    tabs: int
    oldest_s: int
    """Age of the oldest unredeemed voucher; 0 when there is none."""
    redeemed_micro: int
    """By this process."""
    transactions: int
    fee_wei: int
    """What they cost, in the chain's coin."""
    last_s: int
    """Unix time of the last redemption; 0 for never."""
    problem: str
    """Why nothing is redeemed although it should be; empty when all is well."""


class Redeemer:
    """One per selling node."""

    def __init__(
        self,
        *,
        claims: Claims,
        chain: Chain,
        settlement: Settlement,
        clock: Clock,
        chain_config: ChainConfig,
        worker_config: WorkerConfig,
    ) -> None:
        self._claims = claims
        self._chain = chain
        self._settlement = settlement
        self._clock = clock
        self._policy = Policy(
            credit_micro=worker_config.credit_micro,
            credit_new_micro=worker_config.credit_new_micro,
            gas_share_max_bps=chain_config.redeem_gas_share_max_bps,
            after_s=chain_config.redeem_after_s,
            margin_s=chain_config.exit_margin_s,
            native_price_micro=chain_config.native_price_micro,
        )
        self._one = trio.Lock()
        self._redeemed_micro = 0
        self._transactions = 0
        self._fee_wei = 0
        self._last_s = 0
        self._problem = ""
        self._failing = False
        """The last redemption failed: `problem` says why until one has been tried again."""
        self._lock_sent_s: dict[Address, int] = {}
        """When a payer's last lock was brought to the chain; of the last hour only."""
        self._refused: dict[Hash, _State] = {}
        """What stood behind vouchers when the escrow skipped them: no gas twice for the same."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Redeem until cancelled.  Trouble with the chain is waited out, and shows in `status`."""
        task_status.started()
        recovered = False
        while True:
            try:
                async with self._one:
                    if not recovered:
                        await self._recover()
                        recovered = True
                    await self._pass()
                if not self._failing:
                    self._trouble("")
            except (Unavailable, WalletError) as error:
                self._trouble(str(error))
            await trio.sleep(PASS_S)

    async def redeem_now(self, *, claim_to: Address | None = None) -> RedeemReport:
        """Redeem all that brings something, whatever gas costs.

        Args:
            claim_to: Then pay our whole credit out to this address; None leaves it in the escrow.

        Raises:
            WalletError: Refused, reverted, or no coins for gas.
            Unavailable: No RPC answered.
        """
        async with self._one:
            await self._recover()
            dues = self._claims.vouchers_to_redeem()
            chosen = plan_all(dues, await self._views(dues))
            done = await self._redeem(chosen) if chosen else ()
            claimed = None
            if claim_to is not None:
                claimed = await self._settlement.claim(claim_to)
        return RedeemReport(
            why=chosen.why if chosen else "",
            transactions=done,
            claimed=claimed,
            left_micro=sum(due.owed_micro for due in self._claims.vouchers_to_redeem()),
        )

    def status(self) -> RedeemerStatus:
        """Figures of now."""
        dues = self._claims.vouchers_to_redeem()
        now_ms = self._clock.unix_ms()
        return RedeemerStatus(
            owed_micro=sum(due.owed_micro for due in dues),
            tabs=len(dues),
            oldest_s=max((now_ms - due.since_ms for due in dues), default=0) // MS_PER_S,
            redeemed_micro=self._redeemed_micro,
            transactions=self._transactions,
            fee_wei=self._fee_wei,
            last_s=self._last_s,
            problem=self._settlement.problem or self._problem,
        )

    async def _recover(self) -> None:
        """Finish what a crash interrupted, and believe the chain about what was paid."""
        try:
            left = await self._settlement.settle()
        except WalletError as error:
            _log.warning("an earlier transaction had no effect", reason=str(error))
        else:
            if left is not None:
                await self._record(left)
        tabs = [due.tab for due in self._claims.vouchers_to_redeem()]
        paid = await self._chain.tabs_paid(tabs)
        await self._claims.redeemed(dict(zip(tabs, paid, strict=True)))

    async def _pass(self) -> None:
        for lock in self._claims.locks_to_submit():
            await self._submit(lock)
        dues = self._claims.vouchers_to_redeem()
        if not dues:
            self._failing = False
            return
        chosen = plan(
            dues,
            self._unrefused(dues, await self._views(dues)),
            policy=self._policy,
            gas=await self._settlement.gas(),
            now_s=self._clock.unix_ms() // MS_PER_S,
            last_s=self._last_s,
        )
        if chosen is not None:
            await self._redeem(chosen)

    async def _views(self, dues: Sequence[Due]) -> dict[Hash, ChainView]:
        found: dict[tuple[Address, Address, Address], ChainView] = {}
        for due in dues:
            payee = due.voucher.statement.payee
            key = (due.payer, payee, due.signer)
            if key not in found:
                found[key] = await self._chain.view(payer=due.payer, payee=payee, signer=due.signer)
        return {due.tab: found[due.payer, due.voucher.statement.payee, due.signer] for due in dues}

    async def _redeem(self, chosen: Plan) -> tuple[Redemption, ...]:
        batches = await self._settlement.batches(chosen.dues)
        _log.info("redeeming", why=chosen.why, vouchers=len(chosen.dues), batches=len(batches))
        # Also when it fails: what is wrong with it now is still wrong in the next pass.
        self._last_s = self._clock.unix_ms() // MS_PER_S
        self._failing = True
        done = []
        for batch in batches:
            redemption = await self._settlement.redeem(batch)
            await self._record(redemption)
            unpaid = [due for due in batch if due.tab not in redemption.paid]
            views = await self._views(unpaid)
            self._refused.update({due.tab: _state(due, views[due.tab]) for due in unpaid})
            done.append(redemption)
        self._failing = False
        return tuple(done)

    def _unrefused(
        self, dues: Sequence[Due], views: Mapping[Hash, ChainView]
    ) -> dict[Hash, ChainView]:
        """Views of the dues, without those that the escrow refused as they still are."""
        self._refused = {tab: state for tab, state in self._refused.items() if tab in views}
        return {
            due.tab: views[due.tab]
            for due in dues
            if self._refused.get(due.tab) != _state(due, views[due.tab])
        }

    async def _record(self, redemption: Redemption) -> None:
        await self._claims.redeemed(redemption.paid)
        self._redeemed_micro += redemption.amount_micro
        self._transactions += 1
        self._fee_wei += redemption.fee_wei
        _log.info(
            "redeemed",
            micro=redemption.amount_micro,
            vouchers=redemption.vouchers,
            skipped=len(redemption.skipped),
            transaction="0x" + redemption.tx_hash.hex(),
        )

    async def _submit(self, signed: Signed[Lock]) -> None:
        """Bring a payer's lock to the chain; one that it will never take is dropped."""
        lock = signed.statement
        view = await self._chain.view(payer=lock.payer, payee=lock.payee, signer=lock.payer)
        now_s = max(view.block_time_s, self._clock.unix_ms() // MS_PER_S)
        if view.lock.nonce < lock.nonce and lock.expiry > now_s:
            if not await self._lock_pays(lock, view, now_s):
                return
            self._lock_sent_s[lock.payer] = now_s
            try:
                await self._settlement.submit_lock(signed)
            except WalletError as error:
                _log.warning("a lock was refused", payer=lock.payer.hex(), reason=str(error))
        await self._claims.drop_lock(payer=lock.payer, nonce=lock.nonce)

    async def _lock_pays(self, lock: Lock, view: ChainView, now_s: int) -> bool:
        """Whether gas is a small part of what a lock adds; any other one has to wait its turn.

        Else a payer could have us spend gas on lock after lock, each a micro larger.
        """
        self._lock_sent_s = {
            payer: at_s for payer, at_s in self._lock_sent_s.items() if now_s - at_s < EVERY_S
        }
        if lock.payer not in self._lock_sent_s:
            return True
        gas = await self._settlement.gas()
        cost_micro = gas_micro(
            LOCK_GAS,
            price_wei=gas.price_wei,
            native_price_micro=self._policy.native_price_micro,
        )
        adds_micro = max(0, lock.total - view.lock.amount_micro)
        return cost_micro * BPS_PER_WHOLE <= adds_micro * self._policy.gas_share_max_bps

    def _trouble(self, why: str) -> None:
        if why and why != self._problem:
            _log.warning("redeeming is held up", reason=why)
        self._problem = why


_State = tuple[bytes, Account, LockState, int]


def _state(due: Due, view: ChainView) -> _State:
    """All that decides whether the escrow pays a voucher."""
    return due.voucher.signature, view.account, view.lock, view.signer_left_micro
