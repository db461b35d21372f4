"""Where an output ends and what its text is, id by id."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.stops import HELD_IDS_MAX, Output, StopMatcher, TextStream

EOS = 256


def decode(ids: Sequence[int]) -> str:
    """A tokenizer of single bytes; 256 is a special token."""
    return bytes(token for token in ids if token < 256).decode(errors="replace")


def output(stops: Sequence[str] = (), **changes: Any) -> Output:
    settings: dict[str, Any] = {"decode": decode, "eos_ids": [EOS], "max_tokens": 1000}
    return Output(stops=stops, **(settings | changes))


def run(out: Output, ids: Sequence[int]) -> str:
    """Text of ids until the output ends."""
    text = ""
    for token in ids:
        piece = out.push(token)
        text += piece.text
        if piece.finish:
            break
    return text


@given(st.text(max_size=60))
def test_text_comes_back_whatever_the_characters(text: str) -> None:
    stream = TextStream(decode)
    assert "".join(map(stream.push, text.encode())) + stream.flush() == text


def test_a_character_is_given_when_it_is_whole() -> None:
    stream = TextStream(decode)
    assert [stream.push(byte) for byte in "é€".encode()] == ["", "é", "", "", "€"]


def test_what_never_becomes_a_character_is_not_held_for_ever() -> None:
    stream = TextStream(decode)
    shown = [stream.push(0xFF) for _ in range(HELD_IDS_MAX)]
    assert shown[:-1] == [""] * (HELD_IDS_MAX - 1)
    assert shown[-1] == "\ufffd" * HELD_IDS_MAX


def test_spaces_that_depend_on_the_id_before() -> None:
    words = {0: "one", 1: "two", 2: "three"}
    stream = TextStream(lambda ids: " ".join(words[token] for token in ids))
    assert "".join(map(stream.push, [0, 1, 2, 0])) == "one two three one"


def test_end_token_counts_and_shows_nothing() -> None:
    out = output()
    assert run(out, [*b"abc", EOS, *b"more"]) == "abc"
    assert (out.count, out.finish) == (4, "stop")


def test_end_token_ignored() -> None:
    out = output(ignore_eos=True, max_tokens=6)
    assert run(out, [*b"ab", EOS, *b"cdef"]) == "abcde"
    assert (out.count, out.finish) == (6, "length")


def test_limit() -> None:
    out = output(max_tokens=2)
    assert run(out, b"abc") == "ab"
    assert (out.count, out.finish) == (2, "length")


def test_nothing_counts_after_the_end() -> None:
    out = output(max_tokens=1)
    out.push(1)
    with pytest.raises(ValueError, match="ended"):
        out.push(1)


def test_stop_string_is_cut_and_its_last_token_counts() -> None:
    out = output(["END"])
    assert run(out, b"one END two") == "one "
    assert out.count == len("one END")


def test_half_a_stop_string_shows_when_it_is_none() -> None:
    out = output(["END"])
    pieces = [out.push(byte).text for byte in b"aENxEN"]
    assert pieces == ["a", "", "", "ENx", "", ""]
    assert out.rest() == "EN"


def test_half_a_stop_string_shows_at_the_end() -> None:
    assert run(output(["END"], max_tokens=3), b"aEN") == "aEN"
    assert run(output(["END"]), [*b"aEN", EOS]) == "aEN"


def test_unfinished_character_shows_at_the_end() -> None:
    assert run(output(max_tokens=2), b"a\xc3") == "a\ufffd"


def test_the_stop_that_begins_first_is_the_one() -> None:
    matcher = StopMatcher(["bc", "abc", "zz", ""])
    assert matcher.push("xabc") == ("x", "abc")


def test_overlapping_starts() -> None:
    matcher = StopMatcher(["aab"])
    assert matcher.push("aa") == ("", None)
    assert matcher.push("a") == ("a", None)
    assert matcher.push("b") == ("", "aab")


def test_stops_need_text() -> None:
    with pytest.raises(ValueError, match="need text"):
        output(["a"], decode=None)
    counting = output(decode=None, max_tokens=2)
    assert run(counting, b"ab") == ""
    assert counting.finish == "length"


texts = st.text("abé", max_size=30)


@given(texts, st.lists(st.text("abé", min_size=1, max_size=4), max_size=3))
def test_the_text_is_all_that_stands_before_the_first_stop(text: str, stops: list[str]) -> None:
    out = output(stops, max_tokens=10_000)
    shown = run(out, text.encode())
    if out.finish is None:
        assert shown + out.rest() == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(shown)
        # The shortest beginning of the text that has a stop string in it:
        end = next(n for n in range(len(text) + 1) if any(s in text[:n] for s in stops))
        assert out.count == len(text[:end].encode())
        assert not any(stop in shown for stop in stops)


@given(texts, st.lists(st.text("abé", min_size=1, max_size=4), max_size=3), st.integers(0, 20))
def test_it_does_not_matter_where_an_output_was_taken_over(
    text: str, stops: list[str], seam: int
) -> None:
    """A second engine pushes the prefix, then goes on: it ends at the same id."""
    ids = text.encode()
    whole, first = output(stops), output(stops)
    run(whole, ids)
    run(first, ids[:seam])
    if first.finish is None:
        run(first, ids[seam:])
    assert (first.count, first.finish) == (whole.count, whole.finish)
