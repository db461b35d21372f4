"""How models are given tools: natively, in words, and by a format that makes the answer a call."""

import json
from typing import Any

import pytest

from node.adapters import grammar
from node.app import tooling
from node.errors import UsageError
from node.protocol.chat import NO_TOOLS, Call, ChatMessage, Tool, Toolbox

WEATHER = Tool(
    name="weather",
    description="Says the weather.",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "place": {"$ref": "#/$defs/Place"},
                "again": {"$ref": "#"},
                "enum": {"anyOf": [{"$ref": "#/$defs/Place"}, {"enum": [{"$ref": "#"}]}]},
            },
            "required": ["place"],
            "additionalProperties": False,
            "$defs": {
                "Place": {"type": "object", "properties": {"in": {"$ref": "#/$defs/Place"}}},
            },
        }
    ),
)
CLOCK = Tool(name="clock")
ASKED = (ChatMessage(role="user", content="What time is it?"),)
TALK = (
    ChatMessage(role="system", content="Be good."),
    *ASKED,
    ChatMessage(
        role="assistant", content="I look.", calls=(Call(id="c1", name="clock", arguments="{}"),)
    ),
    ChatMessage(role="tool", content="noon", call_id="c1"),
)


def schema_of(shown: tooling.Shown) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown.format)
    return found


def test_a_model_that_knows_tools_is_left_to_choose() -> None:
    box = Toolbox(tools=(WEATHER, CLOCK))
    shown = tooling.shown(TALK, box, native=True, forces=False)
    assert (shown.messages, shown.toolbox, shown.format, shown.whole) == (TALK, box, "", False)


def test_a_server_that_forces_calls_is_left_to_do_it() -> None:
    box = Toolbox(tools=(WEATHER,), required=True)
    shown = tooling.shown(TALK, box, native=True, forces=True)
    assert (shown.toolbox, shown.format, shown.whole) == (box, "", False)


def test_a_model_that_has_to_call_is_made_to_by_a_format() -> None:
    box = Toolbox(tools=(WEATHER, CLOCK), required=True)
    shown = tooling.shown(ASKED, box, native=True, forces=False)
    assert shown.toolbox == Toolbox(tools=box.tools)
    assert shown.whole
    names = [each["properties"]["name"]["const"] for each in schema_of(shown)["anyOf"]]
    assert names == ["weather", "clock"]


def test_schemas_of_several_tools_keep_apart_and_can_be_forced() -> None:
    other = Tool(name="weather-2", parameters=WEATHER.parameters)
    box = Toolbox(tools=(WEATHER, other, CLOCK), required=True)
    shown = tooling.shown(ASKED, box, native=False, forces=False)
    defs = schema_of(shown)["$defs"]
    assert list(defs) == ["weather", "weather.Place", "weather-2", "weather-2.Place", "clock"]
    assert defs["weather"]["properties"]["place"] == {"$ref": "#/$defs/weather.Place"}
    assert defs["weather-2"]["properties"]["again"] == {"$ref": "#/$defs/weather-2"}
    assert defs["weather-2"]["properties"]["enum"]["anyOf"] == [
        {"$ref": "#/$defs/weather-2.Place"},
        {"enum": [{"$ref": "#"}]},
    ]
    assert defs["weather-2.Place"]["properties"]["in"] == {"$ref": "#/$defs/weather-2.Place"}
    assert defs["clock"] == {"type": "object", "properties": {}, "additionalProperties": False}
    grammar.check(shown.format)


def test_a_model_without_tools_is_told_in_words_and_may_answer() -> None:
    shown = tooling.shown(TALK, Toolbox(tools=(CLOCK,)), native=False, forces=False)
    assert shown.toolbox == NO_TOOLS
    assert [each.role for each in shown.messages] == ["system", "user", "assistant", "user"]
    system, _, called, result = (each.content for each in shown.messages)
    assert '{"name": "clock", "description": ""' in system
    assert system.endswith("\n\nBe good.")
    assert called == 'I look.\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    assert result == "<tool_response>\nnoon\n</tool_response>"
    answer, call = schema_of(shown)["anyOf"]
    assert list(answer["properties"]) == ["content"]
    assert call["properties"]["name"] == {"const": "clock"}
    grammar.check(shown.format)


def test_a_conversation_that_had_calls_needs_no_tools() -> None:
    shown = tooling.shown(TALK, NO_TOOLS, native=False, forces=False)
    assert (shown.format, shown.messages[0].content) == ("", "Be good.")


@pytest.mark.parametrize("parameters", ['{"not":{}}', '{"$ref":"https://x"}', '{"oneOf":[{}]}'])
def test_what_no_format_can_do_is_refused_where_one_is_needed(parameters: str) -> None:
    box = Toolbox(tools=(Tool(name="f", parameters=parameters),), required=True)
    assert tooling.shown(ASKED, box, native=True, forces=True).toolbox == box
    with pytest.raises(UsageError, match="can't be forced"):
        tooling.shown(ASKED, box, native=False, forces=False)
