"""What a payer promised, and whether its deposit covers one more promise: a pure state machine.

A segment's cap is *reserved* before its award leaves; vouchers turn the reservation into what is
*owed*.  Per payee the payer may lose at most its claim: the larger of its lock and what is owed or
reserved.  The claims together never exceed the deposit, as last read at a finalised block.  A
voucher never goes back, and there is never a second one with the same cumulative: its content is
final.  design.md, "Who may lose what"; why claims add up like this: IEscrow.sol, "Who is paid".
"""

from dataclasses import replace
from typing import assert_never

from node.errors import CorruptState, Unavailable, WalletError
from node.protocol import limits, receipts_tree
from node.protocol.fields import Address, Hash
from node.protocol.frames import Rise
from node.protocol.payer_state import (
    RESERVATIONS_MAX,
    Accept,
    Event,
    Flush,
    Funds,
    FundsSeen,
    HeldByPayee,
    MakeLock,
    PayerState,
    PayerTab,
    Release,
    Reservation,
    Reserve,
    SaveHalt,
    SaveLock,
    SaveRedeemed,
    SaveReservation,
    SaveVoucher,
    SendVoucher,
    SignedLock,
    Step,
    TabTaken,
    VoucherDraft,
)
from node.protocol.statements import Voucher
from node.units import MICRO_MAX, format_micro

WAY_OUT = (
    "put the newest copy of the home back; if it is lost, node wallet withdraw takes the deposit"
    " out, and node init makes a new home"
)


def step(state: PayerState, event: Event, now_s: int) -> Step:
    """The next state, and what to do, in order: saves come before sends.

    Raises:
        WalletError: The promise would exceed the deposit, a cap or a limit; nothing changed.
        Unavailable: The chain was never read, so nothing is known of the deposit.
        CorruptState: Signing has stopped; `state.halted` says why.
    """
    match event:
        case Reserve():
            return _reserve(_alive(state), event, now_s)
        case Accept():
            return _accept(_alive(state), event)
        case Release():
            return _release(state, event)
        case Flush():
            return _flush(_alive(state), event.tab_id)
        case MakeLock():
            return _make_lock(_alive(state), event, now_s)
        case FundsSeen():
            return _funds_seen(state, event)
        case HeldByPayee():
            return _held_by_payee(state, event)
        case _:
            assert_never(event)


def promised_micro(state: PayerState, *, reserved: bool = True) -> int:
    """The claims of all payees on the deposit together.

    Args:
        state: Any.
        reserved: With what is reserved and not yet vouchered.
    """
    owed: dict[Address, int] = {}
    for tab in state.tabs.values():
        owed[tab.tab.payee] = owed.get(tab.tab.payee, 0) + tab.owed_micro
    if reserved:
        for each in state.reservations.values():
            payee = state.tabs[each.tab].tab.payee
            owed[payee] = owed.get(payee, 0) + each.claim_micro
    seen = state.funds.locks if state.funds else {}
    payees = owed.keys() | seen.keys() | {lock.payee for lock in state.locks}
    claims = sum(_claim(state, payee, owed.get(payee, 0)) for payee in payees)
    return claims + _locked_elsewhere(state)


def owed_micro(state: PayerState, payee: Address) -> int:
    """What a payee may come to claim for segments: vouchered and not redeemed, or reserved."""
    owed = sum(tab.owed_micro for tab in state.tabs.values() if tab.tab.payee == payee)
    reserved = (r for r in state.reservations.values() if state.tabs[r.tab].tab.payee == payee)
    return owed + sum(each.claim_micro for each in reserved)


def available_micro(state: PayerState) -> int:
    """What may still be promised; negative when the deposit shrank under promises."""
    deposit = state.funds.deposit_micro if state.funds else 0
    return deposit - promised_micro(state)


def due_tabs(state: PayerState) -> tuple[Hash, ...]:
    """Tabs for which a voucher could be signed now."""
    rising = (r.tab for r in state.reservations.values() if r.due_micro > r.paid_micro)
    return tuple(dict.fromkeys(rising))


def _claim(state: PayerState, payee: Address, owed_micro: int) -> int:
    """What a payee may take from the deposit.

    A lock on chain is drawn first, so it and what is owed overlap.  One that is only signed does
    not overlap: the payee may redeem from free funds, and submit the lock afterwards.
    """
    seen = state.funds.locks.get(payee) if state.funds else None
    signed = max((lock.total_micro for lock in state.locks if lock.payee == payee), default=0)
    return max(seen.amount_micro if seen else 0, owed_micro + signed)


def _locked_elsewhere(state: PayerState) -> int:
    if state.funds is None:
        return 0
    ours = sum(lock.amount_micro for lock in state.funds.locks.values())
    return max(0, state.funds.locked_micro - ours)


def _alive(state: PayerState) -> PayerState:
    if state.halted:
        raise CorruptState(f"signing has stopped: {state.halted}", hint=WAY_OUT)
    return state


