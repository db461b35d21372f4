"""What servers say of calls, as text; of all the forms that servers give it."""

from typing import Any

import pytest

from node.adapters.openai import replies
from node.adapters.openai.replies import CallText
from node.errors import Unavailable
from node.protocol.tool_calls import written


def delta(content: str = "", *calls: dict[str, Any]) -> replies.Delta:
    return replies.read({"choices": [{"delta": {"content": content, "tool_calls": list(calls)}}]})


def call(index: int | None, name: str | None = None, arguments: Any = "") -> dict[str, Any]:
    made: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return made if index is None else made | {"index": index}


def text_of(*deltas: replies.Delta) -> str:
    said = CallText()
    return "".join(map(said.push, deltas)) + said.rest()


def test_name_first_and_then_the_arguments() -> None:
    assert text_of(
        delta("I look. "), delta("", call(0, "f")), delta("", call(0, None, '{"a"')),
        delta("\n", call(0, None, ":1}")),
    ) == "I look. \n" + written("f", '{"a":1}')  # fmt: skip


def test_several_calls_one_after_the_other() -> None:
    assert text_of(
        delta("", call(0, "f", '{"a":1}')), delta("", call(1, "g")), delta(" ")
    ) == written("f", '{"a":1}') + "\n" + written("g", "{}")


def test_all_calls_at_once_without_an_index_and_with_objects() -> None:
    both = delta("", call(None, "f", {"ü": 1}), call(None, "g", {}))
    assert text_of(both) == written("f", '{"ü": 1}') + "\n" + written("g", "{}")


def test_servers_that_count_wrongly_or_repeat_the_name() -> None:
    same = text_of(delta("", call(0, "f", "{}")), delta("", call(0, "g", "{}")))
    assert same == written("f", "{}") + "\n" + written("g", "{}")
    twice = text_of(delta("", call(0, "f")), delta("", call(0, "f", "{}")))
    assert twice == written("f", "{}")


def test_text_behind_a_call_ends_it() -> None:
    assert text_of(delta("", call(0, "f", "{}")), delta("So.")) == written("f", "{}") + "\nSo."


@pytest.mark.parametrize(
    "deltas",
    [
        [delta("", call(0, "no name"))],
        [delta("", call(0, None, "{}"))],
        [delta("", call(0, "f", "{}")), delta("", call(1, None, "{}"))],
        [delta("", call(0, "f", "{}")), delta("x"), delta("", call(0, None, "{}"))],
    ],
)
def test_what_makes_no_sense_ends_the_job(deltas: list[replies.Delta]) -> None:
    with pytest.raises(Unavailable):
        text_of(*deltas)


@pytest.mark.parametrize(
    "calls",
    ["x", [1], [{"index": 0}], [call(0, "f", 5)], [{"index": "0", "function": {}}], [{}] * 129],
)
def test_what_is_of_no_known_form(calls: Any) -> None:
    with pytest.raises(Unavailable, match="call"):
        replies.read({"choices": [{"delta": {"tool_calls": calls}}]})
