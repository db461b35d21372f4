"""Counting text: what a worker cuts and counts bit by bit is what a client counts of chunks."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.adapters.model_folder import load, shipped
from node.adapters.text.chat import ChatText
from node.errors import DecodeError
from node.protocol import limits, pieces
from node.protocol.chain_hash import TextChain
from node.protocol.pieces import Cutter, TextPiece
from node.protocol.text_output import TextOutput

LETTERS = st.characters(codec="utf-8")
TEXTS = st.text(st.one_of(st.sampled_from("ab \n\t\r.\u00a0\u3000漢😀"), LETTERS), max_size=120)
PARTS = st.lists(TEXTS, max_size=12)


def merging(texts: Sequence[str]) -> list[int]:
    """Like a tokenizer that merges: three letters are one token, two are two."""
    return [len(text) // 3 + len(text) % 3 for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Hello, world!\n", ["Hello,", " world!", "\n"]),
        ("  two  spaces ", ["  two", "  spaces", " "]),
        ("a\u00a0b\u3000c", ["a\u00a0b\u3000c"]),
        ("x" * 33, ["x" * 16, "x" * 16, "x"]),
        (" " * 18 + "end", [" " * 16, "  end"]),
        ("😀" * 17, ["😀" * 16, "😀"]),
    ],
)
def test_a_text_is_cut_before_white_space_and_after_sixteen(text: str, expected: list[str]) -> None:
    assert pieces.cut(text) == expected


@given(TEXTS)
def test_pieces_make_up_the_text_and_are_small(text: str) -> None:
    cut = pieces.cut(text)
    assert "".join(cut) == text
    assert all(1 <= len(piece) <= limits.PIECE_CHARS_MAX for piece in cut)


@given(TEXTS, st.integers(0, 20))
def test_a_cut_remembers_nothing(text: str, at: int) -> None:
    cut = pieces.cut(text)
    assert pieces.cut("".join(cut[at:])) == cut[at:]


@given(PARTS)
def test_a_worker_cuts_what_comes_bit_by_bit_as_the_whole(parts: list[str]) -> None:
    cutter = Cutter()
    made = [piece for part in parts for piece in cutter.push(part)] + cutter.rest()
    assert made == pieces.cut("".join(parts))


@given(PARTS, TEXTS)
def test_what_was_given_does_not_change_when_more_is_appended(parts: list[str], more: str) -> None:
    cutter = Cutter()
    given_out = [piece for part in parts for piece in cutter.push(part)]
    assert pieces.cut("".join(parts) + more)[: len(given_out)] == given_out


@settings(deadline=None)
@given(PARTS, st.data())
def test_worker_and_client_count_the_same_however_it_is_sent(
    parts: list[str], data: st.DataObject
) -> None:
    output = TextOutput(count=merging)
    made = [piece for part in parts for piece in output.push(part)]
    made += output.close()
    position, last, at = 0, "", 0
    while at < len(made):
        until = data.draw(st.integers(at + 1, len(made)))
        chunk = pieces.packed(made[at:until])
        text = pieces.text_of(chunk)
        assert pieces.may_follow(last, text)
        read = pieces.counted(pieces.cut(text), merging)
        assert list(read) == made[at:until]
        position += pieces.tokens_of(read)
        last, at = read[-1].data.decode(), until
    assert position == pieces.tokens_of(made)
    assert pieces.packed(made).decode() == "".join(parts)


@given(TEXTS, st.integers(1, 119))
def test_a_client_notices_a_piece_that_was_cut_in_two(text: str, at: int) -> None:
    before, after = text[:at], text[at:]
    if not before or not after:
        return
    joined, parts = pieces.cut(text), pieces.cut(before) + pieces.cut(after)
    assert pieces.may_follow(pieces.cut(before)[-1], after) == (parts == joined)


def test_a_stranger_s_tokenizer_counts_neither_nothing_nor_too_much() -> None:
    none = pieces.counted(["a", " bc"], lambda texts: [0] * len(texts))
    assert [piece.tokens for piece in none] == [1, 1]
    many = pieces.counted(["a", " bc", "é"], lambda texts: [10**6] * len(texts))
    assert [piece.tokens for piece in many] == [1, 3, 2]


@pytest.mark.parametrize("data", [b"\xff", "é".encode()[:1], b"ab\xf0\x9f\x98", b"\xed\xa0\x80"])
def test_half_characters_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        pieces.text_of(data)


@given(PARTS, st.sampled_from(["stop", "a", "ab", "\n\n", " b"]))
def test_nothing_of_a_stop_string_is_visible(parts: list[str], stop: str) -> None:
    whole = "".join(parts)
    output = TextOutput(count=merging, stops=(stop,))
    made = [piece for part in parts for piece in output.push(part)] + list(output.close())
    assert pieces.packed(made).decode() == whole.partition(stop)[0]


def test_as_many_items_fit_as_there_is_room_for() -> None:
    made = [TextPiece(data=b"abc", tokens=tokens) for tokens in (2, 3, 1)]
    assert [pieces.fitting(made, room) for room in range(8)] == [0, 0, 1, 1, 1, 2, 3, 3]
    assert pieces.fitting((7, 8, 9), 2) == 2
    assert pieces.fitting((), 2) == 0


def test_output_leads_to_the_same_chain_however_it_is_cut() -> None:
    made = pieces.counted(pieces.cut("one two three"), merging)
    chain = TextChain(bytes(20), bytes(16))
    whole, _ = pieces.grown(chain.head, chain, made)
    head, text = pieces.grown(chain.head, chain, made[:1])
    assert pieces.grown(head, text, made[1:])[0] == whole
    assert pieces.grown(head, text, ())[0] == head


def test_a_real_tokenizer_counts_a_text_about_as_in_one_piece() -> None:
    chat = ChatText.of(load(shipped()).client_files())
    text = "The worker sells tokens to the client. It is paid while they arrive.\n" * 8
    whole = len(chat.encode(text))
    counted = pieces.tokens_of(pieces.counted(pieces.cut(text), chat.count))
    assert abs(counted - whole) <= whole // 5