def _reserve(state: PayerState, event: Reserve, now_s: int) -> Step:
    ref = (event.job, event.attempt)
    if ref in state.reservations:
        raise WalletError("this attempt of the job has a reservation already")
    if len(state.reservations) >= RESERVATIONS_MAX:
        raise Unavailable("too many jobs at once")
    if not 0 <= event.cap_micro <= MICRO_MAX:
        raise WalletError("a cap out of range")
    tab = state.tabs.get(event.tab_id)
    if tab is None:
        tab = PayerTab(id=event.tab_id, tab=event.tab, worker=event.worker)
    elif tab.worker != event.worker:
        # Vouchers of one tab are one sequence; two nodes would each see half of it.
        raise TabTaken("another worker keeps this payee's tab")
    reservation = Reservation(
        job=event.job,
        attempt=event.attempt,
        tab=tab.id,
        cap_micro=event.cap_micro,
        hold_micro=event.hold_micro,
    )
    after = replace(
        state,
        tabs={**state.tabs, tab.id: tab},
        reservations={**state.reservations, ref: reservation},
    )
    _check_covered(after, now_s)
    return after, (SaveReservation(reservation=reservation, tab=tab, new=True),)


def _check_covered(state: PayerState, now_s: int) -> None:
    """Whether the deposit covers every claim, and the signer may spend that much."""
    funds = state.funds
    if funds is None:
        raise Unavailable("the chain has not answered yet, so the deposit is not known")
    if funds.exit_ready_s:
        raise WalletError(
            "an exit from the escrow is pending", hint="node wallet withdraw --cancel"
        )
    if funds.signer_expiry_s <= now_s:
        raise WalletError("this node's key may not sign for the paying account")
    over = promised_micro(state) - funds.deposit_micro
    if over > 0:
        raise WalletError(
            f"the deposit is {format_micro(over)} short of this job's cap",
            hint="node wallet deposit",
        )
    if _spend_micro(state) > funds.signer_left_micro:
        raise WalletError("the paying account's limit for this node's key is reached")


def _spend_micro(state: PayerState) -> int:
    """What vouchers signed, or to be signed under reservations, will still take from the signer."""
    owed = sum(tab.owed_micro for tab in state.tabs.values())
    return owed + sum(each.claim_micro for each in state.reservations.values())


def _accept(state: PayerState, event: Accept) -> Step:
    found = state.reservations.get((event.job, event.attempt))
    if found is None or found.closed:
        raise WalletError("nothing is reserved for this attempt of the job")
    if event.accepted_micro > found.cap_micro:
        raise WalletError("a segment costs more than its cap")
    if event.receipt is not None and found.receipt not in (None, event.receipt):
        raise WalletError("a segment has one receipt")
    held = 0 if event.prepay or event.receipt is not None else found.hold_micro
    accepted = max(found.accepted_micro, event.accepted_micro)
    fresh = event.receipt is not None and found.receipt is None
    changed = replace(
        found,
        accepted_micro=accepted,
        due_micro=max(found.due_micro, accepted - held),
        receipt=event.receipt or found.receipt,
        # A segment that cost nothing has no voucher to commit to its receipt.
        receipt_due=found.receipt_due or (fresh and accepted > 0),
    )
    after = _with(state, changed)
    if fresh and changed.due_micro == changed.paid_micro:
        # No rise, no voucher: the receipt has to outlive a restart until the next one.
        return after, (SaveReservation(reservation=changed, tab=state.tabs[changed.tab]),)
    return after, ()


def _release(state: PayerState, event: Release) -> Step:
    found = state.reservations.get((event.job, event.attempt))
    if found is None or found.closed:
        return state, ()
    closed = replace(found, closed=True, due_micro=max(found.due_micro, found.accepted_micro))
    return _with(state, closed), (SaveReservation(reservation=closed, tab=state.tabs[closed.tab]),)


def _with(state: PayerState, *changed: Reservation) -> PayerState:
    """The state with these reservations; what is over and fully committed is dropped."""
    reservations = dict(state.reservations)
    for each in changed:
        if each.closed and each.due_micro == each.paid_micro and not each.receipt_due:
            reservations.pop(each.ref, None)
        else:
            reservations[each.ref] = each
    return replace(state, reservations=reservations)


def _flush(state: PayerState, tab_id: Hash) -> Step:
    tab = state.tabs[tab_id]
    own = [each for each in state.reservations.values() if each.tab == tab_id]
    rising = [each for each in own if each.due_micro > each.paid_micro][: limits.RISES_MAX]
    if not rising:
        return state, ()
    # A receipt goes with the voucher that pays it in full, or with any later one.
    paid = {each.ref for each in rising} | {e.ref for e in own if e.due_micro == e.paid_micro}
    quoted = [each for each in own if each.receipt_due and each.ref in paid]
    draft = _draft(tab, rising, quoted[: limits.RISES_MAX])
    after = _with(state, *draft.reservations)
    after = replace(after, tabs={**after.tabs, tab_id: draft.tab})
    _check_promise(after)
    return after, (SaveVoucher(draft=draft), SendVoucher(draft=draft))


