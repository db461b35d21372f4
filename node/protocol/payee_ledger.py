"""What a payee was promised, and whether it may take on more: a pure state machine.

*Uncovered* is what a payer promised, or may still promise under segments that were admitted, less
what was redeemed and less its usable lock here.  It stays within the credit for one payer, and over
all payers within the credit for newcomers, where what a payer's vouchers once brought in counts for
it.  A voucher is accepted whole or not at all, and only as the next one of its tab.
design.md, "Who may lose what"; security.md, rules 4, 6, 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from node.errors import PeerError
from node.protocol import receipts_tree
from node.protocol.fields import Address, Hash
from node.protocol.frames import Refused
from node.protocol.payee_state import (
    ADVANCES_MAX,
    DEBT_GRACE_S,
    DEBT_KEPT_S,
    DEBT_PAID_SHARE,
    PAYERS_MAX,
    SEGMENTS_MAX,
    VIEW_FRESH_S,
    Admit,
    AskResume,
    ChainSeen,
    Credit,
    Effect,
    Ended,
    Event,
    HeldByPayer,
    Now,
    PaidSeen,
    PayeeRules,
    PayeeState,
    PayeeTab,
    PayerSeen,
    Refuse,
    SaveBest,
    SaveRedeemed,
    SaveTab,
    SaveVoucher,
    Segment,
    SegmentKey,
    Step,
    VoucherSeen,
)


def step(state: PayeeState, event: Event, now: Now) -> Step:
    """The next state, and what to do, in order: saves come first.

    Raises:
        PeerError: The client broke the protocol; nothing changed.
    """
    match event:
        case Admit():
            return _admit(state, event, now)
        case Ended():
            return _ended(state, event, now)
        case VoucherSeen():
            return _voucher(state, event)
        case HeldByPayer():
            return _held_by_payer(state, event)
        case PaidSeen():
            return _paid_seen(state, event)
        case ChainSeen():
            return _chain_seen(state, event), ()
        case _:
            assert_never(event)


def serving_problem(state: PayeeState, payer: Address, now: Now) -> Refused | None:
    """Why a running segment of this payer has to stop, as far as the chain goes; else None."""
    seen = state.payers.get(payer)
    if seen is None or now.monotonic_s - seen.seen_s > state.rules.exit_margin_s:
        return Refused.CHAIN_UNAVAILABLE
    if _exit_near(state, seen, now):
        return Refused.EXIT_PENDING
    return None


def exposure_micro(state: PayeeState, payer: Address) -> int:
    """Owed, or may come to be owed for segments, before any lock is counted."""
    owed = sum(tab.owed_micro for tab in state.tabs.values() if tab.tab.payer == payer)
    return owed + sum(s.claim_micro for s in state.segments.values() if s.payer == payer)


def uncovered_micro(state: PayeeState, payer: Address, now: Now) -> int:
    """Exposure less the payer's usable lock."""
    return max(0, exposure_micro(state, payer) - lock_micro(state, payer, now))


def lock_micro(state: PayeeState, payer: Address, now: Now) -> int:
    """What the payer's lock here is good for: nothing near its expiry, or seen too long ago."""
    seen = state.payers.get(payer)
    margin_s = state.rules.exit_margin_s
    if seen is None or now.monotonic_s - seen.seen_s > margin_s:
        return 0
    return seen.lock_micro if seen.lock_expiry_s > now.unix_s + margin_s else 0


def debt_micro(state: PayeeState, payer: Address, now: Now) -> int:
    """What segments of this payer that ended of late earned and were never paid."""
    return sum(
        segment.debt_micro
        for segment in state.segments.values()
        if segment.payer == payer
        and segment.ended_s is not None
        and DEBT_GRACE_S < now.monotonic_s - segment.ended_s <= DEBT_KEPT_S
    )


