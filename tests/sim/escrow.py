"""The rules of contracts/src/Escrow.sol in Python: one model for the simulator and all tests.

`tests/sim/test_escrow_model.py` compares it with the contract on Anvil, so that it is no fiction.
Every operation either does all of what the contract does, or raises `Reverted` and changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from node.protocol.fields import ZERO_ADDRESS, Address, Hash
from node.protocol.statements import Lock, LockRelease, Split, Voucher
from node.protocol.tabs import tab_id, tab_of_voucher
from node.units import BPS_PER_WHOLE

DEPOSIT_CAP_MICRO = 2**88 - 1
EXIT_DELAY_S = 24 * 3600


class Reverted(Exception):
    """The contract would revert, with this error of its own."""


@dataclass(frozen=True, slots=True)
class Funds:
    """What one account has in the escrow."""

    free: int = 0
    locked: int = 0
    exit_ready_s: int = 0
    generation: int = 0
    """Counts exits: a lock of an earlier generation holds nothing."""


@dataclass(frozen=True, slots=True)
class LockRow:
    """A lock as stored."""

    amount: int = 0
    nonce: int = 0
    expiry_s: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class SignerRow:
    """A signer's authority."""

    cap: int = 0
    spent: int = 0
    expiry_s: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """What the contract would log: a name, and the arguments in their order."""

    name: str
    args: tuple[bytes | int, ...]


SignerOf = Callable[[Voucher], Address | None]
"""Who signed a voucher; None for nobody."""


