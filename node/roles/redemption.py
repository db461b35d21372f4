"""When it pays to redeem, and which vouchers: a pure decision over what the redeemer has read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.protocol.fields import Address, Hash, Signed
from node.protocol.statements import Split, Voucher
from node.roles.ports import ChainView
from node.units import BPS_PER_WHOLE, MS_PER_S

WEI_PER_COIN: Final = 10**18
EVERY_S: Final = 3600
"""Redeeming because it pays waits this long after the last time: fuller batches cost less."""
GAP_S: Final = 30
"""No two redemptions of our own accord begin closer together."""


class Why(StrEnum):
    """What made a redemption start; the urgent ones first."""

    COMMAND = "asked for"
    EXIT = "a payer leaves"
    ENDING = "a lock or a signer's authority ends"
    EXPOSURE = "unredeemed vouchers reach half of the credit"
    AGE = "vouchers are old"
    PAYS = "gas is a small part of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A tab with more vouchered than was paid."""

    tab: Hash
    voucher: Signed[Voucher]
    splits: tuple[Split, ...]
    paid_micro: int
    """What the escrow paid on it so far, at a final block."""
    signer: Address
    """Who signed the voucher."""
    since_ms: int
    """Unix time from which something on it has been owed."""

    @property
    def payer(self) -> Address:
        """Who owes it."""
        return self.voucher.statement.payer

    @property
    def owed_micro(self) -> int:
        """Vouchered and not paid."""
        return max(0, self.voucher.statement.cumulative - self.paid_micro)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator wants; amounts in micro."""

    credit_micro: int
    """Most that one payer may owe beyond its lock."""
    credit_new_micro: int
    """The same over all payers."""
    gas_share_max_bps: int
    after_s: int
    margin_s: int
    """Time before an exit, a lock's end or a signer's end in which one has to hurry."""
    native_price_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gas:
    """What gas costs, and how much of it a batch takes."""

    price_wei: int
    batch: int
    """Gas of a transaction whatever is in it."""
    record: int
    """Gas of each voucher on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Redeem these now."""

    why: Why
    dues: tuple[Due, ...]
    payable_micro: int


def gas_micro(gas_used: int, *, price_wei: int, native_price_micro: int) -> int:
    """What gas costs in micro, rounded up."""
    return -(-gas_used * price_wei * native_price_micro // WEI_PER_COIN)


def payable(dues: Sequence[Due], views: Mapping[Hash, ChainView]) -> tuple[tuple[Due, int], ...]:
    """What each would bring now, by the payer's funds; those that bring nothing are left out.

    Args:
        dues: All of them.
        views: The chain's view of each due's payer, payee and signer, by tab; may lack some.
    """
    free: dict[Address, int] = {}
    locks: dict[tuple[Address, Address], int] = {}
    caps: dict[tuple[Address, Address], int] = {}
    found = []
    for due in sorted(dues, key=lambda each: (each.since_ms, each.tab)):
        view = views.get(due.tab)
        if view is None:
            continue
        pair = due.payer, due.voucher.statement.payee
        signed = due.payer, due.signer
        lock = locks.setdefault(pair, view.lock.amount_micro)
        free_left = free.setdefault(due.payer, view.account.free_micro)
        cap = caps.setdefault(signed, view.signer_left_micro)
        if view.signer_expiry_s <= view.block_time_s:
            continue
        # The lock first; a signer's cap limits only what it takes out of free funds.
        from_lock = min(due.owed_micro, lock)
        from_free = min(due.owed_micro - from_lock, free_left, cap)
        amount = from_lock + from_free
        if amount <= 0:
            continue
        locks[pair] = lock - from_lock
        free[due.payer] = free_left - from_free
        caps[signed] = cap - from_free
        found.append((due, amount))
    return tuple(found)


def plan(
    dues: Sequence[Due],
    views: Mapping[Hash, ChainView],
    *,
    policy: Policy,
    gas: Gas,
    now_s: int,
    last_s: int,
) -> Plan | None:
    """What to redeem now, if anything.

    Args:
        dues: Every tab with something owed.
        views: The chain's view for each, by tab; may lack some.
        policy: The operator's wishes.
        gas: Costs.
        now_s: Unix time.
        last_s: Unix time of the last redemption; 0 for never.
    """
    record_micro = _cost_micro(gas, policy, records=1) - _cost_micro(gas, policy, records=0)
    # A voucher whose own record costs more than it brings stays until it has grown.
    worth = [(due, brings) for due, brings in payable(dues, views) if brings >= record_micro]
    if not worth or now_s - last_s < GAP_S:
        return None
    reasons = {due.tab: _urgency(due, views[due.tab], policy, now_s) for due, _ in worth}
    for why in (Why.EXIT, Why.ENDING, Why.AGE):
        urgent = [(due, brings) for due, brings in worth if reasons[due.tab] is why]
        for some in (worth, urgent):
            if urgent and _affordable(some, gas, policy, share_max_bps=BPS_PER_WHOLE):
                return _plan(why, some)
    if not _affordable(worth, gas, policy, share_max_bps=policy.gas_share_max_bps):
        return None
    if _exposed(dues, views, policy):
        return _plan(Why.EXPOSURE, worth)
    oldest_s = min(due.since_ms for due, _ in worth) // MS_PER_S
    return _plan(Why.PAYS, worth) if now_s - max(last_s, oldest_s) >= EVERY_S else None


def plan_all(dues: Sequence[Due], views: Mapping[Hash, ChainView]) -> Plan | None:
    """Everything that brings something, because the operator said so."""
    found = payable(dues, views)
    return _plan(Why.COMMAND, found) if found else None


def _plan(why: Why, chosen: Sequence[tuple[Due, int]]) -> Plan:
    return Plan(
        why=why,
        dues=tuple(due for due, _ in chosen),
        payable_micro=sum(brings for _, brings in chosen),
    )


def _cost_micro(gas: Gas, policy: Policy, *, records: int) -> int:
    return gas_micro(
        gas.batch + gas.record * records,
        price_wei=gas.price_wei,
        native_price_micro=policy.native_price_micro,
    )


def _affordable(
    chosen: Sequence[tuple[Due, int]], gas: Gas, policy: Policy, *, share_max_bps: int
) -> bool:
    value_micro = sum(brings for _, brings in chosen)
    cost_micro = _cost_micro(gas, policy, records=len(chosen))
    return cost_micro * BPS_PER_WHOLE <= value_micro * share_max_bps


def _urgency(due: Due, view: ChainView, policy: Policy, now_s: int) -> Why | None:
    """Why this one should not wait until redeeming pays well."""
    if view.account.exit_ready_s != 0:
        return Why.EXIT
    soon_s = max(now_s, view.block_time_s) + policy.margin_s
    lock_ends = view.lock.amount_micro > 0 and view.lock.expiry_s <= soon_s
    if lock_ends or view.signer_expiry_s <= soon_s:
        return Why.ENDING
    return Why.AGE if now_s - due.since_ms // MS_PER_S >= policy.after_s else None


def _exposed(dues: Sequence[Due], views: Mapping[Hash, ChainView], policy: Policy) -> bool:
    """Whether what is neither redeemed nor locked reaches half of a credit.

    At half, so that redeeming is through before clients have to be refused.
    """
    owed: dict[Address, int] = {}
    locks: dict[Address, int] = {}
    for due in dues:
        owed[due.payer] = owed.get(due.payer, 0) + due.owed_micro
        if due.tab in views:
            locks[due.payer] = views[due.tab].lock.amount_micro
    uncovered = [max(0, micro - locks.get(payer, 0)) for payer, micro in owed.items()]
    return (
        2 * max(uncovered, default=0) >= policy.credit_micro
        or 2 * sum(uncovered) >= policy.credit_new_micro
    )
