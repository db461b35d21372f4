"""A client that tries again is answered by its first try, and pays once; one that repeats itself
is not held for one that tries again."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.adapters.http.errors import busy
from node.adapters.http.runs import REPLAY_S
from tests.adapters.http.world import QUESTION, Reply, World

CHAT = "/v1/chat/completions"
RETRY = {"x-stainless-retry-count": "1"}
KEYED = {"idempotency-key": "abc"}


async def chat(w: World, headers: dict[str, str], **more: Any) -> Reply:
    return await w.ask(CHAT, QUESTION, headers=headers, **more)


@pytest.mark.parametrize("headers", [RETRY, KEYED])
async def test_a_retry_is_given_the_first_answer(
    clock: MockClock, w: World, headers: dict[str, str]
) -> None:
    first = await chat(w, KEYED if headers is KEYED else {"x-stainless-retry-count": "0"})
    again = await chat(w, headers)
    assert again.json["id"] == first.json["id"]
    assert again.json["choices"] == first.json["choices"]
    assert len(w.desk.bought) == 1


@pytest.mark.parametrize("headers", [RETRY, KEYED])
async def test_a_retry_joins_what_is_under_way(
    clock: MockClock, w: World, headers: dict[str, str]
) -> None:
    replies: list[Reply] = []

    async def ask(own: dict[str, str], delay_s: float) -> None:
        await trio.sleep(delay_s)
        replies.append(await w.ask(CHAT, QUESTION | {"stream": True}, headers=own))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, KEYED if headers is KEYED else {}, 0.0)
        nursery.start_soon(ask, headers, 0.15)
    assert len(w.desk.bought) == 1
    assert [reply.text for reply in replies] == ["Hello", "Hello"]


async def test_repeating_oneself_is_no_retry(clock: MockClock, w: World) -> None:
    for headers in ({}, {}, {"x-stainless-retry-count": "0"}):
        await chat(w, headers)
    assert len(w.desk.bought) == 3


async def test_a_retry_of_something_else_is_run(clock: MockClock, w: World) -> None:
    await chat(w, {})
    await w.ask(CHAT, QUESTION | {"seed": 5}, headers=RETRY)
    assert len(w.desk.bought) == 2


async def test_a_key_is_for_one_request(clock: MockClock, w: World) -> None:
    await chat(w, KEYED)
    other = await w.ask(CHAT, QUESTION | {"seed": 5}, headers=KEYED)
    assert (other.status, other.error["code"]) == (400, "idempotency_key_reused")
    assert len(w.desk.bought) == 1


@pytest.mark.parametrize("headers", [RETRY, KEYED])
async def test_what_brought_no_answer_is_tried_again(
    clock: MockClock, w: World, headers: dict[str, str]
) -> None:
    w.desk.script.error = busy("no bids")
    assert (await chat(w, KEYED if headers is KEYED else {})).status == 503
    w.desk.script.error = None
    assert (await chat(w, headers)).status == 200
    assert len(w.desk.bought) == 2


@pytest.mark.parametrize("headers", [RETRY, KEYED])
async def test_what_was_not_brought_to_its_end_is_tried_again(
    clock: MockClock, w: World, headers: dict[str, str]
) -> None:
    w.desk.script.failure, w.desk.script.finish = "died; nobody went on", "error"
    assert (await chat(w, KEYED if headers is KEYED else {})).status == 502
    w.desk.script.failure, w.desk.script.finish = "", "stop"
    assert (await chat(w, headers)).status == 200
    assert len(w.desk.bought) == 2


@pytest.mark.parametrize("headers", [RETRY, KEYED])
async def test_answers_are_kept_for_a_minute(
    clock: MockClock, w: World, headers: dict[str, str]
) -> None:
    await chat(w, KEYED if headers is KEYED else {})
    await trio.sleep(REPLAY_S - 1)
    await chat(w, headers)
    assert len(w.desk.bought) == 1
    await trio.sleep(REPLAY_S + 1)
    await chat(w, headers)
    assert len(w.desk.bought) == 2


async def test_whoever_named_its_request_may_leave_and_come_back(
    clock: MockClock, w: World
) -> None:
    w.desk.script.pieces = ("x",) * 20
    await chat(w, KEYED, leave_s=0.5)
    again = await chat(w, KEYED)
    assert again.json["choices"][0]["message"]["content"] == "x" * 20
    assert [job.cancelled for job in w.desk.bought] == [""]


async def test_whoever_left_without_a_name_begins_anew(clock: MockClock, w: World) -> None:
    w.desk.script.pieces = ("x",) * 20
    await chat(w, {}, leave_s=0.5)
    again = await chat(w, RETRY)
    assert again.json["choices"][0]["message"]["content"] == "x" * 20
    assert [job.cancelled for job in w.desk.bought] == ["the client left", ""]


async def test_a_run_that_others_read_goes_on_when_one_leaves(clock: MockClock, w: World) -> None:
    w.desk.script.pieces = ("x",) * 20
    replies: list[Reply] = []

    async def stay() -> None:
        await trio.sleep(0.3)
        replies.append(await chat(w, RETRY))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stay)
        await chat(w, {}, leave_s=0.6)
    assert replies[0].json["choices"][0]["message"]["content"] == "x" * 20
    assert len(w.desk.bought) == 1


async def test_what_is_kept_is_bounded(
    clock: MockClock, w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.adapters.http.runs.KEPT_MAX", 5)
    for seed in range(20):
        await w.ask(CHAT, QUESTION | {"seed": seed})
    assert len(w.runs._known) <= 7
    assert w.runs.active == 0
