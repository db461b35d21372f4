import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError
from node.protocol import chat, limits
from node.protocol.chat import Chat, ChatMessage

MESSAGES = st.builds(
    ChatMessage,
    role=st.sampled_from(chat.ROLES),
    content=st.text(st.characters(codec="utf-8"), max_size=40),
)
CHATS = st.builds(Chat, messages=st.lists(MESSAGES, min_size=1, max_size=5).map(tuple))


def of(*contents: str) -> Chat:
    return Chat(messages=tuple(ChatMessage(role="user", content=each) for each in contents))


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


def test_counting_ends_where_it_is_too_much() -> None:
    asked: list[int] = []

    def count(texts: Any) -> list[int]:
        asked.append(len(texts))
        return [1] * len(texts)

    assert of("a " * 50_000).tokens(count, at_most=100) > 100
    assert not asked
    assert of("a b " * 2_000, "c " * 900_000).tokens(count, at_most=4_010) > 4_010
    assert sum(asked) < 5_000
