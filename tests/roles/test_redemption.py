"""When to redeem: decisions over figures, without a chain."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.fields import Signed
from node.protocol.statements import Voucher
from node.roles.ports import Account, ChainView, LockState
from node.roles.redemption import (
    EVERY_S,
    GAP_S,
    WEI_PER_COIN,
    Due,
    Gas,
    Plan,
    Policy,
    Why,
    gas_micro,
    payable,
    plan,
    plan_all,
)
from node.units import MICRO_MAX

NOW_S = 1_800_000_000
FAR_S = 2**63 - 1
PAYEE = b"\x99" * 20
GAS = Gas(price_wei=10**9, batch=100_000, record=30_000)
POLICY = Policy(
    credit_micro=100_000,
    credit_new_micro=1_000_000,
    gas_share_max_bps=500,
    after_s=86_400,
    margin_s=600,
    native_price_micro=2_000 * 10**6,
)
"""A batch costs 200 + 60 micro per voucher, so at 5 % it has to bring 20 times that."""


def due(number: int, owed: int, *, age_s: int = 0, payer: int | None = None) -> Due:
    voucher = Voucher(
        payer=bytes([payer or number]) * 20,
        payee=PAYEE,
        model=bytes([number]) * 32,
        splits=bytes(32),
        cumulative=owed,
        receipts=bytes(32),
    )
    return Due(
        tab=bytes([number]) * 32,
        voucher=Signed(voucher, bytes(64)),
        splits=(),
        paid_micro=0,
        signer=voucher.payer,
        since_ms=(NOW_S - age_s) * 1000,
    )


def view(
    *,
    free: int = 10**9,
    lock: int = 0,
    lock_ends_s: int = FAR_S,
    exit_s: int = 0,
    signer_ends_s: int = FAR_S,
    signer_left: int = MICRO_MAX,
) -> ChainView:
    return ChainView(
        block=1,
        block_time_s=NOW_S,
        account=Account(free_micro=free, locked_micro=lock, exit_ready_s=exit_s),
        lock=LockState(amount_micro=lock, nonce=1, expiry_s=lock_ends_s),
        signer_expiry_s=signer_ends_s,
        signer_left_micro=signer_left,
    )


def decide(
    dues: Sequence[Due],
    views: Sequence[ChainView] | None = None,
    *,
    policy: Policy = POLICY,
    last_s: int = 0,
) -> Plan | None:
    by_tab = {d.tab: v for d, v in zip(dues, views or [view()] * len(dues), strict=True)}
    return plan(dues, by_tab, policy=policy, gas=GAS, now_s=NOW_S, last_s=last_s)


def test_gas_in_micro_is_rounded_up() -> None:
    assert gas_micro(1, price_wei=1, native_price_micro=1) == 1
    assert gas_micro(21_000, price_wei=10**9, native_price_micro=2_000 * 10**6) == 42_000
    assert gas_micro(10**9, price_wei=10**9, native_price_micro=0) == 0
    assert gas_micro(WEI_PER_COIN, price_wei=1, native_price_micro=7) == 7


def test_small_and_young_waits() -> None:
    assert decide([]) is None
    assert decide([due(1, 1_000)]) is None


def test_it_pays_once_gas_is_a_small_part_and_an_hour_is_over() -> None:
    cost = 130_000 * 2_000 * 10**6 * 10**9 // WEI_PER_COIN
    enough = cost * 20
    cheap = replace(POLICY, credit_micro=10**12, credit_new_micro=10**12)
    assert decide([due(1, enough - 1, age_s=EVERY_S)], policy=cheap) is None
    assert decide([due(1, enough, age_s=EVERY_S - 1)], policy=cheap) is None
    found = decide([due(1, enough, age_s=EVERY_S)], policy=cheap)
    assert found is not None
    assert (found.why, found.payable_micro) == (Why.PAYS, enough)
    assert decide([due(1, enough, age_s=10**5)], policy=cheap, last_s=NOW_S - 60) is not None
    assert decide([due(1, enough, age_s=EVERY_S)], policy=cheap, last_s=NOW_S - EVERY_S + 1) is None


def test_free_gas_does_not_mean_a_transaction_per_voucher() -> None:
    free = replace(POLICY, native_price_micro=0)
    assert decide([due(1, 5)], policy=free) is None
    assert decide([due(1, 5, age_s=EVERY_S)], policy=free) is not None


def test_half_of_a_credit_is_redeemed_if_it_pays() -> None:
    rich = replace(POLICY, native_price_micro=10**6)
    assert decide([due(1, 49_999)], policy=rich) is None
    found = decide([due(1, 50_000)], policy=rich)
    assert found is not None
    assert found.why is Why.EXPOSURE
    assert decide([due(1, 50_000)], [view(lock=1)], policy=rich) is None, "locked is covered"
    dear = replace(POLICY, native_price_micro=10**12)
    assert decide([due(1, 50_000)], policy=dear) is None, "gas would eat it"
    many = [due(n, 40_000) for n in range(1, 13)]
    assert decide(many, policy=rich) is None
    found = decide([*many, due(13, 20_000)], policy=rich)
    assert found is not None
    assert len(found.dues) == 13


def test_a_payer_that_leaves_is_urgent_as_long_as_it_brings_more_than_gas() -> None:
    cost = 130_000 * 2_000 // 10**3
    leaving = view(exit_s=NOW_S + 3600)
    found = decide([due(1, cost)], [leaving])
    assert found is not None
    assert found.why is Why.EXIT
    assert decide([due(1, cost - 1)], [leaving]) is None
    assert decide([due(1, cost)], [leaving], last_s=NOW_S - GAP_S + 1) is None


def test_what_is_urgent_takes_the_others_along_if_they_pay_their_way() -> None:
    leaving = view(exit_s=NOW_S + 3600)
    worth, dust = due(2, 60_000), due(3, 59_999)
    found = decide([due(1, 10**6), worth, dust], [leaving, view(), view()])
    assert found is not None
    assert {d.tab for d in found.dues} == {due(1, 1).tab, worth.tab}


def test_locks_and_signers_that_end_are_urgent() -> None:
    owed = [due(1, 10**6)]
    lasting = {"lock": 10, "lock_ends_s": NOW_S + 601}
    ending = {"lock": 10, "lock_ends_s": NOW_S + 600}
    wide = replace(POLICY, credit_micro=10**12, credit_new_micro=10**12)
    assert decide(owed, [view(**lasting)], policy=wide) is None
    for state in (view(**ending), view(signer_ends_s=NOW_S + 600)):
        found = decide(owed, [state], policy=wide)
        assert found is not None
        assert found.why is Why.ENDING


def test_old_vouchers_are_redeemed_even_if_gas_takes_much() -> None:
    cost = 130_000 * 2_000 // 10**3
    found = decide([due(1, cost, age_s=86_400)])
    assert found is not None
    assert found.why is Why.AGE
    assert decide([due(1, cost - 1, age_s=86_400)]) is None


def test_what_a_payer_has_bounds_what_its_vouchers_bring() -> None:
    one, two = due(1, 700, payer=1), due(2, 700, payer=1)
    poor = view(free=500, lock=400)
    assert payable([one, two], {one.tab: poor, two.tab: poor}) == ((one, 700), (two, 200))
    capped = view(signer_left=100)
    assert payable([one], {one.tab: capped}) == ((one, 100),)
    locked = view(signer_left=100, lock=50)
    assert payable([one], {one.tab: locked}) == ((one, 150),), "a lock is beyond the cap"
    assert payable([one], {one.tab: view(signer_left=0)}) == ()
    assert payable([one], {one.tab: view(signer_ends_s=0, lock=50)}) == ()
    assert payable([one], {}) == ()
    assert plan_all([one], {one.tab: view(free=0)}) is None
    found = plan_all([one, two], {one.tab: poor, two.tab: poor})
    assert found is not None
    assert (found.why, found.payable_micro) == (Why.COMMAND, 900)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 10**6)), max_size=8),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
def test_payable_never_exceeds_funds_nor_what_is_owed(
    owed: list[tuple[int, int]], free: int, lock: int
) -> None:
    dues = [due(n + 1, amount, payer=payer) for n, (payer, amount) in enumerate(owed)]
    state = view(free=free, lock=lock)
    found = payable(dues, {d.tab: state for d in dues})
    for payer in {d.payer for d in dues}:
        brings = [amount for d, amount in found if d.payer == payer]
        total = sum(d.owed_micro for d in dues if d.payer == payer)
        assert sum(brings) == min(total, free + lock)
    assert all(0 < amount <= d.owed_micro for d, amount in found)
