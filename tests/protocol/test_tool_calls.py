"""Calls in a text: the same however it is cut, and nothing that is no call is taken for one."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.tool_calls import CallPart, CallReader, Part, written

ARGUMENTS = '{"city": "Bern }\\" </tool_call> {", "days": [1, {"n": 2}]}'
FIRST = written("weather", ARGUMENTS)
CUT = 60 - FIRST.index(ARGUMENTS)
SECOND = written("clock", "{}")
CASES: dict[str, tuple[bool, str, str, list[tuple[str, str]]]] = {
    "text": (False, " plain < text <tool ", " plain < text <tool ", []),
    "one": (False, FIRST, "", [("weather", ARGUMENTS)]),
    "text and two": (
        False,
        f"Sure.\n\n{FIRST}\n{SECOND}\n",
        "Sure.",
        [("weather", ARGUMENTS), ("clock", "{}")],
    ),
    "text behind": (False, f"{SECOND} done ", " done", [("clock", "{}")]),
    "other order": (
        False,
        'a <tool_call>{"arguments": {"é": 1}, "name": "f"}</tool_call>',
        "a",
        [("f", '{"é": 1}')],
    ),
    "arguments as a text": (
        False,
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        [("f", '{"a": 1}')],
    ),
    "no call": (
        False,
        "a <tool_call>what?</tool_call> b",
        "a <tool_call>what?</tool_call> b",
        [],
    ),
    "never ended": (False, "a <tool_call>\nhm", "a <tool_call>\nhm", []),
    "cut in its arguments": (
        False,
        FIRST[:60],
        "",
        [("weather", ARGUMENTS[:CUT])],
    ),
    "whole": (True, '{"name":"f","arguments":{"a":"é"}}', "", [("f", '{"a":"é"}')]),
    "whole in another order": (True, '{"arguments":{},"name":"f"}', "", [("f", "{}")]),
    "whole with an answer": (
        True,
        r'{"content":"a\nb \"c\" \u00e9\ud83d\ude00 \ud800x"}',
        'a\nb "c" é😀 \ufffdx',
        [],
    ),
    "an answer that is cut": (True, '{"content":"abc', "abc", []),
    "an answer that is cut in an escape": (True, r'{"content":"abc\u00', "abc\ufffd", []),
    "whole without one": (True, "nothing", "nothing", []),
    "a call without a name": (True, '{"name":"","arguments":{}}', '{"name":"","arguments":{}}', []),
}


def read(text: str, cuts: list[int], *, whole: bool) -> tuple[str, list[tuple[str, str]]]:
    """The text and the calls of a text that comes in pieces."""
    parts: list[Part] = []
    reader, before = CallReader(whole=whole), 0
    for cut in [*cuts, len(text)]:
        parts += reader.push(text[before:cut])
        before = cut
    parts += reader.end()
    calls: dict[int, CallPart] = {}
    for part in parts:
        if isinstance(part, CallPart):
            assert bool(part.name) == (part.index not in calls)
            known = calls.get(part.index)
            calls[part.index] = part if known is None else known.and_then(part)
    assert list(calls) == list(range(len(calls))) == list(range(reader.calls))
    shown = "".join(part for part in parts if isinstance(part, str))
    return shown, [(call.name, call.arguments) for call in calls.values()]


@pytest.mark.parametrize("name", CASES)
def test_text_and_calls(name: str) -> None:
    whole, text, shown, calls = CASES[name]
    assert read(text, [], whole=whole) == (shown, calls)
    assert read(text, list(range(len(text))), whole=whole) == (shown, calls)


@given(st.sampled_from(sorted(CASES)), st.data())
def test_how_it_is_cut_changes_nothing(name: str, data: Any) -> None:
    whole, text, shown, calls = CASES[name]
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    assert read(text, cuts, whole=whole) == (shown, calls)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True),
                  st.dictionaries(st.text(max_size=6), VALUES, max_size=4)),
        max_size=3,
    ),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=6),
)  # fmt: skip
def test_what_is_written_is_read_back(
    calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, cuts: list[int]
) -> None:
    texts = [(name, json.dumps(made, ensure_ascii=ascii_only)) for name, made in calls]
    text = "\n".join(written(name, arguments) for name, arguments in texts)
    inside = sorted(cut for cut in cuts if cut <= len(text))
    assert read(text, inside, whole=False) == ("", texts)


@settings(deadline=None)
@given(st.text(st.sampled_from('{}[]"\\ntol_cal</>:,ename rgumts'), max_size=80), st.booleans())
def test_nothing_is_lost_that_is_no_call(text: str, whole: bool) -> None:
    shown, calls = read(text, [3, 9] if len(text) > 9 else [], whole=whole)
    if not calls and not whole and "<tool_call>" not in text:
        assert shown == text
