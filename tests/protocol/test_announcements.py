"""The book of announcements: what gets in, what is kept under a flood, what is told to others."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import codec, limits
from node.protocol.announcements import (
    ANY_MODEL,
    INTERVAL_S_MIN,
    SKEW_MS,
    TOPIC_RATE_MAX,
    TTL_S_MAX,
    AnnouncementBook,
    Drop,
    interval_s,
    networks_of,
    ttl_s,
)
from node.protocol.fields import Signed
from node.protocol.frames import Announcements
from node.protocol.statements import AnnouncedModel, Announcement, Tier
from tests.protocol.market_samples import (
    DOMAIN,
    FOREIGN,
    MODEL,
    NOW_MS,
    announced,
    worker_of,
)

OTHER = b"o" * 32
LIFE_MS = 60_000 + SKEW_MS


def book(**limits_: int) -> AnnouncementBook:
    return AnnouncementBook(DOMAIN, **limits_)


def known(of: AnnouncementBook, *, now_ms: int = NOW_MS) -> set[bytes]:
    found = of.select(MODEL, count_max=10_000, seed=0, now_ms=now_ms)
    return {each.statement.worker for each in found}


def test_a_good_one_is_found_by_worker_and_model() -> None:
    kept = book()
    assert kept.take(announced(1), now_ms=NOW_MS) is None
    assert known(kept) == {worker_of(1)}
    found = kept.find(worker_of(1), now_ms=NOW_MS)
    assert found is not None
    assert found.addrs[0].startswith("/ip4/10.0.1.1/")
    assert kept.count(MODEL) == kept.count(ANY_MODEL) == 1
    assert kept.models(now_ms=NOW_MS) == {MODEL: ("tiny", 1)}


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        (announced(1, key=2), Drop.FORGED),
        (announced(1, domain=FOREIGN), Drop.FORGED),
        (announced(1, issued_ms=NOW_MS - LIFE_MS), Drop.EXPIRED),
        (announced(1, issued_ms=NOW_MS + SKEW_MS + 1), Drop.FUTURE),
        (announced(1, addrs=()), Drop.UNUSABLE),
        (announced(1, models=()), Drop.UNUSABLE),
    ],
    ids=["forged", "foreign chain", "expired", "future", "no address", "no model"],
)
def test_what_is_dropped_is_counted(signed: Signed[Announcement], why: Drop) -> None:
    kept = book()
    assert kept.take(signed, now_ms=NOW_MS) is why
    assert kept.dropped == Counter({why: 1})
    assert not known(kept)


def test_clocks_may_differ_by_the_skew() -> None:
    kept = book()
    assert kept.take(announced(1, issued_ms=NOW_MS + SKEW_MS), now_ms=NOW_MS) is None
    assert kept.take(announced(2, issued_ms=NOW_MS - LIFE_MS + 1), now_ms=NOW_MS) is None


def test_newest_wins_whatever_the_order() -> None:
    kept = book()
    newer = announced(1, issued_ms=NOW_MS + 5, host="10.9.9.9")
    assert kept.take(newer, now_ms=NOW_MS) is None
    assert kept.take(announced(1), now_ms=NOW_MS) is Drop.REPLAYED
    assert kept.take(newer, now_ms=NOW_MS) is Drop.DUPLICATE
    found = kept.find(worker_of(1), now_ms=NOW_MS)
    assert found is not None
    assert "10.9.9.9" in found.addrs[0]


def test_a_replay_costs_no_signature_check() -> None:
    kept = book()
    kept.take(announced(1, issued_ms=NOW_MS), now_ms=NOW_MS)
    assert not kept.needs_check(announced(1, issued_ms=NOW_MS - 1), now_ms=NOW_MS)
    assert not kept.needs_check(announced(1, issued_ms=NOW_MS), now_ms=NOW_MS)
    assert kept.needs_check(announced(1, issued_ms=NOW_MS + 1), now_ms=NOW_MS)


def test_an_expired_one_is_not_told_and_is_swept() -> None:
    kept = book()
    kept.take(announced(1), now_ms=NOW_MS)
    late_ms = NOW_MS + LIFE_MS
    assert not known(kept, now_ms=late_ms)
    assert kept.find(worker_of(1), now_ms=late_ms) is None
    kept.sweep(now_ms=late_ms)
    assert len(kept) == kept.count(MODEL) == 0


def test_a_life_longer_than_the_limit_is_cut() -> None:
    kept = book()
    kept.take(announced(1, ttl_s=2**32 - 1), now_ms=NOW_MS)
    assert not known(kept, now_ms=NOW_MS + TTL_S_MAX * 1000 + SKEW_MS)


def test_after_a_failed_dial_only_news_count() -> None:
    kept = book()
    kept.take(announced(1), now_ms=NOW_MS)
    kept.fail(worker_of(1))
    assert kept.take(announced(1), now_ms=NOW_MS) is Drop.DUPLICATE
    assert kept.take(announced(1, issued_ms=NOW_MS - 1), now_ms=NOW_MS) is Drop.REPLAYED
    assert kept.take(announced(1, issued_ms=NOW_MS + 1), now_ms=NOW_MS) is None


def test_one_network_fills_only_its_share() -> None:
    kept = book(per_network_max=3)
    for number in range(1, 11):
        kept.take(announced(number, host=f"10.1.1.{number}"), now_ms=NOW_MS)
    kept.take(announced(20, host="10.1.2.1"), now_ms=NOW_MS)
    assert known(kept) == {worker_of(n) for n in (1, 2, 3, 20)}
    assert kept.dropped[Drop.CROWDED] == 7


def test_a_crowded_network_makes_room_when_its_workers_expire_or_fail() -> None:
    kept = book(per_network_max=1)
    kept.take(announced(1, host="10.1.1.1"), now_ms=NOW_MS)
    newcomer = announced(2, host="10.1.1.2", issued_ms=NOW_MS + LIFE_MS)
    assert kept.take(newcomer, now_ms=NOW_MS + LIFE_MS) is None
    kept.fail(worker_of(2))
    third = announced(3, host="10.1.1.3", issued_ms=NOW_MS + LIFE_MS)
    assert kept.take(third, now_ms=NOW_MS + LIFE_MS) is None


def test_a_worker_in_a_full_network_can_renew_itself() -> None:
    kept = book(per_network_max=1)
    kept.take(announced(1, host="10.1.1.1"), now_ms=NOW_MS)
    renewed = announced(1, host="10.1.1.1", issued_ms=NOW_MS + 1)
    assert kept.take(renewed, now_ms=NOW_MS) is None


def test_a_flood_from_few_networks_pushes_out_itself_and_not_the_others() -> None:
    kept = book(workers_max=64, per_network_max=32)
    honest = range(1, 33)
    for number in honest:
        kept.take(announced(number), now_ms=NOW_MS)
    for number in range(100, 400):
        host = f"172.16.{number % 8}.{number % 200}"
        kept.take(announced(number, host=host), now_ms=NOW_MS)
    late = announced(50)
    assert kept.take(late, now_ms=NOW_MS) is None
    assert {worker_of(n) for n in (*honest, 50)} <= known(kept)
    assert len(kept) == 64


def test_a_proven_worker_is_not_pushed_out_and_takes_no_share() -> None:
    kept = book(workers_max=8, per_network_max=2)
    kept.take(announced(1, host="10.1.1.1"), now_ms=NOW_MS)
    kept.prove(worker_of(1))
    for number in range(2, 40):
        kept.take(announced(number, host=f"10.1.{number % 9}.{number}"), now_ms=NOW_MS)
    assert worker_of(1) in known(kept)
    assert len(kept) == 8
    renewed = announced(1, host="10.1.1.1", issued_ms=NOW_MS + 1)
    assert kept.take(renewed, now_ms=NOW_MS) is None


def test_selection_is_spread_over_networks() -> None:
    kept = book()
    for number in range(1, 21):
        kept.take(announced(number, host=f"10.1.1.{number}"), now_ms=NOW_MS)
    for number in range(21, 26):
        kept.take(announced(number), now_ms=NOW_MS)
    for seed in range(20):
        chosen = kept.select(MODEL, count_max=6, seed=seed, now_ms=NOW_MS)
        workers = {each.statement.worker for each in chosen}
        assert {worker_of(number) for number in range(21, 26)} <= workers


def test_selection_depends_on_the_seed_alone() -> None:
    kept = book()
    for number in range(1, 30):
        kept.take(announced(number), now_ms=NOW_MS)
    draws = [kept.select(MODEL, count_max=5, seed=seed, now_ms=NOW_MS) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_reply_leaves_out_the_teller_and_fits_a_frame() -> None:
    kept = book()
    long = tuple(f"/dns4/{'x' * 200}{i}.example.org/tcp/1" for i in range(8))
    models = tuple(
        AnnouncedModel(
            model=MODEL if i == 0 else bytes([i]) * 32,
            name="n" * 64,
            tier=Tier.IDS,
            price_in=1,
            price_out=1,
        )
        for i in range(32)
    )
    for number in range(1, 31):
        signed = announced(number, models=models, addrs=(announcement_addr(number), *long[1:]))
        assert kept.take(signed, now_ms=NOW_MS) in (None, Drop.CROWDED)
    items = kept.reply(MODEL, count_max=255, seed=1, now_ms=NOW_MS, besides=worker_of(1))
    assert 0 < len(items) < 29
    assert worker_of(1) not in {each.statement.worker for each in items}
    assert len(codec.encode(Announcements(items=items))) <= limits.FRAME_BYTES_MAX


def announcement_addr(number: int) -> str:
    return f"/ip4/10.{number}.0.1/tcp/1"


def test_a_reply_has_at_most_as_many_as_an_exchange_carries() -> None:
    kept = book()
    for number in range(1, 101):
        kept.take(announced(number), now_ms=NOW_MS)
    items = kept.reply(MODEL, count_max=255, seed=1, now_ms=NOW_MS, besides=worker_of(1))
    assert len(items) == limits.ANNOUNCEMENTS_PER_EXCHANGE
    few = kept.reply(MODEL, count_max=3, seed=1, now_ms=NOW_MS, besides=worker_of(1))
    assert len(few) == 3
    assert not kept.reply(OTHER, count_max=3, seed=1, now_ms=NOW_MS, besides=worker_of(1))
    assert len(kept.reply(ANY_MODEL, count_max=9, seed=1, now_ms=NOW_MS, besides=b"")) == 9


@pytest.mark.parametrize(
    ("addr", "network"),
    [
        ("/ip4/203.0.113.77/tcp/1/p2p/x", "203.0.113.0/24"),
        ("/ip6/2001:db8:1:2::3/tcp/1", "2001:db8:1::/48"),
        ("/dns4/a.b.Example.org/tcp/1", "example.org"),
        ("/ip4/not-an-address/tcp/1", "other"),
        ("", "other"),
    ],
)
def test_networks(addr: str, network: str) -> None:
    assert networks_of([addr]) == {network}


def test_a_topic_carries_at_most_a_few_messages_a_second() -> None:
    for workers in (1, 3, 20, 100, 1_000, 2_048):
        assert workers / interval_s(workers) <= TOPIC_RATE_MAX * 1.001
    assert interval_s(2) == INTERVAL_S_MIN
    assert interval_s(1_000) > interval_s(100)
    assert ttl_s(interval_s(1_000)) >= 2 * interval_s(1_000) + SKEW_MS / 1000
    assert ttl_s(1e9) == TTL_S_MAX


def test_a_topic_louder_than_the_count_explains_slows_everybody_down() -> None:
    # A book ends at 2,048 workers; of 10,000 the topic tells by its noise.
    interval = interval_s(2_048)
    for _ in range(3):
        interval = interval_s(2_048, last_s=interval, heard_per_s=10_000 / interval)
    assert 10_000 / interval == pytest.approx(TOPIC_RATE_MAX)
    for _ in range(3):  # most left
        interval = interval_s(2_048, last_s=interval, heard_per_s=3_000 / interval)
    assert 3_000 / interval == pytest.approx(TOPIC_RATE_MAX)
    # Among few, three announcements at once are chance; and a quiet topic speeds nobody up.
    assert interval_s(20, last_s=100.0, heard_per_s=5.0) == interval_s(20)
    quiet = interval_s(1_000, last_s=5_000.0, heard_per_s=0.01)
    assert quiet == interval_s(1_000)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "prove", "fail", "sweep"]),
            st.integers(1, 12),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        max_size=60,
    )
)
def test_bounds_and_indexes_hold_whatever_happens(
    steps: list[tuple[str, int, int, int]],
) -> None:
    kept = book(workers_max=6, per_network_max=2)
    now_ms = NOW_MS
    for action, number, net, age in steps:
        match action:
            case "take":
                host = f"10.0.{net}.{number}"
                kept.take(announced(number, host=host, issued_ms=now_ms + age), now_ms=now_ms)
            case "prove":
                kept.prove(worker_of(number))
            case "fail":
                kept.fail(worker_of(number))
            case "sweep":
                now_ms += 30_000
                kept.sweep(now_ms=now_ms)
        assert len(kept) <= 6
        assert kept.count(MODEL) == len(kept)
        assert known(kept, now_ms=now_ms) <= {worker_of(n) for n in range(1, 13)}
