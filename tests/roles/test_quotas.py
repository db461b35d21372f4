"""Token buckets: per peer, for all together, and for who does not stop."""

import pytest

from node.errors import PeerError
from node.roles.quotas import PEERS_MAX, Quota, Quotas

ONE, TWO = b"1" * 20, b"2" * 20
PEER = Quota(burst=4, per_s=2, overrun_max=5)
TOTAL = Quota(burst=6, per_s=3, overrun_max=0)


def spent(quotas: Quotas, peer: bytes, times: int, now_s: float) -> int:
    return sum(quotas.spend(peer, 1, now_s) for _ in range(times))


def test_a_burst_then_so_many_a_second() -> None:
    quotas = Quotas(PEER, total=Quota(burst=100, per_s=100, overrun_max=0))
    assert spent(quotas, ONE, 6, 0.0) == 4
    assert spent(quotas, ONE, 6, 1.5) == 3
    assert spent(quotas, ONE, 6, 100.0) == 4
    assert quotas.refused == 2 + 3 + 2


def test_work_counts_by_its_cost() -> None:
    quotas = Quotas(PEER, total=TOTAL)
    assert quotas.spend(ONE, 3, 0.0)
    assert not quotas.spend(ONE, 2, 0.0)
    assert quotas.spend(ONE, 1, 0.0)


def test_who_goes_on_far_beyond_its_quota_is_cut_off_and_who_slows_down_is_not() -> None:
    quotas = Quotas(PEER, total=Quota(burst=100, per_s=100, overrun_max=0))
    assert spent(quotas, ONE, 9, 0.0) == 4
    with pytest.raises(PeerError, match="asks for too much"):
        quotas.spend(ONE, 1, 0.0)
    for second in range(100):
        assert spent(quotas, TWO, 3, float(second)) >= 2


def test_all_together_have_a_limit_that_is_nobodys_fault() -> None:
    quotas = Quotas(PEER, total=TOTAL)
    assert spent(quotas, ONE, 4, 0.0) == 4
    assert [quotas.spend(TWO, 1, 0.0) for _ in range(20)] == [True, True] + [False] * 18


def test_what_is_remembered_of_peers_is_bounded() -> None:
    quotas = Quotas(PEER, total=Quota(burst=1e9, per_s=1, overrun_max=0))
    for number in range(PEERS_MAX + 10):
        quotas.spend(number.to_bytes(20, "big"), 1, 0.0)
    assert len(quotas._peers) == PEERS_MAX