def _debt_max_micro(state: PayeeState, payer: Address) -> int:
    """How much of that a payer may have.

    What is on its way when a client dies, or its network, is lost to both: the client never learns
    of it.  So a debt is no proof of ill will, and keeps nobody away for ever; but what a payer
    gains by many of them stays a small part of what it pays.
    """
    vouchered = sum(tab.best_micro for tab in state.tabs.values() if tab.tab.payer == payer)
    return state.rules.debt_max_micro + vouchered // DEBT_PAID_SHARE


def _admit(state: PayeeState, event: Admit, now: Now) -> Step:
    refusal = _refusal(state, event, now)
    if refusal is not None:
        return state, (refusal,)
    if len(state.segments) >= SEGMENTS_MAX:
        over = next((s.award for s in state.segments.values() if s.ended_s is not None), None)
        if over is None:
            return state, (Refuse(code=Refused.BUSY),)
        state = _without(state, over)
    segment, tabs, advances = event.segment, dict(state.tabs), dict(state.advances)
    saves: tuple[Effect, ...] = ()
    if segment.tab not in tabs:
        tab = PayeeTab(id=segment.tab, tab=event.tab, client=segment.client)
        tabs[segment.tab] = tab
        saves = (SaveTab(tab=tab),)
    paid = min(advances.pop(segment.key, 0), segment.cap_micro)
    state = replace(state, tabs=tabs, advances=advances)
    return _with(state, replace(segment, paid_micro=paid)), saves


def _refusal(state: PayeeState, event: Admit, now: Now) -> Refuse | None:
    segment, margin_s = event.segment, state.rules.exit_margin_s
    if segment.key in state.keys or segment.award in state.segments:
        return Refuse(code=Refused.DUPLICATE)
    problem = serving_problem(state, segment.payer, now)
    if problem is not None:
        return Refuse(code=problem)
    if event.signer_expiry_s <= now.unix_s + margin_s:
        return Refuse(code=Refused.CLIENT_UNAUTHORISED, detail="the signer's authority ends")
    tab = state.tabs.get(segment.tab)
    if tab is not None and tab.behind:
        return Refuse(code=Refused.UNPAID, detail="vouchers of this tab are missing here")
    if debt_micro(state, segment.payer, now) > _debt_max_micro(state, segment.payer):
        return Refuse(code=Refused.UNPAID)
    exposure_after = exposure_micro(state, segment.payer) + segment.need_micro
    if exposure_after > event.signer_left_micro:
        return Refuse(code=Refused.CLIENT_UNAUTHORISED, detail="the signer's limit is reached")
    return _cover_refusal(state, segment.payer, exposure_after, now)


def _cover_refusal(
    state: PayeeState, payer: Address, exposure_after_micro: int, now: Now
) -> Refuse | None:
    """What lock and credit say to an exposure."""
    seen = state.payers[payer]
    lock = lock_micro(state, payer, now)
    if now.monotonic_s - seen.seen_s > VIEW_FRESH_S:
        if exposure_after_micro > lock:
            return Refuse(code=Refused.CHAIN_UNAVAILABLE, detail="only locks count now")
        return None
    if exposure_after_micro > seen.free_micro + lock:
        return Refuse(code=Refused.DEPOSIT_TOO_LOW)
    wanted = _lock_wanted(state, payer, exposure_after_micro, now)
    if wanted > lock:
        return Refuse(code=Refused.LOCK_REQUIRED, lock_total=wanted)
    return None


def _lock_wanted(state: PayeeState, payer: Address, exposure_micro: int, now: Now) -> int:
    """The least lock with which an exposure stays within both credits."""
    others = {segment.payer for segment in state.segments.values()}
    others |= {tab.tab.payer for tab in state.tabs.values()}
    others.discard(payer)
    unproven = sum(_unproven_micro(state, other, now) for other in others)
    room = max(0, state.rules.credit_new_micro - unproven)
    proven = _redeemed_micro(state, payer)
    return max(0, exposure_micro - min(state.rules.credit_micro, proven + room))


def _unproven_micro(state: PayeeState, payer: Address, now: Now) -> int:
    """The part of what is uncovered that exceeds what the payer's vouchers ever brought in."""
    return max(0, uncovered_micro(state, payer, now) - _redeemed_micro(state, payer))


