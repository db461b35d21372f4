"""Who has read what: the longest beginning, within bounds, for a while."""

import pytest
import trio

from node.protocol.prefixes import BLOCK_TOKENS, heads
from node.roles import readers
from node.roles.readers import LIFE_S, READERS_MAX, Readers
from tests.roles.fakes import TrioClock

MODEL, OTHER = b"m" * 32, b"o" * 32
ANNA, BERT = b"a" * 20, b"b" * 20
LONG = heads(range(10 * BLOCK_TOKENS))
FORK = heads([*range(4 * BLOCK_TOKENS), *range(6 * BLOCK_TOKENS)])


async def test_the_longest_beginning_of_each_worker(autojump_clock: trio.testing.MockClock) -> None:
    known = Readers(TrioClock())
    assert known.known(MODEL, LONG) == {}
    known.read(ANNA, MODEL, LONG[:7])
    known.read(BERT, MODEL, FORK)
    assert known.known(MODEL, LONG) == {ANNA: 7 * BLOCK_TOKENS, BERT: 4 * BLOCK_TOKENS}
    assert known.known(OTHER, LONG) == {}
    assert known.known(MODEL, ()) == {}


async def test_what_is_long_ago_counts_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    known = Readers(TrioClock())
    known.read(ANNA, MODEL, LONG)
    await trio.sleep(LIFE_S - 1)
    known.read(ANNA, MODEL, LONG[:3])
    assert known.known(MODEL, LONG) == {ANNA: 10 * BLOCK_TOKENS}
    await trio.sleep(2)
    assert known.known(MODEL, LONG) == {ANNA: 3 * BLOCK_TOKENS}


async def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "HEADS_MAX", 8)
    known = Readers(TrioClock())
    known.read(ANNA, MODEL, LONG[:6])
    known.read(BERT, MODEL, FORK[:8])
    assert len(known._readers) == 8
    # What is left of Anna's is shared with Bert's; his own is whole.
    assert known.known(MODEL, FORK)[BERT] == 8 * BLOCK_TOKENS
    for number in range(2 * READERS_MAX):
        known.read(bytes([number]) * 20, MODEL, LONG[:1])
    assert len(known.known(MODEL, LONG[:1])) == READERS_MAX
