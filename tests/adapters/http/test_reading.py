"""Every field of a body is known, in range, and does what it says; or it is named and refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.adapters.http.errors import ApiError
from node.adapters.http.port import Ask
from node.adapters.http.reading import read_chat, read_completion
from node.protocol.chat import NO_TOOLS, Call, ChatMessage, Tool, Toolbox
from tests.adapters.http.world import QUESTION


def chat(**fields: Any) -> Ask:
    return read_chat(json.dumps(QUESTION | fields).encode())[0]


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"} | fields]}


def schema_wanted(schema: Any, **fields: Any) -> dict[str, Any]:
    named = {"name": "x", "schema": schema} | fields
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | fields}


def called(**fields: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}} | fields


def chosen(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 1}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        (message(role="robot"), "messages[0].role"),
        (message(role=["user"]), "messages[0].role"),
        (message(role="tool"), "messages[0].tool_call_id"),
        (message(role="tool", tool_call_id="a b"), "messages[0].tool_call_id"),
        (message(role="function"), "messages[0].role"),
        (message(tool_call_id="c"), "messages[0].tool_call_id"),
        (message(content=None), "messages[0].content"),
        (message(content=5), "messages[0].content"),
        (message(content=[{"type": "image_url"}]), "messages[0].content[0].type"),
        (message(content=[{"type": "text"}]), "messages[0].content[0].text"),
        (message(tool_calls=[{"id": "1"}]), "messages[0].tool_calls"),
        (message(role="assistant", content=None), "messages[0].content"),
        (message(role="assistant", tool_calls=[{"id": "1"}]), "messages[0].tool_calls[0].type"),
        (message(role="assistant", tool_calls=[called(id="")]), "messages[0].tool_calls[0].id"),
        (
            message(role="assistant", tool_calls=[called(function={"name": "f g"})]),
            "messages[0].tool_calls[0].function.name",
        ),
        (message(name="bob"), "messages[0].name"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["x" * 257]}, "stop[0]"),
        ({"stop": ""}, "stop[0]"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool(name="f g")]}, "tools[0].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(x=1)]}, "tools[0].function.x"),
        (
            {"tools": [tool(parameters=json.loads('{"a":' * 70 + "1" + "}" * 70))]},
            "tools[0].function.parameters",
        ),
        (schema_wanted({"default": json.loads("[" * 70 + "]" * 70)}), "response_format"),
        ({"tools": [tool(), tool()]}, "tools"),
        ({"tools": [tool()] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": chosen("g")}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": chosen("f") | {"x": 1}}, "tool_choice.x"),
        ({"tools": [tool()], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": [tool()], "ignore_eos": True}, "ignore_eos"),
        ({"tools": [tool()]} | schema_wanted({}), "response_format"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_object", "x": 1}}, "response_format.x"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (schema_wanted(None), "response_format"),
        (schema_wanted({"type": "object", "not": {}}), "response_format"),
        (schema_wanted({"$ref": "https://example.org/schema"}), "response_format"),
        (schema_wanted({}, name=""), "response_format.json_schema.name"),
        (schema_wanted({}, strict="yes"), "response_format.json_schema.strict"),
        (schema_wanted({}, x=1), "response_format.json_schema.x"),
        (schema_wanted({}) | {"ignore_eos": True}, "ignore_eos"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"best_of": 2}, "best_of"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"user": "x" * 513}, "user"),
        ({"anything": {"nested": 1}}, "anything"),
        ({"provider": "x"}, "provider"),
        ({"provider": {"sort": "beauty"}}, "provider.sort"),
        ({"provider": {"order": "x"}}, "provider.order"),
        ({"provider": {"only": [1]}}, "provider.only[0]"),
        ({"provider": {"data_collection": "deny"}}, "provider.data_collection"),
        ({"provider": {"zdr": True}}, "provider.zdr"),
        ({"provider": {"max_price": {"image": 1}}}, "provider.max_price.image"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"prompt": "x"}}}, "provider.max_price.prompt"),
        (
            {"provider": {"preferred_max_latency": {"p90": 1}}},
            "provider.preferred_max_latency",
        ),
        ({"provider": {"experimental": {}}}, "provider.experimental"),
        ({"models": ["a"] * 9}, "models"),
        ({"model": "m:nitro", "models": ["k:floor"]}, "models"),
        ({"route": "other"}, "route"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": None, "tools": None, "stop": None},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        {"logit_bias": {}, "store": False, "service_tier": "auto", "modalities": ["text"]},
        {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"usage": {"include": True}, "route": "fallback", "min_p": 0, "n": 1},
        {"parallel_tool_calls": False, "presence_penalty": 0},
    ],
)
def test_what_asks_for_nothing_more_is_taken(fields: dict[str, Any]) -> None:
    assert chat(**fields) == chat()


def test_everything_that_a_client_may_set_is_in_the_ask() -> None:
    ask = chat(
        temperature=0.5, top_p=0.9, top_k=7, presence_penalty=1, frequency_penalty=-1,
        repetition_penalty=1.5, seed=-1, stop=["a", "b"], n=3, max_completion_tokens=9,
        logprobs=True, top_logprobs=4, ignore_eos=True,
        models=["k", "m"], model="m:floor",
    )  # fmt: skip
    sampling = ask.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.presence, sampling.frequency, sampling.repetition) == (1, -1, 1.5)
    assert (sampling.logprobs, ask.seed, ask.stops, ask.choices) == (4, 2**64 - 1, ("a", "b"), 3)
    assert (ask.max_tokens, ask.ignore_eos, ask.models) == (9, True, ("m", "k"))
    assert ask.routing.sort == "price"


def test_tools_and_what_may_be_chosen() -> None:
    first = tool(description="d", parameters={"b": 1, "a": 2}, strict=True)
    made = chat(tools=[first, tool(name="g")], parallel_tool_calls=False).toolbox
    assert made == Toolbox(
        tools=(Tool(name="f", description="d", parameters='{"b":1,"a":2}'), Tool(name="g")),
        parallel=False,
    )
    assert chat(tools=[tool()], tool_choice="none").toolbox == NO_TOOLS
    assert chat(tools=[tool()], tool_choice="required").toolbox.required
    named = chat(tools=[tool(), tool(name="g")], tool_choice=chosen("g")).toolbox
    assert named == Toolbox(tools=(Tool(name="g"),), required=True)


def test_a_conversation_with_calls_and_results() -> None:
    ask = chat(
        messages=[
            {"role": "user", "content": "x"},
            {"role": "assistant", "tool_calls": [called(index=0)], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "y"}]},
        ]
    )
    assert ask.messages == (
        ChatMessage(role="user", content="x"),
        ChatMessage(role="assistant", content="", calls=(Call(id="c1", name="f", arguments="{}"),)),
        ChatMessage(role="tool", content="y", call_id="c1"),
    )


def test_a_format_keeps_the_order_of_its_properties() -> None:
    assert chat(response_format={"type": "json_object"}).format == '{"type":"object"}'
    schema = {"type": "object", "properties": {"z": {"type": "null"}, "a": {"const": "é"}}}
    assert chat(**schema_wanted(schema, strict=True)).format == (
        '{"type":"object","properties":{"z":{"type":"null"},"a":{"const":"é"}}}'
    )


def test_a_conversation_in_parts_and_with_developers() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": [], "audio": None},
            {"role": "user", "content": ""},
        ]
    )
    assert [(each.role, each.content) for each in ask.messages] == [
        ("system", "be brief"),
        ("user", "ab"),
        ("assistant", "c"),
        ("user", ""),
    ]


def test_openrouters_preferences_are_the_auctions() -> None:
    routing = chat(
        provider={
            "order": ["0x1"], "only": ["0x2"], "ignore": ["0x3"], "allow_fallbacks": False,
            "require_parameters": True, "quantizations": ["fp16"], "sort": "latency",
            "preferred_min_throughput": 12.5, "preferred_max_latency": 0.4,
            "max_price": {"prompt": 0.1, "completion": "0.4"}, "data_collection": "allow",
        }
    ).routing  # fmt: skip
    assert (routing.order, routing.only, routing.ignore) == (("0x1",), ("0x2",), ("0x3",))
    assert (routing.allow_fallbacks, routing.sort) == (False, "latency")
    assert (routing.price_in_max, routing.price_out_max) == (100_000, 400_000)
    assert (routing.rate_mtps_min, routing.first_token_ms_max) == (12_500, 400)
    assert routing.quantizations == ("fp16",)


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2]], ((1,), (2,))),
    ],
)
def test_prompts_come_in_four_forms(prompt: Any, read: Any) -> None:
    ask, shape = read_completion(json.dumps({"model": "m", "prompt": prompt}).encode())
    assert (ask.prompts, ask.answers, shape.chat) == (read, len(read), False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**32]}, "prompt"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"prompt": "a", "suffix": "z"}, "suffix"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_what_is_wrong_in_a_completion_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_completion(json.dumps({"model": "m"} | fields).encode())
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 300_000, b'{"model":"\\ud800"}'],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_chat(body)
    assert caught.value.status == 400


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = """
model models messages provider temperature top_p n stop seed tools stream stream_options logprobs
top_logprobs max_tokens response_format usage route metadata x
"""


@given(st.dictionaries(st.sampled_from(NAMES.split()), values, max_size=6))
def test_whatever_the_fields_there_is_an_ask_or_an_error(fields: dict[str, Any]) -> None:
    statuses: set[int] = set()
    for read in (read_chat, read_completion):
        try:
            ask, _ = read(json.dumps(QUESTION | fields, allow_nan=False).encode())
        except ApiError as error:
            statuses.add(error.status)
            error.body()
        else:
            assert 1 <= ask.answers <= 16
    assert statuses <= {400}
