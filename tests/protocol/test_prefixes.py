"""Beginnings of prompts by their hashes."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.prefixes import BLOCK_TOKENS, heads, savable

some_ids = st.lists(st.integers(0, 2**32 - 1), max_size=5 * BLOCK_TOKENS)


@given(some_ids, some_ids)
def test_prompts_share_as_many_heads_as_whole_blocks(one: list[int], other: list[int]) -> None:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    common = [a for a, b in zip(heads(one), heads(other), strict=False) if a == b]
    assert len(common) == shared // BLOCK_TOKENS


@given(some_ids)
def test_what_follows_changes_no_head_before_it(ids: list[int]) -> None:
    assert len(heads(ids)) == len(ids) // BLOCK_TOKENS
    assert heads([*ids, *range(BLOCK_TOKENS)])[: len(heads(ids))] == heads(ids)


def test_another_owner_has_other_heads() -> None:
    ids = range(2 * BLOCK_TOKENS)
    assert not set(heads(ids, start=b"a" * 20)) & set(heads(ids, start=b"b" * 20))


def test_the_end_of_a_prompt_is_never_saved() -> None:
    assert [savable(n) for n in (0, 1, 33, 34, 65, 66)] == [0, 0, 0, 32, 32, 64]