def _check_promise(state: PayerState) -> None:
    """Reservations were covered when made; a deposit taken out since covers no new voucher."""
    funds = state.funds
    if funds and funds.exact and promised_micro(state, reserved=False) > funds.deposit_micro:
        raise WalletError("the deposit no longer covers what was promised")


def _draft(tab: PayerTab, rising: list[Reservation], quoted: list[Reservation]) -> VoucherDraft:
    rises = tuple(
        Rise(job=each.job, attempt=each.attempt, amount=each.due_micro - each.paid_micro)
        for each in rising
    )
    receipts = tuple(each.receipt for each in quoted if each.receipt is not None)
    after = replace(
        tab,
        cumulative_micro=tab.cumulative_micro + sum(rise.amount for rise in rises),
        tree=receipts_tree.append(tab.tree, receipts),
    )
    if after.cumulative_micro > MICRO_MAX:
        raise WalletError("a tab can't grow beyond what the escrow can count")
    changed = {each.ref: replace(each, paid_micro=each.due_micro) for each in rising}
    for each in quoted:
        changed[each.ref] = replace(changed.get(each.ref, each), receipt_due=False)
    proofs = receipts_tree.prove_appended(tab.tree, receipts)
    return VoucherDraft(
        tab=after,
        voucher=Voucher(
            payer=tab.tab.payer,
            payee=tab.tab.payee,
            model=tab.tab.model,
            splits=tab.tab.splits,
            cumulative=after.cumulative_micro,
            receipts=receipts_tree.root(after.tree),
        ),
        rises=rises,
        receipts=receipts,
        proofs=tuple(zip((each.ref for each in quoted), proofs, strict=True)),
        reservations=tuple(changed.values()),
    )


def _make_lock(state: PayerState, event: MakeLock, now_s: int) -> Step:
    seen = state.funds.locks.get(event.payee) if state.funds else None
    if state.funds is None or seen is None:
        raise Unavailable("the chain has not said which locks there are")
    lock = SignedLock(
        payee=event.payee,
        total_micro=event.total_micro,
        nonce=max(seen.nonce, state.lock_nonces.get(event.payee, 0)) + 1,
        expiry_s=event.expiry_s,
    )
    nonces = {**state.lock_nonces, event.payee: lock.nonce}
    after = replace(state, locks=(*state.locks, lock), lock_nonces=nonces)
    _check_covered(after, now_s)
    if lock.total_micro > state.funds.signer_left_micro:
        raise WalletError("the paying account's limit for this node's key is reached")
    return after, (SaveLock(lock=lock),)


def _funds_seen(state: PayerState, event: FundsSeen) -> Step:
    if state.funds and event.funds.block < state.funds.block:
        return state, ()  # a node that lags; what we know is newer
    tabs, risen = dict(state.tabs), {}
    for tab_id, paid in event.paid.items():
        tab = tabs[tab_id]
        if paid > tab.cumulative_micro:
            return _halt(state, "the escrow paid more on a tab than this home has promised")
        if paid > tab.redeemed_micro:
            tabs[tab_id] = replace(tab, redeemed_micro=paid)
            risen[tab_id] = paid
    open_locks = tuple(lock for lock in state.locks if _may_land(lock, event.funds))
    ended = tuple(lock for lock in state.locks if lock not in open_locks)
    after = replace(state, tabs=tabs, locks=open_locks, funds=event.funds)
    if not risen and not ended:
        return after, ()
    return after, (SaveRedeemed(redeemed=risen, locks_ended=ended),)


def _may_land(lock: SignedLock, funds: Funds) -> bool:
    """Whether the escrow may still take a signed lock after this block."""
    seen = funds.locks.get(lock.payee)
    used = seen is not None and seen.nonce >= lock.nonce
    return not used and funds.block_time_s < lock.expiry_s


def _held_by_payee(state: PayerState, event: HeldByPayee) -> Step:
    tab = state.tabs.get(event.tab_id)
    if tab is None or event.cumulative_micro > tab.cumulative_micro:
        return _halt(state, "a worker holds a newer voucher of ours than this home does")
    same = event.cumulative_micro == tab.cumulative_micro
    if same and event.receipts != receipts_tree.root(tab.tree):
        return _halt(state, "a worker holds another voucher of ours for the same amount")
    return state, ()


def _halt(state: PayerState, reason: str) -> Step:
    if state.halted:
        return state, ()
    why = f"{reason}; it was restored from an old copy, or another one signs for the same account"
    return replace(state, halted=why), (SaveHalt(reason=why),)