def _redeemed_micro(state: PayeeState, payer: Address) -> int:
    return sum(tab.redeemed_micro for tab in state.tabs.values() if tab.tab.payer == payer)


def _exit_near(state: PayeeState, seen: PayerSeen, now: Now) -> bool:
    margin_s = state.rules.exit_margin_s
    return seen.exit_ready_s != 0 and now.unix_s >= seen.exit_ready_s - margin_s


def _ended(state: PayeeState, event: Ended, now: Now) -> Step:
    segment = state.segments.get(event.award)
    if segment is None or segment.ended_s is not None:
        return state, ()
    ended = replace(
        segment,
        earned_micro=event.earned_micro,
        receipt=event.receipt,
        ended_s=now.monotonic_s,
    )
    return _with(state, ended), ()


def _voucher(state: PayeeState, event: VoucherSeen) -> Step:
    tab = state.tabs.get(event.tab_id)
    if tab is None:
        # Of a prepaid voucher that overtook the first award; it comes again inside that.
        return state, (AskResume(client=event.client),)
    if event.cumulative_micro <= tab.cumulative_micro:
        return state, ()  # seen before; what it pays was credited then
    before = event.cumulative_micro - sum(rise.amount for rise in event.rises)
    if before > tab.cumulative_micro:
        return _gap(state, tab, event)
    if before < tab.cumulative_micro:
        raise PeerError("a voucher's rises do not add up")
    raised, advances = _raised(state, tab, event)
    segments = _committed(state, raised, tab, event)
    after = replace(
        tab,
        client=event.client,
        cumulative_micro=event.cumulative_micro,
        tree=receipts_tree.append(tab.tree, event.receipts),
        best_micro=max(tab.best_micro, event.cumulative_micro),
    )
    if receipts_tree.root(after.tree) != event.root:
        raise PeerError("a voucher's receipts root is another than its receipts give")
    changed = tuple(segments.values())
    state = replace(
        state,
        tabs={**state.tabs, after.id: after},
        advances=_bounded({**state.advances, **advances}),
    )
    state = _with(state, *changed)
    save = SaveVoucher(tab=after, segments=changed, advances=advances)
    return state, (save, Credit(segments=changed))


def _gap(state: PayeeState, tab: PayeeTab, event: VoucherSeen) -> Step:
    """Vouchers in between were lost.  This one is good money all the same."""
    ask = AskResume(client=event.client)
    if event.cumulative_micro <= tab.best_micro:
        return state, (ask,)
    after = replace(tab, client=event.client, best_micro=event.cumulative_micro)
    state = replace(state, tabs={**state.tabs, after.id: after})
    return state, (SaveBest(tab=after), ask)


def _raised(
    state: PayeeState, tab: PayeeTab, event: VoucherSeen
) -> tuple[dict[Hash, Segment], dict[SegmentKey, int]]:
    """The segments that a voucher names, with their rises added, and rises for unknown ones."""
    found = {segment.key: segment for segment in event.found}
    raised: dict[Hash, Segment] = {}
    advances: dict[SegmentKey, int] = {}
    for rise in event.rises:
        key = (event.client, rise.job, rise.attempt)
        award = state.keys.get(key)
        segment = state.segments[award] if award is not None else found.get(key)
        if rise.amount == 0 or key in advances or (segment and segment.award in raised):
            raise PeerError("a rise of nothing, or two for one segment")
        if segment is None:
            advances[key] = state.advances.get(key, 0) + rise.amount
            continue
        paid = segment.paid_micro + rise.amount
        if segment.tab != tab.id or paid > segment.cap_micro:
            raise PeerError("a rise for a segment of another tab, or beyond its cap")
        raised[segment.award] = replace(segment, paid_micro=paid)
    return raised, advances


