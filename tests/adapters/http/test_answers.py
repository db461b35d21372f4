"""Answers as OpenAI's clients read them, whole and as they grow."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.adapters.http.errors import ApiError, busy, unpaid
from node.adapters.http.port import LastResort, TokenText
from node.adapters.http.writing import KEEP_ALIVE, KEEP_ALIVE_S
from node.protocol.tool_calls import CallPart
from tests.adapters.http.world import WORKER, World


async def test_a_whole_answer(clock: MockClock, w: World) -> None:
    reply = await w.chat()
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    body = reply.json
    assert body["id"] == "chatcmpl-" + "0" * 32
    assert (body["object"], body["model"], body["provider"]) == ("chat.completion", "m", WORKER)
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert (choice["finish_reason"], choice["index"], choice["logprobs"]) == ("stop", 0, None)
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "cost": 2e-05,
        "cost_micro": 20,
    }
    assert body["x_receipt"] == "/r/0.transcript"


async def test_a_stream_grows_and_ends(clock: MockClock, w: World) -> None:
    reply = await w.chat(stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = reply.events
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": "Hel"}, {"content": "lo"}, {}]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, "stop"]
    assert chunks[-1]["x_receipt"] == "/r/0.transcript"
    assert usage["choices"] == []
    assert usage["usage"]["cost_micro"] == 20
    assert {each["object"] for each in [*chunks, usage]} == {"chat.completion.chunk"}
    assert len({each["id"] for each in [*chunks, usage]}) == 1


async def test_no_usage_that_was_not_asked_for(clock: MockClock, w: World) -> None:
    reply = await w.chat(stream=True)
    assert not any("usage" in chunk for chunk in reply.events[:-1])


async def test_what_is_due_in_one_turn_is_one_write(clock: MockClock, w: World) -> None:
    w.desk.script.pieces, w.desk.script.step_s = ("x",) * 50, 0.0
    reply = await w.chat(stream=True)
    assert reply.text == "x" * 50
    assert len(reply.writes) <= 52


async def test_completions_have_text(clock: MockClock, w: World) -> None:
    asked = {"model": "m", "prompt": ["a", "b"], "n": 2}
    reply = await w.ask("/v1/completions", asked)
    assert reply.json["object"] == "text_completion"
    assert [(c["index"], c["text"]) for c in reply.json["choices"]] == [
        (index, "Hello") for index in range(4)
    ]
    assert reply.json["usage"]["completion_tokens"] == 8
    assert len(reply.json["x_receipts"]) == 4
    streamed = await w.ask("/v1/completions", asked | {"stream": True})
    texts = ["", "", "", ""]
    for chunk in streamed.events[:-1]:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["Hello"] * 4


TOKENS = (
    (TokenText(text="Hel", logprob=-0.5, top=(("Hel", -0.5), ("Hal", -1.0))),),
    (TokenText(text="lo", logprob=float("-inf")),),
)


CALLS = (
    "Let me see.",
    CallPart(index=0, name="weather"),
    CallPart(index=0, arguments='{"city":'),
    CallPart(index=0, arguments='"Bern"}'),
    CallPart(index=1, name="clock", arguments="{}"),
)


async def test_calls_of_a_whole_answer(clock: MockClock, w: World) -> None:
    w.desk.script.pieces, w.desk.script.finish = CALLS, "tool_calls"
    [choice] = (await w.chat()).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    job = "0" * 32
    assert choice["message"] == {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "tool_calls": [
            {
                "id": f"call_{job}_0",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
            },
            {
                "id": f"call_{job}_1",
                "type": "function",
                "function": {"name": "clock", "arguments": "{}"},
            },
        ],
    }
    w.desk.script.pieces = CALLS[1:]
    [choice] = (await w.chat()).json["choices"]
    assert choice["message"]["content"] is None


@pytest.mark.parametrize("step_s", [0.0, 0.1])
async def test_calls_grow_in_a_stream_with_the_name_first(
    clock: MockClock, w: World, step_s: float
) -> None:
    w.desk.script.pieces, w.desk.script.finish = CALLS, "tool_calls"
    w.desk.script.step_s = step_s
    reply = await w.chat(stream=True)
    choices = [chunk["choices"][0] for chunk in reply.events[:-1]]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    assert choices[0]["delta"] == {"role": "assistant", "content": "Let me see."}
    parts = [part for c in choices for part in c["delta"].get("tool_calls", ())]
    named = [part for part in parts if "name" in part["function"]]
    assert [part["index"] for part in parts] == sorted(part["index"] for part in parts)
    assert [(part["index"], part["function"]["name"]) for part in named] == [
        (0, "weather"),
        (1, "clock"),
    ]
    assert all(part["type"] == "function" and part["id"] for part in named)
    assert all("id" not in part for part in parts if part not in named)
    arguments = [
        "".join(p["function"]["arguments"] for p in parts if p["index"] == n) for n in (0, 1)
    ]
    assert arguments == ['{"city":"Bern"}', "{}"]


async def test_log_probabilities_of_a_chat(clock: MockClock, w: World) -> None:
    w.desk.script.tokens = TOKENS
    reply = await w.chat(logprobs=True, top_logprobs=2)
    first, second = reply.json["choices"][0]["logprobs"]["content"]
    assert first["token"] == "Hel"
    assert first["bytes"] == list(b"Hel")
    assert [each["token"] for each in first["top_logprobs"]] == ["Hel", "Hal"]
    assert second["logprob"] == -9999.0
    streamed = await w.chat(logprobs=True, top_logprobs=2, stream=True)
    told = [
        token
        for chunk in streamed.events[:-1]
        for choice in chunk["choices"]
        if choice["logprobs"]
        for token in choice["logprobs"]["content"]
    ]
    assert told == [first, second]


async def test_log_probabilities_of_a_completion(clock: MockClock, w: World) -> None:
    w.desk.script.tokens = TOKENS
    reply = await w.ask("/v1/completions", {"model": "m", "prompt": "a", "logprobs": 2})
    told = reply.json["choices"][0]["logprobs"]
    assert told["tokens"] == ["Hel", "lo"]
    assert told["text_offset"] == [0, 3]
    assert told["token_logprobs"] == [-0.5, -9999.0]
    assert told["top_logprobs"][0] == {"Hel": -0.5, "Hal": -1.0}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status"), [(busy("no bids"), 503), (unpaid("empty"), 402)])
async def test_a_failure_before_the_first_text_is_a_status(
    clock: MockClock, w: World, error: ApiError, status: int, stream: bool
) -> None:
    w.desk.script.error = error
    reply = await w.chat(stream=stream)
    assert reply.status == status
    assert reply.error["message"] == str(error)
    assert reply.headers.get("retry-after") == ("1" if status == 503 else None)


async def test_a_failure_in_the_middle_is_told_in_the_stream(clock: MockClock, w: World) -> None:
    w.desk.script.failure, w.desk.script.finish = "the worker died", "error"
    reply = await w.chat(stream=True)
    assert reply.status == 200
    *_, error, done = reply.events
    assert error["error"]["code"] == "worker_failed"
    assert done == "[DONE]"
    assert not any(
        choice["finish_reason"] == ""
        for chunk in reply.events
        if isinstance(chunk, dict)
        for choice in chunk.get("choices", [])
    )
    whole = await w.chat()
    assert (whole.status, whole.error["code"]) == (502, "worker_failed")


async def test_whoever_waits_long_is_kept_alive(clock: MockClock, w: World) -> None:
    w.desk.script.step_s = 3.5 * KEEP_ALIVE_S
    reply = await w.chat(stream=True)
    assert reply.writes[:3] == [KEEP_ALIVE] * 3
    assert (
        "".join(c["choices"][0]["delta"].get("content", "") for c in reply.events[:-1]) == "Hello"
    )


async def test_a_failure_after_long_waiting_is_told_in_the_stream(
    clock: MockClock, w: World
) -> None:
    w.desk.script.step_s, w.desk.script.error = 15.0, busy("no bids")
    reply = await w.chat(stream=True)
    assert (reply.status, reply.writes[0]) == (200, KEEP_ALIVE)
    assert reply.events[0]["error"]["code"] == "no_bids"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_job_at_once(
    clock: MockClock, w: World, stream: bool
) -> None:
    w.desk.script.pieces = ("x",) * 100
    began_s = trio.current_time()
    await w.ask(
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream, "n": 2},
        leave_s=1.05,
    )
    await wait_all_tasks_blocked()
    assert [job.cancelled for job in w.desk.bought] == ["the client left"] * 2
    assert w.desk.running == 0
    assert trio.current_time() - began_s < 1.2


async def test_one_answer_that_fails_ends_the_others(clock: MockClock, w: World) -> None:
    w.desk.script.error = busy("no bids")
    reply = await w.chat(n=3)
    assert reply.status == 503
    assert w.desk.running == 0


async def test_a_bug_in_one_answer_ends_no_other(clock: MockClock, w: World) -> None:
    async def ask_twice() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.sleep(0.15)
            w.desk.script.error = AssertionError("a bug")  # type: ignore[assignment]
            reply = await w.chat()
            assert (reply.status, reply.error["code"]) == (500, "internal_error")

    async def other() -> None:
        assert (await w.chat()).status == 200

    await ask_twice()


async def test_what_no_worker_gave_is_marked(clock: MockClock, w: World) -> None:
    w.desk.script.taken_over = LastResort(after_tokens=1, reason="died")
    told = {"after_tokens": 1, "reason": "died"}
    reply = await w.chat(stream=True, stream_options={"include_usage": True})
    first, second, last = reply.events[:3]
    assert (first["provider"], "x_upstream" in first) == (WORKER, False)
    for chunk in (second, last):
        assert (chunk["model"], chunk["provider"], chunk["x_upstream"]) == (
            "own",
            "upstream",
            told,
        )
    assert len({each["id"] for each in reply.events[:-1]}) == 1
    whole = (await w.chat()).json
    assert (whole["model"], whole["provider"], whole["x_upstream"]) == ("own", "upstream", told)
    assert whole["choices"][0]["message"]["content"] == "Hello"
