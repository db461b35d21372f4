"""The last resort, against a real server over our own engine, behind a market that has nobody."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from node.adapters.http.errors import ApiError, busy, model_not_found, unpaid
from node.adapters.http.port import Ended, Started, TokenText
from node.app.gateway_job import Counter, MarketJob, Wanted
from node.app.gateway_plan import Step
from node.app.gateway_resort import LastResortJob, Noted
from node.app.gateway_upstream import Upstream, _Cut
from node.app.ordering import Question
from node.config import Config, GatewayConfig, build
from node.errors import ConfigError
from node.protocol.chat import ChatMessage, Tool, Toolbox
from node.protocol.sampling import Sampling
from node.protocol.scoring import Preferences
from node.protocol.tool_calls import CallPart
from tests.adapters.openai.server import NAME, Habits, Server, running

WORKER = "0x" + "ab" * 20
OTHER = bytes.fromhex("cd" * 20)
QUESTION = Question(
    messages=(ChatMessage(role="user", content="What is a voucher?"),),
    sampling=Sampling(temperature=0),
    max_tokens=30,
)


@dataclass
class Sink:
    """Where the answer grows."""

    text: str = ""
    calls: list[CallPart] = field(default_factory=list)
    begun: list[Started] = field(default_factory=list)

    def started(self, started: Started) -> None:
        self.begun.append(started)

    def write(self, text: str, tokens: tuple[TokenText, ...]) -> None:
        self.text += text

    def call(self, part: CallPart) -> None:
        self.calls.append(part)


@dataclass
class Market:
    """A job of the market: it fails, or stops after some text."""

    sink: Noted
    error: ApiError | None = None
    text: str = ""
    tokens: int = 0
    failure: str = "died; nobody went on: no worker"
    cancelled: str = ""

    async def run(self) -> Ended:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        started = Started(job_id="0" * 32, model="m", provider=WORKER)
        self.sink.started(started)
        self.sink.write(self.text, ())
        return Ended(
            started=started, finish="error" if self.failure else "stop", failure=self.failure,
            tokens_in=9, tokens_cached=0, tokens_out=self.tokens, cost_micro=7, receipt="/r",
        )  # fmt: skip

    async def cancel(self, why: str) -> None:
        self.cancelled = why


@dataclass
class Scene:
    """One answer to come, and the server behind it."""

    server: Server
    url: str
    sink: Sink = field(default_factory=Sink)
    sellers: frozenset[bytes] = frozenset()
    question: Question = QUESTION
    limit: int | None = 30
    settings: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 60.0

    def job(self, **market: Any) -> LastResortJob:
        config = Config(
            home=Path("/"),
            gateway=GatewayConfig(upstream=self.url, timeout_s=self.timeout_s, **self.settings),
        )
        shelf = SimpleNamespace(sellers=lambda _name: self.sellers)
        noted = Noted(self.sink)
        step = Step(model="m", preferences=Preferences(price_micro_max=1))
        upstream = Upstream.of(config)
        assert upstream is not None
        return LastResortJob(
            cast(MarketJob, Market(noted, **market)),
            cast(Counter, SimpleNamespace(config=config, shelf=shelf)),
            Wanted(question=self.question, steps=(step,), precise=lambda _: True, limit=self.limit),
            noted,
            upstream=upstream,
            name=upstream.name_of(("m",)) or "",
        )


async def eventually(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        await trio.sleep(0.05)
    raise AssertionError("it never came true")


@asynccontextmanager
async def scene(habits: Habits | None = None, **changes: Any) -> AsyncIterator[Scene]:
    async with running(habits or Habits()) as (server, url):
        settings = {"upstream_models": (NAME,), **changes.pop("settings", {})}
        yield Scene(server, url, settings=settings, **changes)


async def test_with_nobody_the_server_answers_and_it_is_marked() -> None:
    async with scene() as s:
        ended = await s.job(error=busy("no worker")).run()
        assert s.sink.text
        assert s.server.bodies[0]["messages"] == [{"role": "user", "content": "What is a voucher?"}]
        assert s.server.bodies[0]["max_tokens"] == 30
    assert (ended.started.model, ended.started.provider) == (NAME, "upstream")
    assert ended.started.last_resort is not None
    assert ended.started.last_resort.after_tokens == 0
    assert "no worker" in ended.started.last_resort.reason
    assert (ended.cost_micro, ended.receipt, ended.failure) == (0, None, "")
    assert ended.finish in ("stop", "length")
    assert 0 < ended.tokens_out <= 30
    assert ended.tokens_in > 0


@pytest.mark.parametrize("error", [model_not_found("nobody sells it"), busy("no bids")])
async def test_no_request_is_made_while_a_worker_exists(error: ApiError) -> None:
    async with scene(sellers=frozenset({OTHER})) as s:
        with pytest.raises(ApiError) as caught:
            await s.job(error=error).run()
        ended = await s.job(text="A voucher", tokens=2).run()
        assert s.server.bodies == []
    assert caught.value is error
    assert ended.failure == Market.failure


async def test_other_errors_stay_what_they_are() -> None:
    async with scene() as s:
        with pytest.raises(ApiError) as caught:
            await s.job(error=unpaid("the deposit is empty")).run()
        whole = await s.job(text="A voucher is.", tokens=4, failure="").run()
        assert s.server.bodies == []
    assert caught.value.status == 402
    assert whole.finish == "stop"


async def test_an_answer_that_has_begun_goes_on_where_it_stopped() -> None:
    async with scene(settings={"upstream_continues": True}) as s:
        await s.job(error=busy("no worker")).run()
        whole, s.sink = s.sink.text, Sink()
        begun = whole[: len(whole) // 2]
        ended = await s.job(text=begun, tokens=5).run()
        body = s.server.bodies[-1]
    assert s.sink.text.startswith(begun)
    assert len(s.sink.text) > len(begun)
    assert body["messages"][-1] == {"role": "assistant", "content": begun}
    assert (body["continue_final_message"], body["max_tokens"]) == (True, 25)
    assert (ended.cost_micro, ended.receipt, ended.tokens_in) == (7, "/r", 9)
    assert 5 < ended.tokens_out <= 30
    mark = s.sink.begun[-1].last_resort
    assert mark is not None
    assert (mark.after_tokens, mark.reason) == (5, Market.failure)
    assert s.sink.begun[-1].job_id == s.sink.begun[0].job_id


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    async with scene() as s:
        ended = await s.job(text="A voucher", tokens=2).run()
        assert s.server.bodies == []
    assert s.sink.text == "A voucher"
    assert ended.finish == "error"
    assert "can't go on with an answer that has begun" in ended.failure
    assert (ended.cost_micro, ended.receipt) == (7, "/r")


async def test_a_format_is_passed_on_and_not_begun_in_the_middle() -> None:
    question = replace(QUESTION, format='{"type":"object"}')
    async with scene(question=question, settings={"upstream_continues": True}) as s:
        ended = await s.job(text='{"a', tokens=2).run()
        assert s.server.bodies == []
        assert "can't go on" in ended.failure
        await s.job(error=busy("no worker")).run()
        assert s.server.bodies[0]["response_format"]["type"].startswith("json")


CALLING = replace(
    QUESTION, toolbox=Toolbox(tools=(Tool(name="clock"), Tool(name="now")), required=True)
)


async def test_tools_are_passed_on_and_called() -> None:
    async with scene(question=CALLING, habits=Habits(tools=True)) as s:
        ended = await s.job(error=busy("no worker")).run()
        assert s.server.bodies[0]["tool_choice"] == "required"
    assert (ended.finish, s.sink.text) == ("tool_calls", "")
    assert s.sink.calls[0].name in ("clock", "now")
    assert "".join(part.arguments for part in s.sink.calls) == "{}"


async def test_an_answer_that_may_have_been_a_call_is_not_gone_on_with() -> None:
    settings = {"upstream_continues": True}
    async with scene(question=CALLING, habits=Habits(tools=True), settings=settings) as s:
        ended = await s.job(text="", tokens=3).run()
        assert s.server.bodies == []
    assert "can't go on" in ended.failure


async def test_a_prompt_of_text_is_gone_on_with() -> None:
    question = replace(QUESTION, messages=(), prompt="A voucher is")
    async with scene(question=question) as s:
        await s.job(text=" a signed", tokens=3).run()
        assert s.server.bodies[0]["prompt"] == "A voucher is a signed"
    assert s.sink.text.startswith(" a signed")


@pytest.mark.parametrize(
    "question",
    [
        replace(QUESTION, messages=(), prompt=(1, 2)),
        replace(QUESTION, sampling=Sampling(temperature=0, logprobs=2)),
    ],
    ids=["token ids", "logprobs"],
)
async def test_what_the_server_cannot_know_is_not_asked_of_it(question: Question) -> None:
    async with scene(question=question) as s:
        with pytest.raises(ApiError, match="no worker"):
            await s.job(error=busy("no worker")).run()
        assert s.server.bodies == []


async def test_the_workers_that_were_tried_are_not_left() -> None:
    worker = bytes.fromhex(WORKER[2:])
    async with scene(sellers=frozenset({worker}), settings={"upstream_continues": True}) as s:
        ended = await s.job(text="A voucher", tokens=2).run()
    assert ended.started.provider == "upstream"


async def test_an_answer_that_is_as_long_as_it_may_be_is_not_gone_on_with() -> None:
    async with scene(settings={"upstream_continues": True}, limit=2) as s:
        ended = await s.job(text="A voucher", tokens=2).run()
        assert s.server.bodies == []
    assert ended.failure == Market.failure


async def test_a_server_that_refuses_or_is_away_is_said(tmp_path: Path) -> None:
    async with scene(Habits(key="right")) as s:
        with pytest.raises(ApiError, match="no worker; the upstream answered 401") as caught:
            await s.job(error=busy("no worker")).run()
    assert caught.value.status == 503
    assert caught.value.headers
    with pytest.raises(ApiError, match="the upstream can't be reached"):
        await s.job(error=busy("no worker")).run()


async def test_its_key_comes_from_a_file_of_the_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("right\n")
    file.chmod(0o644)
    async with scene(Habits(key="right"), settings={"upstream_key_file": str(file)}) as s:
        with pytest.raises(ConfigError, match="others may read"):
            s.job()
        file.chmod(0o600)
        ended = await s.job(error=busy("no worker")).run()
    assert ended.finish in ("stop", "length")


async def test_a_cancel_ends_it_at_the_server_too() -> None:
    async with scene(Habits(pause_s=0.2), limit=1000) as s, trio.open_nursery() as nursery:
        s.question = replace(QUESTION, ignore_eos=True)
        job, results = s.job(error=busy("no worker")), []

        async def run() -> None:
            results.append(await job.run())

        nursery.start_soon(run)
        await eventually(lambda: bool(s.sink.text))
        await job.cancel("the client left")
        await eventually(lambda: bool(results) and not s.server.engine.load().active)
    [ended] = results
    assert ended.finish == "cancelled"
    assert ended.failure == "cancelled: the client left"


async def test_it_is_cut_off_in_time() -> None:
    async with scene(Habits(pause_s=0.2), limit=1000, timeout_s=1.0) as s:
        s.question = replace(QUESTION, ignore_eos=True)
        with trio.fail_after(5):
            ended = await s.job(error=busy("no worker")).run()
    assert ended.finish == "error"
    assert "not done in time" in ended.failure
    assert s.sink.text


@pytest.mark.parametrize(
    ("models", "asked", "name"),
    [
        ((), ("m",), "m"),
        (("own",), ("m",), "own"),
        (("m=own",), ("M",), "own"),
        (("m=own",), ("k",), None),
        (("m=own",), ("k", "m"), "own"),
        (("m=own", "rest"), ("k",), "rest"),
    ],
)
def test_which_model_it_is_asked_for(
    models: tuple[str, ...], asked: tuple[str, ...], name: str | None
) -> None:
    settings: dict[str, tuple[Any, str]] = {
        "gateway.upstream": ("http://127.0.0.1:1", "here"),
        "gateway.upstream_models": (models, "here"),
    }
    upstream = Upstream.of(build(Path("/"), settings))
    assert upstream is not None
    assert upstream.name_of(asked) == name


@pytest.mark.parametrize(
    ("setting", "value"),
    [("upstream", "ftp://x"), ("upstream", "nowhere"), ("upstream_models", ["m="]),
     ("upstream_models", ["=n"]), ("upstream_models", [" "])],
)  # fmt: skip
def test_settings_that_mean_nothing(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"gateway.{setting}"):
        build(Path("/"), {f"gateway.{setting}": (value, "here")})


@pytest.mark.parametrize(
    ("stops", "begun", "pieces", "shown"),
    [
        ((), "ab", ("cd", "e"), "cde"),
        (("END",), "abE", ("ND", "x"), ""),
        (("END",), "abE", ("x", "y"), "xy"),
        (("END",), "abEN", ("N", "END"), "N"),
        (("END",), "ab", ("c", "dE", "NDx"), "cd"),
        (("END",), "ab", ("c", "EN"), "cEN"),
    ],
)
def test_a_stop_string_may_begin_in_what_was_delivered(
    stops: tuple[str, ...], begun: str, pieces: tuple[str, ...], shown: str
) -> None:
    cut = _Cut(stops, begun)
    assert "".join(map(cut.push, pieces)) + cut.rest() == shown