@dataclass(slots=True)
class Escrow:
    """The contract's storage, and what the token says it holds."""

    time_s: int = 0
    exit_delay_s: int = EXIT_DELAY_S
    deposit_cap_micro: int = DEPOSIT_CAP_MICRO
    held: int = 0
    """The contract's balance of the token."""
    deposited: int = 0
    """All that was ever paid in."""
    accounts: dict[Address, Funds] = field(default_factory=dict)
    locks: dict[tuple[Address, Address], LockRow] = field(default_factory=dict)
    signers: dict[tuple[Address, Address], SignerRow] = field(default_factory=dict)
    paid: dict[Hash, int] = field(default_factory=dict)
    credits: dict[Address, int] = field(default_factory=dict)
    wallets: dict[Address, int] = field(default_factory=dict)
    """What was ever paid out, by recipient."""
    events: list[Event] = field(default_factory=list)
    """Of the operations since they were last taken away."""

    def copy(self) -> "Escrow":
        """The same state; events are not part of it."""
        return Escrow(
            time_s=self.time_s,
            exit_delay_s=self.exit_delay_s,
            deposit_cap_micro=self.deposit_cap_micro,
            held=self.held,
            deposited=self.deposited,
            accounts=dict(self.accounts),
            locks=dict(self.locks),
            signers=dict(self.signers),
            paid=dict(self.paid),
            credits=dict(self.credits),
            wallets=dict(self.wallets),
        )

    def of(self, account: Address) -> Funds:
        """An account; one that was never seen has nothing."""
        return self.accounts.get(account, Funds())

    def lock_of(self, payer: Address, payee: Address) -> LockRow:
        """A lock as the contract's `lockOf` tells it."""
        row, generation = self.locks.get((payer, payee), LockRow()), self.of(payer).generation
        if row.generation != generation:
            row = LockRow(nonce=row.nonce, generation=generation)
        return replace(row, nonce=max(row.nonce, generation << 32))

    def cap_left(self, account: Address, signer: Address) -> int:
        """What a signer may still take out of an account's free funds."""
        row = self.signers.get((account, signer), SignerRow())
        return max(0, row.cap - row.spent)

    def acts_for(self, account: Address, caller: Address) -> bool:
        """Whether the caller is the account, or a live signer of it."""
        alive = self.signers.get((account, caller), SignerRow()).expiry_s > self.time_s
        return caller == account or alive

    def conserved(self) -> bool:
        """Token balance = free + locked + credits; an account's locked = the sum of its locks."""
        funds = sum(each.free + each.locked for each in self.accounts.values())
        for payer, each in self.accounts.items():
            locks = sum(self.lock_of(p, q).amount for p, q in self.locks if p == payer)
            if locks != each.locked or each.free < 0:
                return False
        if self.held + sum(self.wallets.values()) != self.deposited:
            return False
        return self.held == funds + sum(self.credits.values())

    # ------------------------------------------------------------------------------- operations

    def deposit(self, account: Address, amount: int) -> None:
        """`deposit`, by somebody who has the tokens."""
        holder = self.of(account)
        _require(account != ZERO_ADDRESS, "AddressInvalid")
        _require(amount > 0, "AmountZero")
        _require(not holder.exit_ready_s, "ExitPending")
        room = self.deposit_cap_micro - holder.free - holder.locked
        _require(amount <= room, "DepositCapExceeded")
        self.accounts[account] = replace(holder, free=holder.free + amount)
        self.held += amount
        self.deposited += amount
        self._tell("Deposited", account, account, amount)

    def request_exit(self, caller: Address) -> None:
        """`requestExit`."""
        holder = self.of(caller)
        _require(not holder.exit_ready_s, "ExitPending")
        ready_s = self.time_s + self.exit_delay_s
        self.accounts[caller] = replace(holder, exit_ready_s=ready_s)
        self._tell("ExitRequested", caller, ready_s)

    def cancel_exit(self, caller: Address) -> None:
        """`cancelExit`."""
        holder = self.of(caller)
        _require(bool(holder.exit_ready_s), "ExitNotRequested")
        self.accounts[caller] = replace(holder, exit_ready_s=0)
        self._tell("ExitCancelled", caller)

    def exit(self, caller: Address, to: Address) -> None:
        """`exit`."""
        holder = self.of(caller)
        _require(to != ZERO_ADDRESS, "AddressInvalid")
        _require(bool(holder.exit_ready_s), "ExitNotRequested")
        _require(self.time_s >= holder.exit_ready_s, "ExitNotReady")
        amount, generation = holder.free + holder.locked, holder.generation + 1
        self.accounts[caller] = Funds(generation=generation)
        self._tell("ExitCompleted", caller, to, amount, generation)
        self._pay_out(to, amount)

    def submit_lock(self, lock: Lock, *, signer: Address | None, caller: Address) -> None:
        """`submitLock`; `signer` is who signed it, None for nobody."""
        _require(lock.expiry > self.time_s, "LockExpired")
        now = self.lock_of(lock.payer, lock.payee)
        _require(lock.nonce > now.nonce, "NonceStale")
        live = now.amount != 0 and now.expiry_s > self.time_s
        weaker = lock.total < now.amount or lock.expiry < now.expiry_s
        _require(not (live and weaker) or self.acts_for(lock.payee, caller), "LockWeakened")
        _require(self._may_sign(lock.payer, signer), "SignatureInvalid")
        assert signer is not None
        more = lock.total - now.amount
        if signer != lock.payer and more > 0:
            _require(more <= self.cap_left(lock.payer, signer), "SignerCapExceeded")
        _require(lock.total <= self.of(lock.payer).free + now.amount, "FreeFundsTooLow")
        if signer != lock.payer and more > 0:
            self._count_spent(lock.payer, signer, more)
        self._set_lock(lock.payer, lock.payee, lock.total, lock.nonce, lock.expiry)

    def lower_lock(self, caller: Address, payer: Address, total: int) -> None:
        """`lowerLock`, by the payee."""
        now = self.lock_of(payer, caller)
        _require(total < now.amount, "LockNotLowered")
        self._set_lock(payer, caller, total, now.nonce, now.expiry_s)

    def submit_lock_release(self, release: LockRelease, *, signer: Address | None) -> None:
        """`submitLockRelease`."""
        now = self.lock_of(release.payer, release.payee)
        _require(release.nonce > now.nonce, "NonceStale")
        _require(self._may_sign(release.payee, signer), "SignatureInvalid")
        _require(release.total < now.amount, "LockNotLowered")
        self._set_lock(release.payer, release.payee, release.total, release.nonce, now.expiry_s)

    def expire_lock(self, payer: Address, payee: Address) -> None:
        """`expireLock`."""
        now = self.lock_of(payer, payee)
        _require(now.amount != 0, "AmountZero")
        _require(self.time_s >= now.expiry_s, "LockNotExpired")
        self._set_lock(payer, payee, 0, now.nonce, now.expiry_s)

    def set_signer(self, caller: Address, signer: Address, *, expiry_s: int, cap: int) -> None:
        """`setSigner`."""
        _require(signer != ZERO_ADDRESS and expiry_s > self.time_s, "SignerInvalid")
        _require(cap < 2**96, "SignerInvalid")
        row = self.signers.get((caller, signer), SignerRow())
        weaker = expiry_s < row.expiry_s or cap < row.cap
        _require(not (row.expiry_s > self.time_s and weaker), "SignerWeakened")
        self.signers[caller, signer] = SignerRow(cap=cap, spent=row.spent, expiry_s=expiry_s)
        self._tell("SignerSet", caller, signer, expiry_s, cap)

    def thaw_signer(self, caller: Address, signer: Address) -> None:
        """`thawSigner`."""
        row = self.signers.get((caller, signer), SignerRow())
        _require(row.expiry_s > self.time_s, "SignerUnknown")
        end_s = min(self.time_s + self.exit_delay_s, row.expiry_s)
        self.signers[caller, signer] = replace(row, expiry_s=end_s)
        self._tell("SignerThawed", caller, signer, end_s)

    def redeem(
        self,
        caller: Address,
        vouchers: Sequence[tuple[Voucher, Address | None]],
        *,
        splits: Sequence[Split] = (),
        index: int = 0,
    ) -> int:
        """One group of `redeem`: vouchers of one payee, model and splits, each with its signer.

        Args:
            caller: Who sends the transaction.
            vouchers: None as the signer: nobody's signature.
            splits: Of all of them.
            index: Number of the first in its batch.

        Returns:
            What it brought.
        """
        payee = vouchers[0][0].payee
        draws = not splits or self.acts_for(payee, caller)
        total = 0
        for number, (voucher, signer) in enumerate(vouchers, start=index):
            amount, skipped = self._redeem(voucher, signer, draws)
            if skipped:
                self._tell("VoucherSkipped", voucher.payer, payee, number, skipped)
            total += amount
        if total:
            self._credit_splits(payee, splits, total)
        return total

    def claim(self, caller: Address, to: Address) -> int:
        """`claim`; what it paid out."""
        _require(to != ZERO_ADDRESS, "AddressInvalid")
        amount = self.credits.get(caller, 0)
        _require(amount > 0, "AmountZero")
        self.credits[caller] = 0
        self._tell("Claimed", caller, to, amount)
        self._pay_out(to, amount)
        return amount

    # ---------------------------------------------------------------------------------- internals

    def _redeem(
        self, voucher: Voucher, signer: Address | None, draws_locks: bool
    ) -> tuple[int, int]:
        """What is paid of one voucher, or 0 and the number of the contract's SkipReason."""
        tab = tab_id(tab_of_voucher(voucher))
        before, holder = self.paid.get(tab, 0), self.of(voucher.payer)
        owed = voucher.cumulative - before
        if owed <= 0:
            return 0, 1
        lock = self.lock_of(voucher.payer, voucher.payee)
        if lock.amount and not draws_locks:
            return 0, 6
        from_lock = min(owed, lock.amount)
        from_free = min(owed - from_lock, holder.free)
        if from_lock + from_free == 0:
            return 0, 2
        if not self._may_sign(voucher.payer, signer):
            return 0, self._why_not(voucher.payer, signer)
        assert signer is not None
        if signer != voucher.payer and from_free:
            from_free = min(from_free, self.cap_left(voucher.payer, signer))
            if from_lock + from_free == 0:
                return 0, 5
            self._count_spent(voucher.payer, signer, from_free)
        self._draw(voucher, tab, from_lock, from_free)
        return from_lock + from_free, 0

    def _why_not(self, account: Address, signer: Address | None) -> int:
        known = signer is not None and (account, signer) in self.signers
        return 4 if known else 3

    def _draw(self, voucher: Voucher, tab: Hash, from_lock: int, from_free: int) -> None:
        payer, payee = voucher.payer, voucher.payee
        holder = self.of(payer)
        if from_lock:
            row = self.locks[payer, payee]
            self.locks[payer, payee] = replace(row, amount=row.amount - from_lock)
        self.accounts[payer] = replace(
            holder, free=holder.free - from_free, locked=holder.locked - from_lock
        )
        amount = from_lock + from_free
        paid = self.paid[tab] = self.paid.get(tab, 0) + amount
        told = (payer, payee, tab, amount, from_lock, paid, voucher.receipts)
        self._tell("VoucherRedeemed", *told)

    def _credit_splits(self, payee: Address, splits: Sequence[Split], total: int) -> None:
        rest = total
        for split in splits:
            share = total * split.bps // BPS_PER_WHOLE
            if share:
                rest -= share
                self._credit(split.payee, payee, share)
        self._credit(payee, payee, rest)

    def _credit(self, account: Address, payee: Address, amount: int) -> None:
        self.credits[account] = self.credits.get(account, 0) + amount
        self._tell("Credited", account, payee, amount)

    def _may_sign(self, account: Address, signer: Address | None) -> bool:
        if signer is None:
            return False
        row = self.signers.get((account, signer), SignerRow())
        return signer == account or row.expiry_s > self.time_s

    def _count_spent(self, account: Address, signer: Address, amount: int) -> None:
        row = self.signers[account, signer]
        self.signers[account, signer] = replace(row, spent=row.spent + amount)
        self._tell("SignerSpent", account, signer, amount, row.spent + amount)

    def _set_lock(
        self, payer: Address, payee: Address, total: int, nonce: int, expiry_s: int
    ) -> None:
        holder, amount = self.of(payer), self.lock_of(payer, payee).amount
        reach = holder.free + amount
        _require(total <= reach, "FreeFundsTooLow")
        self.accounts[payer] = replace(
            holder, free=reach - total, locked=holder.locked - amount + total
        )
        self.locks[payer, payee] = LockRow(
            amount=total, nonce=nonce, expiry_s=expiry_s, generation=holder.generation
        )
        self._tell("LockUpdated", payer, payee, total, nonce, expiry_s)

    def _pay_out(self, to: Address, amount: int) -> None:
        self.held -= amount
        self.wallets[to] = self.wallets.get(to, 0) + amount

    def _tell(self, name: str, *args: bytes | int) -> None:
        self.events.append(Event(name, args))


def _require(holds: bool, error: str) -> None:
    if not holds:
        raise Reverted(error)