def _committed(
    state: PayeeState, raised: dict[Hash, Segment], tab: PayeeTab, event: VoucherSeen
) -> dict[Hash, Segment]:
    """The same and those whose receipts the voucher commits to: ours, and each once."""
    if not event.receipts:
        return raised
    own = [*state.segments.values(), *event.found]
    signed = {each.receipt: each for each in own if each.receipt and each.tab == tab.id}
    changed = dict(raised)
    for digest in event.receipts:
        segment = signed.get(digest)
        if segment is not None:
            segment = changed.get(segment.award, segment)
        if segment is None or segment.receipt_taken:
            raise PeerError("a voucher commits to a receipt that is not ours, or twice to one")
        changed[segment.award] = replace(segment, receipt_taken=True)
    return changed


def _held_by_payer(state: PayeeState, event: HeldByPayer) -> Step:
    tab = state.tabs.get(event.tab_id)
    if tab is None or event.cumulative_micro <= tab.best_micro:
        return state, ()
    after = replace(tab, client=event.client, best_micro=event.cumulative_micro)
    return replace(state, tabs={**state.tabs, after.id: after}), (SaveBest(tab=after),)


def _paid_seen(state: PayeeState, event: PaidSeen) -> Step:
    tabs, payers, risen = dict(state.tabs), dict(state.payers), {}
    for tab_id, paid in event.paid.items():
        tab = tabs.get(tab_id)
        if tab is None or paid <= tab.redeemed_micro:
            continue
        tabs[tab_id] = replace(tab, redeemed_micro=paid)
        risen[tab_id] = paid
        seen = payers.get(tab.tab.payer)
        if seen is not None:
            payers[tab.tab.payer] = _less(seen, paid - tab.redeemed_micro)
    state = replace(state, tabs=tabs, payers=payers)
    return state, (SaveRedeemed(redeemed=risen),) if risen else ()


def _chain_seen(state: PayeeState, event: ChainSeen) -> PayeeState:
    payers = {**state.payers, event.payer: event.seen}
    if len(payers) > PAYERS_MAX:
        needed = {tab.tab.payer for tab in state.tabs.values()} | {event.payer}
        idle = min(
            (payer for payer in payers if payer not in needed),
            key=lambda payer: payers[payer].seen_s,
            default=None,
        )
        if idle is not None:
            del payers[idle]
    return replace(state, payers=payers)


def _less(seen: PayerSeen, paid_micro: int) -> PayerSeen:
    """A payer that paid since: out of lock or free funds, and an earlier view shows both in full.

    Until the next view neither may count again what no longer counts as owed.
    """
    return replace(
        seen,
        lock_micro=max(0, seen.lock_micro - paid_micro),
        free_micro=max(0, seen.free_micro - paid_micro),
    )


def _with(state: PayeeState, *changed: Segment) -> PayeeState:
    """The state with these segments; settled ones are left to the store."""
    segments, keys = dict(state.segments), dict(state.keys)
    for segment in changed:
        if segment.settled:
            segments.pop(segment.award, None)
            keys.pop(segment.key, None)
        else:
            segments[segment.award] = segment
            keys[segment.key] = segment.award
    return replace(state, segments=segments, keys=keys)


def _bounded(advances: dict[SegmentKey, int]) -> dict[SegmentKey, int]:
    """The newest of them."""
    for key in list(advances)[: max(0, len(advances) - ADVANCES_MAX)]:
        del advances[key]
    return advances


def _without(state: PayeeState, award: Hash) -> PayeeState:
    segment = state.segments.get(award)
    if segment is None:
        return state
    segments = {key: each for key, each in state.segments.items() if key != award}
    keys = {key: each for key, each in state.keys.items() if each != award}
    return replace(state, segments=segments, keys=keys)


def restore(
    rules: PayeeRules,
    *,
    tabs: Sequence[PayeeTab],
    segments: Sequence[Segment],
    advances: Mapping[SegmentKey, int],
) -> PayeeState:
    """The state after a restart, from what was saved."""
    state = PayeeState(rules=rules, tabs={tab.id: tab for tab in tabs}, advances=advances)
    return _with(state, *segments)
