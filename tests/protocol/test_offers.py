"""Offers: whose they must be, how long they bind, which is the newest."""

from collections import Counter
from typing import Any

import pytest

from node.errors import PeerError, SignatureError
from node.protocol import limits, signing
from node.protocol.fields import ZERO_ADDRESS, ZERO_HASH
from node.protocol.offers import MODELS_PER_WORKER_MAX, Drop, OfferBook, admit, splits_fault
from node.protocol.statements import Split, Tier
from tests.protocol.market_samples import (
    DOMAIN,
    FOREIGN,
    MODEL,
    key_of,
    signed_terms,
    terms,
    worker_of,
)

ASK = b"a" * 32


def book(**more: int) -> OfferBook:
    return OfferBook(DOMAIN, **more)


def test_an_offer_lives_ten_seconds_from_arrival_whatever_it_says() -> None:
    kept = book()
    standing = kept.take(signed_terms(1, expires_ms=0), peer=worker_of(1), arrived_s=50.0)
    assert standing is not None
    assert standing.digest == signing.digest(terms(1, expires_ms=0), DOMAIN)
    assert kept.live(MODEL, 50.0 + limits.OFFER_LIFE_S - 0.01) == (standing,)
    assert kept.live(MODEL, 50.0 + limits.OFFER_LIFE_S) == ()


def test_the_newest_serial_wins_and_an_older_one_is_not_even_checked() -> None:
    kept = book()
    newer = kept.take(signed_terms(1, serial=7), peer=worker_of(1), arrived_s=0.0)
    forged_but_old = signing.sign(terms(1, serial=7), DOMAIN, key_of(2))
    assert kept.take(forged_but_old, peer=worker_of(1), arrived_s=0.1) is None
    assert kept.live(MODEL, 0.2) == (newer,)
    assert kept.dropped == Counter({Drop.REPLAYED: 1})


def test_one_per_worker_and_model() -> None:
    kept = book()
    other = b"o" * 32
    kept.take(signed_terms(1), peer=worker_of(1), arrived_s=0.0)
    kept.take(signed_terms(1, serial=2), peer=worker_of(1), arrived_s=0.0)
    kept.take(signed_terms(1, model=other), peer=worker_of(1), arrived_s=0.0)
    kept.take(signed_terms(2), peer=worker_of(2), arrived_s=0.0)
    assert len(kept) == 3
    assert [each.terms.worker for each in kept.live(MODEL, 1.0)] == [worker_of(1), worker_of(2)]


@pytest.mark.parametrize(
    ("key", "domain", "peer"),
    [(2, DOMAIN, 1), (1, FOREIGN, 1), (1, DOMAIN, 2)],
    ids=["signed by another", "foreign chain", "relayed by another"],
)
def test_only_the_worker_itself_can_offer_and_only_here(
    key: int, domain: signing.Domain, peer: int
) -> None:
    kept = book()
    signed = signing.sign(terms(1), domain, key_of(key))
    with pytest.raises(SignatureError):
        kept.take(signed, peer=worker_of(peer), arrived_s=0.0)
    assert kept.dropped == Counter({Drop.FORGED: 1})
    assert not kept.live(MODEL, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"tier": 9},
        {"tier": Tier.TEXT},
        {"tokenizer": b"t" * 32},
        {"payee": ZERO_ADDRESS},
        {"context_max": 0},
        {"output_max": 0},
        {"rate_mtps": 0},
        {"price_cached": 100_001},
        {"splits": (Split(payee=b"s" * 20, bps=0),)},
        {"ask": ASK},
    ],
    ids=str,
)
def test_terms_that_nobody_could_be_held_to(changes: dict[str, Any]) -> None:
    kept = book()
    with pytest.raises(PeerError):
        kept.take(signed_terms(1, **changes), peer=worker_of(1), arrived_s=0.0)
    assert kept.dropped == Counter({Drop.MALFORMED: 1})


def test_a_bid_must_answer_the_ask() -> None:
    bid = signed_terms(1, ask=ASK)
    where = {"peer": worker_of(1), "domain": DOMAIN, "arrived_s": 0.0}
    assert admit(bid, ask=ASK, **where).signed == bid  # type: ignore[arg-type]
    with pytest.raises(PeerError, match="another ask"):
        admit(bid, ask=ZERO_HASH, **where)  # type: ignore[arg-type]


def test_splits_that_the_escrow_would_refuse() -> None:
    def split(payee: int, bps: int) -> Split:
        return Split(payee=bytes([payee]) * 20, bps=bps)

    assert splits_fault(()) is None
    assert splits_fault(tuple(split(n, 625) for n in range(1, 9))) is None
    assert splits_fault(tuple(split(n, 1) for n in range(1, 10)))
    assert splits_fault((split(1, 5_001),))
    assert splits_fault((split(2, 1), split(1, 1)))
    assert splits_fault((split(1, 1), split(1, 1)))
    assert splits_fault((split(0, 1),))


def test_withdrawn_terms_are_gone_until_newer_ones_come() -> None:
    kept = book()
    kept.take(signed_terms(1, serial=5), peer=worker_of(1), arrived_s=0.0)
    kept.withdraw(worker_of(1), MODEL, serial=4)
    assert kept.live(MODEL, 0.0)
    kept.withdraw(worker_of(1), MODEL, serial=5)
    assert not kept.live(MODEL, 0.0)
    assert kept.take(signed_terms(1, serial=5), peer=worker_of(1), arrived_s=0.0) is None
    assert kept.take(signed_terms(1, serial=6), peer=worker_of(1), arrived_s=0.0)


def test_a_lost_session_clears_its_offers_and_its_serials() -> None:
    kept = book()
    kept.take(signed_terms(1, serial=5), peer=worker_of(1), arrived_s=0.0)
    kept.take(signed_terms(2), peer=worker_of(2), arrived_s=0.0)
    kept.forget(worker_of(1))
    assert [each.terms.worker for each in kept.live(MODEL, 0.0)] == [worker_of(2)]
    # A worker whose store was lost begins anew; only its own word is affected.
    assert kept.take(signed_terms(1, serial=1), peer=worker_of(1), arrived_s=0.0)


def test_the_last_two_workers_of_a_model_leave_after_both_refused() -> None:
    kept = book()
    for number in (1, 2):
        kept.take(signed_terms(number, serial=5), peer=worker_of(number), arrived_s=0.0)
        kept.withdraw(worker_of(number), MODEL, serial=5)
    for number in (1, 2):
        kept.forget(worker_of(number))
    assert len(kept) == 0


def test_bounded_per_worker_and_in_all() -> None:
    kept = book()
    for number in range(MODELS_PER_WORKER_MAX + 5):
        kept.take(signed_terms(1, model=bytes([number]) * 32), peer=worker_of(1), arrived_s=0.0)
    assert len(kept) == MODELS_PER_WORKER_MAX
    assert kept.dropped[Drop.CROWDED] == 5
    small = book(offers_max=2)
    for number in range(1, 5):
        small.take(signed_terms(number), peer=worker_of(number), arrived_s=0.0)
    assert len(small) == 2
