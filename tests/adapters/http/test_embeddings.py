"""`/v1/embeddings`: what is read of a request, and how vectors are written."""

import base64
import json
import struct
from typing import Any

import pytest
from trio.testing import MockClock

from node.adapters.http.embeddings import JOB_BYTES_MAX, JOBS_MAX, TEXTS_MAX, read_embeddings
from node.adapters.http.errors import ApiError
from node.adapters.http.port import Ask
from node.protocol import embeddings, limits
from node.protocol.embeddings import Inputs
from tests.adapters.http.world import Script, World

PATH = "/v1/embeddings"


def read(**fields: Any) -> Ask:
    return read_embeddings(json.dumps({"model": "m", "input": "x"} | fields).encode())[0]


def test_one_text_and_several_are_read() -> None:
    assert read().inputs == (Inputs(texts=("x",)),)
    asked = read(input=["a", "b"], dimensions=64, user="me", models=["n"])
    assert asked.inputs == (Inputs(texts=("a", "b"), dimensions=64),)
    assert asked.models == ("m", "n")
    assert asked.answers == 1


def test_many_texts_are_several_jobs_in_order() -> None:
    texts = [f"text {n}" for n in range(TEXTS_MAX)]
    asked = read(input=texts)
    assert [text for each in asked.inputs for text in each.texts] == texts
    assert asked.answers == len(asked.inputs) == JOBS_MAX
    assert {len(each.texts) for each in asked.inputs} == {limits.INPUTS_MAX}
    long = ["é" * 8_000] * 5 + ["x" * 100_000, "y"]
    sizes = [sum(len(text.encode()) for text in each.texts) for each in read(input=long).inputs]
    assert sizes == [32_000, 32_000, 16_000, 100_000, 1]
    assert max(sizes[:3]) <= JOB_BYTES_MAX


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1], [2]]}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": ["x", None]}, "input[1]"),
        ({"input": ["x"] * (TEXTS_MAX + 1)}, "input"),
        ({"input": ["x" * JOB_BYTES_MAX] * (JOBS_MAX + 1)}, "input"),
        ({"input": "x" * 2**19}, "input[0]"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 2.0}, "dimensions"),
        ({"dimensions": limits.DIMENSIONS_MAX + 1}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"temperature": 0}, "temperature"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_field_that_is_unknown_or_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == 400
    assert caught.value.param == param


VECTORS = [(1.0, 0.5), (-2.0, 0.1)]
OUTPUT = "".join(embeddings.written(VECTORS))


async def test_vectors_are_numbers_or_base64(clock: MockClock, w: World) -> None:
    w.desk.script = Script(pieces=(OUTPUT[:9], OUTPUT[9:]))
    asked = {"model": "m", "input": ["x", "y"]}
    reply = await w.ask(PATH, asked)
    assert reply.status == 200
    found = reply.json
    assert [each["index"] for each in found["data"]] == [0, 1]
    assert {each["object"] for each in found["data"]} == {"embedding"}
    for each, vector in zip(found["data"], VECTORS, strict=True):
        assert each["embedding"] == pytest.approx(vector)
    assert (found["object"], found["model"]) == ("list", "m")
    assert found["usage"] == {
        "prompt_tokens": 3, "total_tokens": 3, "cost": 2e-05, "cost_micro": 20,
    }  # fmt: skip
    assert found["x_receipt"] == "/r/0.transcript"
    packed = (await w.ask(PATH, asked | {"encoding_format": "base64"})).json["data"]
    assert struct.unpack("<2f", base64.b64decode(packed[0]["embedding"])) == (1.0, 0.5)


async def test_the_vectors_of_several_jobs_are_one_list(clock: MockClock, w: World) -> None:
    count = limits.INPUTS_MAX
    w.desk.script = Script(pieces=("\n".join([OUTPUT.split("\n")[0]] * count),))
    found = (await w.ask(PATH, {"model": "m", "input": ["x"] * (2 * count)})).json
    assert [each["index"] for each in found["data"]] == list(range(2 * count))
    assert found["usage"]["prompt_tokens"] == 6
    assert found["x_receipts"] == ["/r/0.transcript", "/r/1.transcript"]


async def test_a_failure_is_an_error_and_no_vector(clock: MockClock, w: World) -> None:
    w.desk.script = Script(pieces=(OUTPUT,), failure="the worker's answer is none")
    reply = await w.ask(PATH, {"model": "m", "input": ["x", "y"]})
    assert (reply.status, reply.error["code"]) == (502, "worker_failed")
