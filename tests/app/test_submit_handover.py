"""`node submit` beside an owner of its home that takes jobs on, over the real socket."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.app import control, control_call
from node.app.control import Follower
from node.app.home import Home
from node.app.submit_request import SubmitRequest
from node.errors import ConfigError, ExitCode, NoPeers, UsageError

REPORT: dict[str, Any] = {
    "job_id": "ab", "model": "m", "text": None, "finish_reason": "stop", "failure": None,
    "tokens_in": 3, "tokens_cached": 0, "tokens_out": 2, "amount_micro": 5, "timings": None,
    "receipt": "/r", "segments": [{}],
}  # fmt: skip
ENDED = {"report": REPORT, "unsaved": None}
BEGIN = [
    {"kind": "ready"},
    {"kind": "awarded"},
    {"kind": "say", "line": "awarded to 0x1: score"},
    {"kind": "text", "text": "one "},
]
Owner = Callable[[bytes, Follower], Awaitable[Any]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """No keystore: a job that is handed over needs none."""
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    (path / "config.toml").write_text("")
    return Home(path)


@asynccontextmanager
async def owned(home: Home, owner: Owner | None) -> AsyncIterator[trio.Nursery]:
    with home.own("gateway" if owner else "serve"):
        async with trio.open_nursery() as nursery:
            streams = {"submit": owner} if owner else {}
            await nursery.start(control.serve_control, home, {}, streams)
            yield nursery
            nursery.cancel_scope.cancel()


async def submit(
    home: Home, *argv: str, then: Callable[[subprocess.Popen[bytes]], None] | None = None,
    stdin: bytes = b"",
) -> tuple[int, str, str]:  # fmt: skip
    def run() -> tuple[int, str, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "submit", "--home", str(home.path), *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        if then is not None:
            then(process)
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, (out or b"").decode(), err.decode()

    return await trio.to_thread.run_sync(run)


async def test_text_goes_to_stdout_and_all_else_to_stderr(home: Home) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        for event in (*BEGIN, {"kind": "text", "text": "two"}):
            follower.tell(event)
        return ENDED

    async with owned(home, owner):
        code, out, err = await submit(home, "hello")
    assert (code, out) == (ExitCode.OK, "one two\n")
    lines = err.splitlines()
    assert lines[0] == "awarded to 0x1: score"
    assert re.fullmatch(r"3 tokens in, 2 out, 0\.000005 paid; first token after .*", lines[1])
    assert lines[2] == "receipt: /r"


async def test_json_is_one_object_with_text_and_times(home: Home) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        for event in BEGIN:
            follower.tell(event)
        return ENDED

    async with owned(home, owner):
        code, out, err = await submit(home, "--json", "hello")
    report = json.loads(out)
    assert (code, err) == (ExitCode.OK, "")
    assert list(report) == list(REPORT)
    assert report["text"] == "one "
    timings = report["timings"]
    assert 0 < timings["start_ms"] <= timings["auction_ms"] <= timings["first_token_ms"]


async def test_every_option_and_a_long_prompt_arrive(home: Home) -> None:
    told: list[dict[str, Any]] = []

    async def owner(body: bytes, follower: Follower) -> Any:
        told.append(json.loads(body))
        return ENDED

    prompt = "\x00é" * 700_000  # six bytes in JSON, each
    async with owned(home, owner):
        code, _, err = await submit(
            home, "--model", "m", "--system", "s", "--seed", "7", "--stop", "a", "--stop", "b",
            "--top-p", "0.5", "--max-price", "9", "--bootstrap", "/ip4/1.2.3.4/tcp/1",
            "--set", "client.silence_s=3", "-", stdin=prompt.encode(),
        )  # fmt: skip
    assert code == ExitCode.OK, err
    [sent] = told
    assert sent["settings"] == {"network.bootstrap": ["/ip4/1.2.3.4/tcp/1"], "client.silence_s": 3}
    request = SubmitRequest.from_json(sent["request"])
    assert request.prompt == prompt
    assert (request.model, request.system, request.seed) == ("m", "s", 7)
    assert (request.stops, request.top_p, request.price_micro_max) == (("a", "b"), 0.5, 9)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_the_job_in_order(home: Home, number: signal.Signals) -> None:
    stopped: list[bool] = []

    async def owner(body: bytes, follower: Follower) -> Any:
        for event in BEGIN:
            follower.tell(event)
        await follower.stopped.wait()
        stopped.append(True)
        follower.tell({"kind": "text", "text": "last"})
        return {"report": {**REPORT, "finish_reason": "cancelled"}, "unsaved": None}

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"one "
        process.send_signal(number)

    async with owned(home, owner):
        code, out, err = await submit(home, "hello", then=interrupt)
    assert (code, out, stopped) == (ExitCode.INTERRUPTED, "last\n", [True])
    assert "receipt: /r" in err


async def test_the_second_interrupt_leaves_at_once(home: Home) -> None:
    left = trio.Event()

    async def owner(body: bytes, follower: Follower) -> Any:
        follower.tell({"kind": "text", "text": "one "})
        await follower.stopped.wait()
        follower.tell({"kind": "text", "text": "two "})
        await follower.told.wait()
        left.set()

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for word in (b"one ", b"two "):
            assert process.stdout.read(4) == word
            process.send_signal(signal.SIGINT)

    async with owned(home, owner) as nursery:
        code, _, err = await submit(home, "hello", then=interrupt)
        assert (code, err.strip()) == (ExitCode.INTERRUPTED, "interrupted")
        nursery.cancel_scope.cancel()


async def test_an_interrupt_before_a_worker_had_it(home: Home) -> None:
    began = trio.Event()

    async def owner(body: bytes, follower: Follower) -> Any:
        began.set()
        await follower.stopped.wait()
        return {"abandoned": "cancelled"}

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        trio.from_thread.run(began.wait)
        trio.from_thread.run(trio.sleep, 0.3)
        process.send_signal(signal.SIGINT)

    async with owned(home, owner):
        code, out, err = await submit(home, "hello", then=interrupt)
    assert (code, out, err.strip()) == (ExitCode.INTERRUPTED, "", "interrupted")


async def test_a_reader_that_leaves_ends_the_job(home: Home) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        while not follower.stopped.is_set():
            follower.tell({"kind": "text", "text": "word " * 100})
            await trio.sleep(0.05)
        return ENDED

    def leave(process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stdout.read(4)
        process.stdout.close()
        process.stdout = None

    async with owned(home, owner):
        code, _, err = await submit(home, "hello", then=leave)
    assert code == ExitCode.FAILED
    assert "Traceback" not in err
    assert "receipt: /r" in err


@pytest.mark.parametrize("argv", [(), ("--json",)])
async def test_an_owner_that_dies_in_mid_job_is_said(home: Home, argv: tuple[str, ...]) -> None:
    began = trio.Event()

    async def owner(body: bytes, follower: Follower) -> Any:
        follower.tell({"kind": "text", "text": "one "})
        began.set()
        await trio.sleep_forever()

    runs = 0

    async def counted(body: bytes, follower: Follower) -> Any:
        nonlocal runs
        runs += 1
        await owner(body, follower)

    async with owned(home, counted) as nursery:

        async def die() -> None:
            await began.wait()
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()

        nursery.start_soon(die)
        with trio.CancelScope(shield=True):
            code, out, err = await submit(home, *argv, "hello")
    assert (code, runs) == (ExitCode.TRY_AGAIN, 1)
    assert out == ("" if argv else "one ")
    assert "error: the gateway that had the job ended before it" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no worker"),
        NoPeers("nobody", hint="look"),
        ConfigError("the running gateway has another"),
    ],
)
async def test_errors_keep_their_code_and_hint(home: Home, error: Any) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        raise error

    async with owned(home, owner):
        code, out, err = await submit(home, "hello")
    assert (code, out) == (error.exit_code, "")
    assert err.splitlines()[0] == f"error: {error}"
    assert ("hint: look" in err) == bool(error.hint)


@pytest.mark.parametrize(
    ("result", "code", "words"),
    [
        ({"abandoned": "the gateway was stopped"}, 75, "the gateway was stopped"),
        ({"report": {**REPORT, "failure": "it stopped"}, "unsaved": None}, 75, "it stopped"),
        (
            {
                "report": REPORT,
                "unsaved": {"message": "can't be written", "hint": "", "exit_code": 78},
            },
            78,
            "can't be written",
        ),
    ],
)
async def test_other_ends(home: Home, result: Any, code: int, words: str) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        return result

    async with owned(home, owner):
        got, _, err = await submit(home, "hello")
    assert got == code
    assert err.splitlines()[-1] == f"error: {words}"


async def test_an_owner_that_takes_no_jobs_is_as_before(home: Home) -> None:
    async with owned(home, None):
        code, out, err = await submit(home, "hello")
    assert (code, out) == (ExitCode.TRY_AGAIN, "")
    assert "in use by `node serve`" in err


async def test_a_frozen_owner_does_not_hold_the_command(home: Home) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        await trio.sleep_forever()

    async with owned(home, owner):

        def ask() -> None:
            with control_call.follow(home, "submit", b"{}", within_s=0.3) as job:
                list(job.events())

        with pytest.raises(control_call.HungUp, match="does not go on"):
            await trio.to_thread.run_sync(ask)


async def test_two_hundred_at_once_are_all_served(home: Home) -> None:
    most = now = 0

    async def owner(body: bytes, follower: Follower) -> Any:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await trio.sleep(0.02)
        now -= 1
        return json.loads(body)

    def ask(number: int) -> Any:
        with control_call.follow(home, "submit", b"%d" % number, within_s=60) as job:
            assert not list(job.events())
            return job.result

    results = []
    async with owned(home, owner), trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            results.append(
                await trio.to_thread.run_sync(ask, number, limiter=trio.CapacityLimiter(1))
            )

        for number in range(200):
            nursery.start_soon(one, number)
    assert sorted(results) == list(range(200))
    assert 16 < most <= 64


async def test_a_body_that_is_too_long_or_cut_begins_nothing(home: Home) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        raise AssertionError("began")

    async with owned(home, owner):

        def too_long() -> None:
            with control_call.follow(home, "submit", b"x" * 17_000_000, within_s=5) as job:
                list(job.events())

        with pytest.raises(control_call.HungUp):
            await trio.to_thread.run_sync(too_long)
        with control_call.reachable(home.socket) as address:
            stream = await trio.open_unix_socket(address)
        async with stream:
            await stream.send_all(b'{"method": "submit", "parameters": {"bytes": 100}}\n')
            assert json.loads(await stream.receive_some(100)) == {"event": "go"}
            await stream.send_all(b"{}")
            await stream.send_eof()
            assert await stream.receive_some(100) == b""


async def test_showing_a_job_imports_nothing_heavy(home: Home) -> None:
    async def owner(body: bytes, follower: Follower) -> Any:
        for event in BEGIN:
            follower.tell(event)
        return ENDED

    code = (
        f"import sys; sys.argv = ['node', 'submit', '--home', {str(home.path)!r}, 'hello']\n"
        "from node.cli.main import run; assert run('node') == 0\n"
        "heavy = {'web3', 'libp2p', 'numpy', 'onnxruntime', 'rich', 'trio', 'structlog', 'eth',"
        " 'cryptography', 'tokenizers', 'coincurve', 'msgpack', 'orjson', 'node.protocol'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    async with owned(home, owner):
        done = await trio.run_process(
            [sys.executable, "-c", code], capture_stderr=True, capture_stdout=True, check=False
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "change",
    [{"prompt": 1}, {"stops": ["a", 1]}, {"seed": "7"}, {"top_k": True}, {"more": 1}],
)
def test_a_request_that_is_none_is_refused(change: dict[str, Any]) -> None:
    told = SubmitRequest(prompt="p", started_s=0.0).to_json()
    assert SubmitRequest.from_json(json.loads(json.dumps(told))).prompt == "p"
    with pytest.raises(UsageError):
        SubmitRequest.from_json({**told, **change})
