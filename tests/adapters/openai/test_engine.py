"""The engine against a real server: what is probed, sold, passed on and given up."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from node.adapters.openai.engine import LOOK_EVERY_S, OpenAIEngine
from node.adapters.openai.http import Server as Address
from node.adapters.openai.served import Ability
from node.errors import PeerError, Unavailable
from node.protocol import tool_calls
from node.protocol.chat import NO_TOOLS, Call, Chat, ChatMessage, Tool, Toolbox
from node.protocol.formats import ANY_OBJECT
from node.protocol.sampling import Sampling
from node.protocol.statements import Skill, Tier
from node.protocol.tool_calls import CallPart, CallReader
from node.roles.generation import GenerationRequest, TokenStep
from tests.adapters.openai.served import tiny
from tests.adapters.openai.server import NAME, Habits, Server, running

CHAT = Chat(messages=(ChatMessage(role="user", content="What is a voucher?"),))
GREEDY = Sampling(temperature=0)


@asynccontextmanager
async def selling(
    habits: Habits, *, slots: int = 2, **more: Any
) -> AsyncIterator[tuple[OpenAIEngine, Server]]:
    async with running(habits) as (server, url), trio.open_nursery() as nursery:
        engine = OpenAIEngine(
            Address.at(url, key=habits.key), [tiny()], slots=slots, queue_max=2, **more
        )
        with trio.fail_after(60):
            await nursery.start(engine.run)
        yield engine, server
        nursery.cancel_scope.cancel()


def request(**changes: Any) -> GenerationRequest:
    served = tiny()
    plain: dict[str, Any] = {
        "model": served.manifest.model_id,
        "max_tokens": 24,
        "sampling": GREEDY,
    }
    return GenerationRequest(**(plain | changes))


async def eventually(true: Callable[[], bool]) -> None:
    for _ in range(800):
        if true():
            return
        await trio.sleep(0.05)
    raise AssertionError("it never came true")


async def read(engine: OpenAIEngine, **changes: Any) -> list[TokenStep]:
    with trio.fail_after(30):
        async with engine.generate(request(**changes)) as steps:
            return [step async for step in steps]


async def test_a_server_of_ids_is_sold_in_tier_ids() -> None:
    async with selling(Habits()) as (engine, server):
        (model,) = engine.models()
        assert (model.tier, model.exact, model.continues) == (Tier.IDS, False, True)
        assert model.rates.decode_tps > 1
        assert model.rates.prefill_tps > 1
        found = engine.abilities["tiny-served"]
        lacking = {trial.ability for trial in found.trials if not trial.has}
        assert lacking == {
            Ability.LOGPROBS,
            Ability.ECHO,
            Ability.JSON_OBJECT,
            Ability.JSON_SCHEMA,
            Ability.TOOLS,
            Ability.EMBEDDINGS,
            Ability.DIMENSIONS,
        }
        prompt = tiny().encode("A voucher is")
        steps = await read(engine, prompt_ids=tuple(prompt))
        ids = [token for step in steps for token in step.ids]
        assert steps[-1].finish is not None
        async with server.engine.generate(request(prompt_ids=tuple(prompt))) as same:
            assert ids == [token async for step in same for token in step.ids]


async def test_a_server_of_text_is_sold_in_tier_text() -> None:
    async with selling(Habits(ids=False, continues=False)) as (engine, _):
        (model,) = engine.models()
        assert (model.tier, model.continues) == (Tier.TEXT, False)
        assert model.tokenizer == tiny().tokenizer
        steps = await read(engine, chat=CHAT)
        assert "".join(step.text for step in steps)
        assert steps[-1].finish in ("stop", "length")


@pytest.mark.parametrize(
    ("habits", "tier", "says"),
    [
        (Habits(continues=False), Tier.IDS, "go in and come out"),
        (Habits(usage=False), Tier.IDS, "go in and come out"),
        (Habits(usage=False, prompt_ids=False), Tier.TEXT, "how many it read"),
        (Habits(shows_end=False), Tier.IDS, "go in and come out"),
        (Habits(ids=False, reasons=True), Tier.TEXT, "must be text"),
    ],
)
async def test_the_tier_follows_from_what_was_found(habits: Habits, tier: Tier, says: str) -> None:
    async with selling(habits) as (engine, _):
        assert engine.models()[0].tier is tier
        assert says in engine.abilities["tiny-served"].why


async def test_the_operator_may_want_text() -> None:
    async with selling(Habits(), ids_wanted=False) as (engine, _):
        assert engine.models()[0].tier is Tier.TEXT


async def test_a_text_is_gone_on_with_where_the_server_can() -> None:
    async with selling(Habits(ids=False)) as (engine, _):
        assert engine.models()[0].continues
        whole = "".join(step.text for step in await read(engine, chat=CHAT))
        half = whole[: len(whole) // 2].rstrip()
        rest = "".join(s.text for s in await read(engine, chat=CHAT, prefix_text=half))
        assert (half + rest)[: len(whole)] == whole


async def test_an_end_token_that_the_server_hides_is_told() -> None:
    async with selling(Habits(shows_end=False)) as (engine, server):
        prompt = server.text.render([{"role": "user", "content": "What is a voucher?"}])
        steps = await read(engine, prompt_ids=prompt, max_tokens=200)
        assert steps[-1].finish == "stop"
        assert steps[-1].ids[-1] in tiny().manifest.eos_ids


async def test_stop_strings_are_found_here_and_end_the_request() -> None:
    async with selling(Habits()) as (engine, server):
        prompt = server.text.render([{"role": "user", "content": "What is a voucher?"}])
        free = await read(engine, prompt_ids=prompt, ignore_eos=True)
        text = tiny().decode([token for step in free for token in step.ids])
        stop = text[5:9]
        steps = await read(engine, prompt_ids=prompt, stop=(stop,), ignore_eos=True)
        assert (steps[-1].finish, steps[-1].stop) == ("stop", stop)
        assert "stop" not in server.bodies[-1]


async def test_only_listed_parameters_are_passed_on() -> None:
    async with selling(Habits(ids=False)) as (engine, server):
        await read(
            engine,
            chat=CHAT,
            sampling=Sampling(temperature=0.5, top_k=3, presence=1, seed=2**63, choice=2),
            stop=("x",),
            ignore_eos=True,
        )
        assert server.bodies[-1] == {
            "model": "tiny-served",
            "messages": [{"role": "user", "content": "What is a voucher?"}],
            "max_tokens": 24,
            "temperature": 0.5,
            "top_p": 1.0,
            "seed": 2_000_006,
            "stream": True,
            "stream_options": {"include_usage": True},
            "top_k": 3,
            "presence_penalty": 1,
            "ignore_eos": True,
        }


async def test_a_format_is_passed_on_where_the_server_keeps_to_it() -> None:
    async with selling(Habits(ids=False, json=True)) as (engine, server):
        assert engine.models()[0].skills == Skill.JSON | Skill.SCHEMA
        steps = await read(engine, chat=CHAT, format='{"enum":["yes","no"]}', max_tokens=64)
        assert "".join(step.text for step in steps) in ('"yes"', '"no"')
        assert server.bodies[-1]["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": {"enum": ["yes", "no"]}},
        }
        with pytest.raises(Unavailable, match="can't be gone on with"):
            await read(engine, chat=CHAT, format=ANY_OBJECT, prefix_text="{")
        await read(engine, chat=CHAT, format=ANY_OBJECT)
        assert server.bodies[-1]["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("habits", [Habits(ids=False), Habits(json=True)])
async def test_no_format_is_taken_where_none_is_kept(habits: Habits) -> None:
    async with selling(habits) as (engine, server):
        assert engine.models()[0].skills == 0
        in_text = engine.models()[0].tier is Tier.TEXT
        asked: dict[str, Any] = {"chat": CHAT} if in_text else {"prompt_ids": (5, 6)}
        before = len(server.bodies)
        with pytest.raises(PeerError, match="format"):
            await read(engine, format=ANY_OBJECT, **asked)
        assert len(server.bodies) == before


WEATHER = Tool(
    name="weather",
    description="Says the weather.",
    parameters='{"type":"object","properties":{"city":{"enum":["Bern","Rome"]}},'
    '"required":["city"],"additionalProperties":false}',
)
TALK = Chat(
    messages=(
        ChatMessage(role="user", content="How is it in Rome?"),
        ChatMessage(
            role="assistant", content="", calls=(Call(id="c1", name="weather", arguments="{}"),)
        ),
        ChatMessage(role="tool", content="hot", call_id="c1"),
    ),
    toolbox=Toolbox(tools=(WEATHER, Tool(name="clock")), required=True, parallel=False),
)


async def test_tools_are_passed_on_and_calls_come_back_as_text() -> None:
    async with selling(Habits(ids=False, tools=True)) as (engine, server):
        assert engine.models()[0].skills == Skill.TOOLS
        steps = await read(engine, chat=TALK, max_tokens=64)
        reader = CallReader()
        parts = reader.push("".join(step.text for step in steps)) + reader.end()
        assert steps[-1].finish == "stop"
        assert all(isinstance(part, CallPart) for part in parts)
        name = parts[0].name  # type: ignore[union-attr]
        arguments = json.loads("".join(part.arguments for part in parts))  # type: ignore[union-attr]
        assert (name == "clock" and arguments == {}) or arguments["city"] in ("Bern", "Rome")
        body = server.bodies[-1]
        assert body["tool_choice"] == "required"
        assert body["parallel_tool_calls"] is False
        assert [each["function"]["name"] for each in body["tools"]] == ["weather", "clock"]
        assert body["tools"][0]["function"]["parameters"]["required"] == ["city"]
        assert body["messages"][1]["tool_calls"] == [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        ]
        assert body["messages"][2] == {"role": "tool", "content": "hot", "tool_call_id": "c1"}
        with pytest.raises(Unavailable, match="can't be gone on with"):
            await read(engine, chat=TALK, prefix_text="<tool_call>\n{")


async def test_one_tool_that_has_to_be_called_is_named() -> None:
    asked = replace(TALK, toolbox=Toolbox(tools=(WEATHER,), required=True))
    async with selling(Habits(ids=False, tools=True)) as (engine, server):
        steps = await read(engine, chat=asked, max_tokens=64)
        text = "".join(step.text for step in steps)
        assert text.startswith(tool_calls.opened("weather"))
        assert text.endswith(tool_calls.CLOSED)
        assert server.bodies[-1]["tool_choice"]["function"] == {"name": "weather"}
        cut = await read(engine, chat=asked, max_tokens=6)
        assert cut[-1].finish == "length"
        assert not "".join(step.text for step in cut).endswith(tool_calls.CLOSED)


async def test_no_tools_are_shown_to_a_server_that_does_not_call_them() -> None:
    async with selling(Habits(ids=False, json=True)) as (engine, server):
        before = len(server.bodies)
        for asked in (TALK, replace(TALK, toolbox=NO_TOOLS)):
            with pytest.raises(PeerError, match="tools"):
                await read(engine, chat=asked)
        assert len(server.bodies) == before


NOT_OPENAI = frozenset({"top_k", "repetition_penalty", "ignore_eos", "return_token_ids"})


async def test_a_server_that_refuses_what_it_does_not_know_is_sold_without_it() -> None:
    strict = Habits(refuses=NOT_OPENAI | {"continue_final_message"})
    async with selling(strict) as (engine, _):
        (model,) = engine.models()
        assert (model.tier, model.continues) == (Tier.TEXT, False)
        assert model.rates.decode_tps > 1
        found = engine.abilities["tiny-served"]
        assert not any(map(found.has, (Ability.TOP_K, Ability.REPETITION, Ability.IGNORE_EOS)))
        assert "".join(step.text for step in await read(engine, chat=CHAT))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampling": Sampling(top_k=5)}, "top_k"),
        ({"sampling": Sampling(repetition=1.5)}, "repetition_penalty"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"sampling": Sampling(logprobs=2)}, "log probabilities"),
    ],
)
async def test_what_the_server_can_not_do_is_no_request_to_it(
    changes: dict[str, Any], says: str
) -> None:
    async with selling(Habits(ids=False, refuses=NOT_OPENAI)) as (engine, server):
        before = len(server.bodies)
        with pytest.raises(Unavailable, match=says):
            await read(engine, **({"chat": CHAT} | changes))
        assert len(server.bodies) == before
        assert engine.models()


async def test_a_key_is_sent_and_a_wrong_one_sells_nothing() -> None:
    async with selling(Habits(key="secret-key")) as (engine, _):
        assert engine.models()
    async with running(Habits(key="secret-key")) as (_, url), trio.open_nursery() as nursery:
        engine = OpenAIEngine(Address.at(url, key="other"), [tiny()], slots=1, queue_max=0)
        await nursery.start(engine.run)
        assert engine.models() == ()
        assert "401" in engine.down
        nursery.cancel_scope.cancel()


async def test_leaving_a_job_ends_it_at_the_server() -> None:
    async with selling(Habits(pause_s=0.01)) as (engine, server):
        prompt = tuple(tiny().encode("A voucher is"))
        wanted = request(prompt_ids=prompt, max_tokens=200, ignore_eos=True)
        async with engine.generate(wanted) as steps:
            await anext(aiter(steps))
            assert server.engine.load().active == 1
        await eventually(lambda: not server.engine.load().active)
        assert engine.load().active == 0


async def test_a_server_gets_no_more_jobs_than_slots() -> None:
    async with selling(Habits(pause_s=0.01)) as (engine, server):
        most = 0

        async def one() -> None:
            nonlocal most
            prompt = tuple(tiny().encode("A voucher is"))
            async for _ in _steps(engine, request(prompt_ids=prompt, ignore_eos=True)):
                most = max(most, server.engine.load().active)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        assert most == 2


async def test_the_queue_is_bounded() -> None:
    async with selling(Habits(), slots=1) as (engine, _), AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(engine.generate(request(prompt_ids=(1,))))
        assert (engine.load().active, engine.load().queued) == (1, 2)
        with pytest.raises(Unavailable):
            await stack.enter_async_context(engine.generate(request(prompt_ids=(1,))))


async def _steps(engine: OpenAIEngine, wanted: GenerationRequest) -> AsyncIterator[TokenStep]:
    async with engine.generate(wanted) as steps:
        async for step in steps:
            yield step


async def test_a_server_may_come_late_leave_and_come_back() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with trio.open_nursery() as nursery:
        engine = OpenAIEngine(
            Address.at(f"http://127.0.0.1:{port}"), [tiny()], slots=2, queue_max=2
        )
        await nursery.start(engine.run)
        assert engine.models() == ()
        for _ in range(2):
            async with running(Habits(pause_s=0.02), port=port):
                await eventually(lambda: bool(engine.models()))
                prompt = tuple(tiny().encode("A voucher is"))
                job = engine.generate(request(prompt_ids=prompt, max_tokens=200, ignore_eos=True))
                steps_cm = await job.__aenter__()
                await anext(aiter(steps_cm))
            with trio.fail_after(10), pytest.raises(Unavailable):
                await _exhaust(steps_cm)
            await job.__aexit__(None, None, None)
            await eventually(lambda: not engine.models())
        nursery.cancel_scope.cancel()


async def _exhaust(steps: AsyncIterator[TokenStep]) -> None:
    async for _ in steps:
        pass


async def test_a_name_that_the_server_does_not_have_is_told_once() -> None:
    with capture_logs() as logs:
        async with selling(Habits(names=["llama", "qwen"])) as (engine, _):
            assert engine.models() == ()
            await trio.sleep(2 * LOOK_EVERY_S)
    [told] = [line for line in logs if "no such model" in line["event"]]
    assert (told["models"], told["has"]) == ([NAME], ["llama", "qwen"])


async def test_a_model_that_the_server_drops_is_sold_no_more() -> None:
    habits = Habits()
    async with selling(habits) as (engine, _):
        habits.names.clear()
        await eventually(lambda: not engine.models())
        with pytest.raises(Unavailable):
            async with engine.generate(request(prompt_ids=(1,))):
                pass
