import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.adapters.chain.fees import GWEI, Fees, Quote, bumped_fees, first_fees, quote
from node.errors import Unavailable

WEI = st.integers(0, 500 * GWEI)


def history(base: list[int], rewards: list[int]) -> dict[str, object]:
    return {
        "baseFeePerGas": [hex(wei) for wei in base],
        "reward": [[hex(wei)] for wei in rewards],
    }


def test_the_next_blocks_base_fee_and_the_higher_tip() -> None:
    assert quote(history([5, 7], [1, 9, 3]), hex(2)) == Quote(base_wei=7, tip_wei=3)
    assert quote(history([7], [1]), hex(2)) == Quote(base_wei=7, tip_wei=2)
    assert quote(history([7], []), None) == Quote(base_wei=7, tip_wei=0)


@pytest.mark.parametrize("answer", [None, [], {}, {"baseFeePerGas": []}, {"baseFeePerGas": ["x"]}])
def test_what_is_no_fee_history_is_refused(answer: object) -> None:
    with pytest.raises(Unavailable):
        quote(answer, "0x1")


@given(WEI, WEI, st.integers(1, 500 * GWEI))
def test_a_first_offer_covers_the_price_and_stays_below_the_cap(
    base: int, tip: int, cap: int
) -> None:
    now = Quote(base_wei=base, tip_wei=tip)
    if now.price_wei > cap:
        with pytest.raises(Unavailable, match=r"chain\.fee_max_gwei"):
            first_fees(now, fee_cap_wei=cap)
        return
    fees = first_fees(now, fee_cap_wei=cap)
    assert now.price_wei <= fees.fee_max_wei <= cap
    assert fees.tip_wei == tip


@given(WEI, WEI, WEI, WEI, st.integers(1, 500 * GWEI))
def test_a_bump_is_one_that_nodes_take_or_none(
    fee: int, old_tip: int, base: int, tip: int, cap: int
) -> None:
    old = Fees(fee_max_wei=fee, tip_wei=min(old_tip, fee))
    new = bumped_fees(old, Quote(base_wei=base, tip_wei=tip), fee_cap_wei=cap)
    if new is None:
        assert cap < max(fee + 1, -(-fee * 111 // 100)) or cap < -(-old.tip_wei * 111 // 100) + 1
        return
    assert new.fee_max_wei <= cap
    assert new.tip_wei <= new.fee_max_wei
    assert new.fee_max_wei * 100 >= old.fee_max_wei * 111
    assert new.tip_wei * 100 >= old.tip_wei * 111
    assert new.fee_max_wei > old.fee_max_wei


def test_bumps_reach_the_cap_and_stop() -> None:
    now, cap, fees, count = Quote(base_wei=GWEI, tip_wei=0), 200 * GWEI, None, 0
    bumped: Fees | None = first_fees(now, fee_cap_wei=cap)
    while bumped is not None:
        fees, count = bumped, count + 1
        bumped = bumped_fees(fees, now, fee_cap_wei=cap)
    assert fees is not None
    assert cap * 100 < fees.fee_max_wei * 111
    assert count < 45
