"""Whom a client keeps: the arithmetic of places."""

import pytest

from node.protocol.places import rotate_pause_s, tries_newcomer, worst
from node.protocol.scoring import Trust

A, B, C, D = (bytes([n]) * 20 for n in range(4))
PROVEN, NEW, FAILING = Trust.PROVEN.value, Trust.NEWCOMER.value, Trust.FAILING.value


@pytest.mark.parametrize(
    ("held", "idle", "goes"),
    [
        ({A: (PROVEN, 900), B: (FAILING, 1)}, {A, B}, B),
        ({A: (PROVEN, 900), B: (NEW, 1)}, {A, B}, B),
        ({A: (PROVEN, 900), B: (PROVEN, 800), C: (PROVEN, 2), D: (NEW, 1)}, {A, B, C, D}, A),
        ({A: (PROVEN, 900), B: (PROVEN, 800), C: (PROVEN, 2), D: (NEW, 1)}, {B, C, D}, B),
        ({A: (NEW, 5), B: (NEW, 7)}, {A, B}, B),
        ({A: (PROVEN, 5), B: (NEW, 7)}, {A}, A),
        ({A: (PROVEN, 5)}, set(), None),
    ],
)
def test_who_goes(held: dict[bytes, tuple[int, int]], idle: set[bytes], goes: bytes | None) -> None:
    assert worst(held, idle=frozenset(idle)) == goes


def test_who_is_new_keeps_its_place_for_a_first_job() -> None:
    held = {bytes([n]) * 20: (NEW, n) for n in range(16)}
    dear, dearest = sorted(held)[-2:]
    everybody = frozenset(held)
    assert worst(held, idle=everybody, new=[dearest]) == dear
    assert worst(held | {dearest: (PROVEN, 15)}, idle=everybody, new=[dearest]) == dear
    assert worst(held | {dearest: (FAILING, 15)}, idle=everybody, new=[dearest]) == dearest
    # A crowd of them keeps nothing.
    assert worst(held, idle=everybody, new=sorted(held)[-3:]) == dearest


def test_places_are_exchanged_often_at_first() -> None:
    pauses = [rotate_pause_s(searching_s=age, every_s=60.0) for age in (0, 100, 400, 1200, 9999)]
    assert pauses == [5.0, 5.0, 20.0, 60.0, 60.0]


def test_a_newcomer_finds_about_as_many_clients_as_others_have() -> None:
    clients = 1_000
    tried = sum(
        tries_newcomer(places=24, workers=1_000, draw=number / clients) for number in range(clients)
    )
    assert tried == 24
    assert tries_newcomer(places=24, workers=3, draw=0.999)
