"""The command line itself: exit codes, one line and a hint instead of tracebacks, JSON."""

import gc
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from node.cli import imports, main
from node.cli.verbs import VERBS
from node.config import Config
from node.errors import ExitCode, NodeError, NoPeers, WalletError

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run_command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["node", *arguments])
        return main.run("node")

    for name in ("GPUNODE_HOME", "GPUNODE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return run_command


@pytest.fixture
def home(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    path = str(tmp_path / "home")
    assert run("init", "--home", path, "--generate-password", "--light") == 0
    capsys.readouterr()
    return path


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `node version` end with an error."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def failing() -> None:
            raise error

        module = types.ModuleType("failing")
        module.__dict__["failing"] = failing
        monkeypatch.setitem(sys.modules, "failing", module)
        monkeypatch.setitem(VERBS, "version", ("failing:failing", ""))

    return arrange


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(
    verb: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(verb, "--help") == 0
    assert capsys.readouterr().out.startswith(f"Usage: node {verb}")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (NoPeers("nobody", hint="wait"), ExitCode.NO_PEERS, "error: nobody\nhint: wait\n"),
        (WalletError("no funds"), ExitCode.WALLET, "error: no funds\n"),
        (ExceptionGroup("", [NodeError("deep")]), ExitCode.FAILED, "error: deep\n"),
        (
            ExceptionGroup("", [ExceptionGroup("", [NoPeers("one")]), NodeError("two")]),
            ExitCode.NO_PEERS,
            "error: one\n",
        ),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted\n"),
        (
            BaseExceptionGroup("", [KeyboardInterrupt(), NodeError("cut off")]),
            ExitCode.INTERRUPTED,
            "interrupted\n",
        ),
        (click.Abort(), ExitCode.INTERRUPTED, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException,
    code: ExitCode,
    says: str,
    run: Run,
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error)
    assert run("version") == code
    out, err = capsys.readouterr()
    assert (out, err.lstrip("\n")) == ("", says)  # click ends the line that shows ^C


@pytest.mark.parametrize(
    "error", [ValueError("bug"), ExceptionGroup("", [NodeError("x"), ValueError("bug")])]
)
def test_bugs_keep_their_traceback(
    error: Exception, run: Run, raising: Callable[[BaseException], None]
) -> None:
    raising(error)
    with pytest.raises(type(error)):
        run("version")


def test_traceback_on_request(
    run: Run, raising: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(NoPeers("nobody"))
    monkeypatch.setenv("GPUNODE_DEBUG", "1")
    with pytest.raises(NoPeers):
        run("version")


def test_usage_errors(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("submit", "--sort", "beauty", "x") == ExitCode.USAGE
    assert "'beauty' is not one of 'score'" in capsys.readouterr().err
    assert run("receipts", "lst") == ExitCode.USAGE
    assert run("version", "--set", "x") == ExitCode.USAGE


def test_setting_without_a_value(run: Run, home: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--home", home, "--set", "worker.price_out") == ExitCode.USAGE
    assert "needs SECTION.KEY=VALUE" in capsys.readouterr().err


def test_wrong_setting(run: Run, home: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "--home", home, "--set", "worker.price=1") == ExitCode.CONFIG
    assert "there is no setting worker.price" in capsys.readouterr().err


def test_init_as_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "home")
    assert run("init", "--home", path, "--generate-password", "--light", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["home"] == path
    assert made["address"].startswith("0x")
    assert made["peer_id"].startswith("16Uiu2HA")


def test_init_with_settings(run: Run, tmp_path: Path) -> None:
    from node.config import load

    password = tmp_path / "password"
    password.write_text("pass\n")
    password.chmod(0o600)
    code = run(
        "--set", "worker.price_in=1", "init", "--home", str(tmp_path / "home"), "--light",
        "--password-file", str(password), "--rpc", "http://x:1", "--chain-id", "5",
        "--bootstrap", "/ip4/1.2.3.4/tcp/1", "--bootstrap", "/ip4/1.2.3.4/tcp/2",
        "--set", "worker.price_out=2",
    )  # fmt: skip
    assert code == 0
    config = load(tmp_path / "home")
    assert (config.chain.rpc_url, config.chain.chain_id) == ("http://x:1", 5)
    assert config.network.bootstrap == ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2")
    assert (config.worker.price_in, config.worker.price_out) == (1, 2)
    assert config.keystore.password_file == str(password)


def test_init_twice(run: Run, home: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "--home", home, "--generate-password") == ExitCode.CONFIG
    assert "has a key already" in capsys.readouterr().err


def test_home_before_or_after_the_verb_or_around_it(
    run: Run, home: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--home", home, "receipts", "list", "--json") == 0
    assert run("receipts", "list", "--home", home, "--json") == 0
    monkeypatch.setenv("GPUNODE_HOME", home)
    assert run("receipts", "list", "--json") == 0
    assert capsys.readouterr().out == "[]\n" * 3


def test_doctor_as_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--home", str(tmp_path / "none"), "--json") == ExitCode.FAILED
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {"name", "status", "detail", "fix"} == report["checks"][0].keys()


def test_doctor_numbers_its_fixes(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("doctor", "--home", str(tmp_path / "none"))
    assert f". home: node init --home {tmp_path / 'none'}" in capsys.readouterr().out


def test_refused_receipt(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.transcript").write_bytes(b"no transcript")
    path = str(tmp_path / "x.transcript")
    assert run("receipts", "verify", path, "--json") == ExitCode.FAILED
    report = json.loads(capsys.readouterr().out)
    assert report["verified"] is False
    assert report["failed"]


def test_missing_receipt(run: Run, home: str) -> None:
    assert run("receipts", "verify", "abcd", "--home", home) == ExitCode.CONFIG


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Any, bool]]:
    """What `node submit` hands to the application."""
    calls: list[tuple[Config, Any, bool]] = []

    def fake(config: Config, request: Any, *, json: bool) -> int:
        calls.append((config, request, json))
        return ExitCode.TRY_AGAIN

    module = types.ModuleType("node.app.submit")
    module.__dict__["run"] = fake
    monkeypatch.setitem(sys.modules, "node.app.submit", module)
    monkeypatch.setattr("node.app.submit", module, raising=False)
    return calls


def test_submit_hands_its_options_over(
    run: Run, home: str, submitted: list[tuple[Config, Any, bool]]
) -> None:
    code = run(
        "submit", "--home", home, "--json", "--model", "m", "--max-tokens", "7", "--stop", "a",
        "--stop", "b", "--seed", "9", "--sort", "latency", "--max-price", "55", "--deadline", "3",
        "--worker", "w", "--temperature", "0.5", "--top-k", "4", "--ignore-eos", "--timeout", "8",
        "--bootstrap", "/ip4/1.2.3.4/tcp/1", "--system", "s", "hello",
    )  # fmt: skip
    assert code == ExitCode.TRY_AGAIN
    ((config, request, as_json),) = submitted
    assert config.network.bootstrap == ("/ip4/1.2.3.4/tcp/1",)
    assert as_json
    shown = {
        name: getattr(request, name)
        for name in request.__dataclass_fields__
        if name not in ("started_s", "top_p", "frequency_penalty", "presence_penalty", "region")
    }
    assert shown == {
        "prompt": "hello", "system": "s", "model": "m", "max_tokens": 7, "temperature": 0.5,
        "top_k": 4, "seed": 9, "stops": ("a", "b"), "ignore_eos": True, "price_micro_max": 55,
        "deadline_s": 3.0, "sort": "latency", "worker": "w", "timeout_s": 8.0,
    }  # fmt: skip


def test_prompt_from_stdin(
    run: Run,
    home: str,
    submitted: list[tuple[Config, Any, bool]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "prompt").write_text("from a pipe\n")
    for arguments in ([], ["-"]):
        with (tmp_path / "prompt").open() as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            run("submit", "--home", home, *arguments)
    assert [request.prompt for _, request, _ in submitted] == ["from a pipe\n"] * 2


def test_prompt_that_is_no_text(
    run: Run, home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "prompt").write_bytes(b"\xff\xfe")
    with (tmp_path / "prompt").open() as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert run("submit", "--home", home, "-") == ExitCode.USAGE


def test_system_message_from_a_file(
    run: Run, home: str, submitted: list[tuple[Config, Any, bool]], tmp_path: Path
) -> None:
    file = tmp_path / "system"
    file.write_text("be brief\n")
    run("submit", "--home", home, "--system-file", str(file), "hello")
    assert [request.system for _, request, _ in submitted] == ["be brief\n"]
    both = ("submit", "--home", home, "--system", "s", "--system-file", str(file), "hello")
    assert run(*both) == ExitCode.USAGE
    file.write_bytes(b"\xff")
    assert run("submit", "--home", home, "--system-file", str(file), "hello") == ExitCode.USAGE
    missing = str(tmp_path / "none")
    assert run("submit", "--home", home, "--system-file", missing, "hello") == ExitCode.USAGE


def test_garbage_is_looked_for_again_after_the_imports_but_not_among_what_they_made() -> None:
    frozen = gc.get_freeze_count()
    try:
        with imports.quick():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        with pytest.raises(ImportError), imports.quick():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
