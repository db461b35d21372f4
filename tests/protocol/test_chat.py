import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError
from node.protocol import chat, limits
from node.protocol.chat import Call, Chat, ChatMessage, Tool, Toolbox

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
IDS = st.from_regex(r"[!-~]{1,64}", fullmatch=True)
CALLS = st.lists(st.builds(Call, id=IDS, name=NAMES, arguments=TEXTS), max_size=2).map(tuple)
MESSAGES = (
    st.builds(ChatMessage, role=st.sampled_from(("system", "user")), content=TEXTS)
    | st.builds(ChatMessage, role=st.just("assistant"), content=TEXTS, calls=CALLS)
    | st.builds(ChatMessage, role=st.just("tool"), content=TEXTS, call_id=IDS)
)
TOOLS = st.lists(
    st.builds(
        Tool, name=NAMES, description=TEXTS, parameters=st.sampled_from(("", "{}", '{"b":1,"a":2}'))
    ),
    max_size=3,
    unique_by=lambda tool: tool.name,
).map(tuple)
TOOLBOXES = TOOLS.flatmap(
    lambda tools: st.builds(
        Toolbox,
        tools=st.just(tools),
        required=st.booleans() if tools else st.just(False),
        parallel=st.booleans() if tools else st.just(True),
    )
)
CHATS = st.builds(
    Chat, messages=st.lists(MESSAGES, min_size=1, max_size=5).map(tuple), toolbox=TOOLBOXES
)


def of(*contents: str) -> Chat:
    return Chat(messages=tuple(ChatMessage(role="user", content=each) for each in contents))


DEEP = '{"a":' * 70 + "1" + "}" * 70
CALL = {"id": "c", "name": "f", "arguments": "{}"}


def tool(**changes: Any) -> dict[str, Any]:
    return {"name": "f", "description": "", "parameters": ""} | changes


def letters(texts: Any) -> list[int]:
    return [len(text) for text in texts]


def test_the_canonical_form_is_the_one_on_the_page() -> None:
    asked = Chat(
        messages=(
            ChatMessage(role="system", content='Say "é"'),
            ChatMessage(role="user", content="a\n\x01/"),
        ),
    )
    assert (
        asked.encode()
        == (
            '{"messages":[{"content":"Say \\"é\\"","role":"system"},'
            '{"content":"a\\n\\u0001/","role":"user"}]}'
        ).encode()
    )


@given(CHATS)
def test_what_is_encoded_is_read_back(asked: Chat) -> None:
    assert chat.decode(asked.encode()) == asked


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": ["user"], "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": "x", "name": "bob"}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": []},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "f"}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool(name="f g")]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool(parameters="[]")]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool(parameters="{")]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool(parameters={})]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool(parameters=DEEP)]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool(), tool()]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool()] * 129},
        {"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"},
        {"messages": [{"role": "user", "content": "x"}], "parallel_tool_calls": False},
        {"messages": [{"role": "user", "content": "x"}], "tools": [tool()], "tool_choice": "auto"},
        {
            "messages": [{"role": "user", "content": "x"}],
            "parallel_tool_calls": True,
            "tools": [tool()],
        },
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": ""}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "a b"}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": 5}]},
        {"messages": [{"role": "user", "content": "x", "tool_call_id": "c"}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "c"}]}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [CALL | {"id": ""}]}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [CALL | {"name": ""}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [CALL] * 129}]},
        {"messages": [{"role": "user", "content": "x"}], "temperature": 1},
        {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "text"}},
        {"messages": [{"role": "user", "content": "x"}] * (limits.CHAT_MESSAGES_MAX + 1)},
        [],
        "text",
        7,
    ],
)
def test_what_is_not_listed_is_refused(document: Any) -> None:
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(DecodeError):
        chat.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"messages": [{"content":"x","role":"user"}]}',
        b'{"messages":[{"role":"user","content":"x"}]}',
        b'{"messages":[{"content":"\\u0061","role":"user"}]}',
        b'{"messages":[{"content":"x","content":"x","role":"user"}]}',
        b'{"messages":[{"content":"\\ud800","role":"user"}]}',
        b'{"messages":[{"content":"x","role":"user"}]}\n',
        b'{"messages":[{"content":NaN,"role":"user"}]}',
    ],
)
def test_other_bytes_of_the_same_conversation_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        chat.decode(data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_only_its_own_error_escapes(data: bytes) -> None:
    try:
        chat.decode(data)
    except DecodeError:
        return


def test_half_a_character_and_too_much_are_no_conversation() -> None:
    with pytest.raises(DecodeError):
        of("\ud800")
    with pytest.raises(DecodeError):
        of("x" * limits.REQUEST_BYTES_MAX)


def test_prompt_tokens_are_those_of_the_contents_and_a_few_for_each() -> None:
    assert of("ab cde").tokens(letters) == 6 + 4 + 3
    assert of("ab cde", "").tokens(letters) == 6 + 8 + 3


def test_tools_and_calls_count_as_what_a_template_shows_of_them() -> None:
    call = Call(id="id-is-not-shown", name="ab", arguments="{}")
    asked = Chat(
        messages=(
            ChatMessage(role="assistant", content="", calls=(call,)),
            ChatMessage(role="tool", content="x", call_id="id-is-not-shown"),
        ),
        toolbox=Toolbox(tools=(Tool(name="abc", description="d", parameters="{}"),)),
    )
    assert asked.tokens(letters) == 3 + 4 * 4 + (2 + 2) + 1 + (3 + 1 + 2)


def test_counting_ends_where_it_is_too_much() -> None:
    asked: list[int] = []

    def count(texts: Any) -> list[int]:
        asked.append(len(texts))
        return [1] * len(texts)

    assert of("a " * 50_000).tokens(count, at_most=100) > 100
    assert not asked
    assert of("a b " * 2_000, "c " * 900_000).tokens(count, at_most=4_010) > 4_010
    assert sum(asked) < 5_000
