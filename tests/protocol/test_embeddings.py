import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError
from node.protocol import chat, embeddings, limits
from node.protocol.chat import Chat, ChatMessage, Tool, Toolbox
from node.protocol.embeddings import Inputs
from node.protocol.statements import Skill

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
INPUTS = st.builds(
    Inputs,
    texts=st.lists(TEXTS, min_size=1, max_size=4).map(tuple),
    dimensions=st.integers(0, limits.DIMENSIONS_MAX),
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def of(*texts: str, dimensions: int = 0) -> Inputs:
    return Inputs(texts=texts, dimensions=dimensions)


def letters(texts: Any) -> list[int]:
    return [len(text) for text in texts]


def line(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def test_the_canonical_form_is_the_one_on_the_page() -> None:
    assert of('Say "é"', "a\n").encode() == '{"input":["Say \\"é\\"","a\\n"]}'.encode()
    assert of("x", dimensions=256).encode() == b'{"dimensions":256,"input":["x"]}'


@given(INPUTS)
def test_what_is_encoded_is_read_back(inputs: Inputs) -> None:
    assert embeddings.decode(inputs.encode()) == inputs


def test_a_conversation_is_still_one() -> None:
    asked = Chat(messages=(ChatMessage(role="user", content='{"input":'),))
    assert embeddings.decode(asked.encode()) == asked


@pytest.mark.parametrize(
    "document",
    [
        {"input": []},
        {"input": "x"},
        {"input": [""]},
        {"input": ["x", 5]},
        {"input": [[1, 2]]},
        {"input": ["x"] * (limits.INPUTS_MAX + 1)},
        {"input": ["x"], "dimensions": 0},
        {"input": ["x"], "dimensions": -1},
        {"input": ["x"], "dimensions": True},
        {"input": ["x"], "dimensions": 2.0},
        {"input": ["x"], "dimensions": limits.DIMENSIONS_MAX + 1},
        {"input": ["x"], "model": "y"},
        {"input": ["x"], "messages": [{"content": "x", "role": "user"}]},
        {"dimensions": 5},
    ],
)
def test_what_is_not_listed_is_refused(document: Any) -> None:
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(DecodeError):
        embeddings.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"input":["x"]}\n',
        b'{"input": ["x"]}',
        b'{"input":["\\u0061"]}',
        b'{"input":["\\ud800"]}',
        b'{"input":["x"],"dimensions":4}',
        b'{"input":["x"],"input":["x"]}',
        b'{"input":' + b"[" * 100_000,
        b'{"input":["' + b"x" * limits.REQUEST_BYTES_MAX + b'"]}',
    ],
)
def test_other_bytes_of_the_same_inputs_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        embeddings.decode(data)


def test_half_a_character_and_too_much_are_no_inputs() -> None:
    with pytest.raises(DecodeError):
        of("\ud800")
    with pytest.raises(DecodeError):
        of("x" * limits.REQUEST_BYTES_MAX)


def test_inputs_count_their_texts_and_a_few_for_each() -> None:
    assert of("ab cde").tokens(letters) == 4 + 6
    assert of("ab cde", "f").tokens(letters) == 8 + 7
    assert of("a " * 5000, "b").tokens(letters, at_most=100) > 100


def test_what_workers_need() -> None:
    user = (ChatMessage(role="user", content="x"),)
    assert embeddings.skills_of(Chat(messages=user)) == 0
    with_tool = Chat(messages=user, toolbox=Toolbox(tools=(Tool(name="f"),)))
    assert embeddings.skills_of(with_tool) == Skill.TOOLS
    assert embeddings.skills_of(of("x")) == Skill.EMBEDDINGS
    assert embeddings.skills_of(of("x", dimensions=1)) == Skill.EMBEDDINGS | Skill.DIMENSIONS


@given(
    st.integers(1, 5).flatmap(
        lambda size: st.lists(
            st.lists(FLOATS, min_size=size, max_size=size).map(tuple), min_size=1, max_size=3
        )
    )
)
def test_vectors_are_read_as_they_were_written(vectors: list[tuple[float, ...]]) -> None:
    output = "".join(embeddings.written(vectors))
    assert embeddings.read(output, of(*["x"] * len(vectors))) == tuple(vectors)


@pytest.mark.parametrize("size", [1, 384, limits.DIMENSIONS_MAX])
def test_the_limit_of_a_job_is_enough_for_its_vectors(size: int) -> None:
    texts = ("x",) * limits.INPUTS_MAX
    output = "".join(embeddings.written([[1.0] * size] * limits.INPUTS_MAX))
    count = chat.text_tokens(output, letters)
    assert count <= of(*texts, dimensions=size).output_max <= of(*texts).output_max
    assert of(*texts).output_max + limits.REQUEST_BYTES_MAX <= embeddings.TOKENS_MAX
    assert len(output) <= limits.OUTPUT_BYTES_MAX


@pytest.mark.parametrize("number", [1e300, float("1e39")])
def test_what_no_float_holds_is_not_written(number: float) -> None:
    with pytest.raises(DecodeError):
        embeddings.written([[number]])


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "no possible size"),
        (line(1, 2), "1 vectors for 2"),
        ("\n".join([line(1)] * 3), "3 vectors for 2"),
        (line(1) + "\n" + line(1, 2), "several sizes"),
        (line(1, 2) + "\n", "no possible size"),
        (line(1) + "\nAAA=", "no possible size"),
        (line(1) + "\nAAAA*AAA", "not base64"),
        (line(1) + "\n AAAAAA==", "not base64"),
        (line(1) + "\n" + line(float("nan")), "not finite"),
        (line(1) + "\n" + line(float("-inf")), "not finite"),
        ("\n".join([line(*[1.0] * (limits.DIMENSIONS_MAX + 1))] * 2), "no possible size"),
        ("I'm sorry\nI can't", "not base64"),
        ("é\né", "not base64"),
    ],
)
def test_an_output_that_is_no_list_of_vectors_is_refused(output: str, why: str) -> None:
    inputs = of("x", "y") if output else of("x")
    with pytest.raises(DecodeError, match=why):
        embeddings.read(output, inputs)


def test_other_dimensions_than_were_asked_for_are_refused() -> None:
    assert embeddings.read(line(1, 2), of("x", dimensions=2)) == ((1.0, 2.0),)
    with pytest.raises(DecodeError, match="2 dimensions instead of 3"):
        embeddings.read(line(1, 2), of("x", dimensions=3))


@settings(deadline=None)
@given(st.text(max_size=100))
def test_only_its_own_error_escapes(output: str) -> None:
    try:
        embeddings.read(output, of("x"))
    except DecodeError:
        return
