"""`node submit` beside a running gateway of its home: the same, but at once."""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from node.errors import ExitCode
from tests.e2e.conftest import Devnet
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
PROMPT = "What is a voucher?"
LONG = ("--ignore-eos", "--max-tokens", "1500", PROMPT)
DIFFERENT = {"job_id", "worker", "amount_micro", "prices", "auction", "timings", "receipt"}
"""What two jobs of one seed may differ in; and of their segments, the worker and its prices."""


@pytest.fixture(scope="module")
def alone(devnet: Devnet) -> dict[str, Any]:
    return devnet.submit("--seed", "7", "--max-tokens", "40", PROMPT)


@pytest.fixture(scope="module")
def gateway(
    devnet: Devnet, alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with gateway_up(devnet.ready["client_home"], log) as running:
        yield running


def same(report: dict[str, Any]) -> dict[str, Any]:
    """What must be equal."""
    segments = [
        {k: v for k, v in each.items() if k not in ("worker", "prices", "amount_micro")}
        for each in report["segments"]
    ]
    return {k: v for k, v in report.items() if k not in DIFFERENT} | {"segments": segments}


def shape(value: Any) -> Any:
    """All keys, however deep."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return None


def test_the_same_report(devnet: Devnet, gateway: Gateway, alone: dict[str, Any]) -> None:
    assert devnet.node("submit", PROMPT, "--max-tokens", "5").code == 0
    handed = devnet.submit("--seed", "7", "--max-tokens", "40", PROMPT)
    assert list(handed) == list(alone)
    assert shape(handed) == shape(alone)
    assert same(handed) == same(alone)
    assert devnet.node("receipts", "verify", handed["receipt"]).code == 0
    timings = handed["timings"]
    assert timings["start_ms"] <= timings["auction_ms"] <= timings["first_token_ms"]
    assert timings["start_ms"] < alone["timings"]["start_ms"] / 2


def test_the_same_text_and_view(devnet: Devnet, gateway: Gateway, alone: dict[str, Any]) -> None:
    ran = devnet.node("submit", "--seed", "7", "--max-tokens", "40", PROMPT)
    assert ran.code == 0, ran.err
    assert ran.out == alone["text"].rstrip("\n") + "\n"
    assert "awarded to 0x" in ran.err
    assert "receipt: " in ran.err


def test_a_password_is_not_needed(devnet: Devnet, gateway: Gateway, tmp_path: Path) -> None:
    nowhere = ("--set", f"keystore.password_file={tmp_path / 'none'}")
    assert devnet.node(*nowhere, "submit", PROMPT, "--max-tokens", "3").code == 0


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--max-price", "0", PROMPT], 69),
        (["--worker", "0x" + "11" * 20, PROMPT], 69),
        (["--worker", "nonsense", PROMPT], 2),
        (["--model", "no-such-model", PROMPT], 69),
        (["--stop", "x" * 300, PROMPT], 2),
        (["--set", "client.silence_s=3", PROMPT], 78),
        (["--timeout", "0.3", *LONG], 75),
    ],
)
def test_what_cannot_be_done_is_said(
    devnet: Devnet, gateway: Gateway, argv: list[str], code: int
) -> None:
    ran = devnet.node("submit", *argv)
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    assert ran.err.splitlines()[-1].startswith(("error: ", "hint: "))


def test_many_at_once_are_all_served(devnet: Devnet, gateway: Gateway) -> None:
    with ThreadPoolExecutor(24) as pool:
        reports = list(
            pool.map(lambda n: devnet.submit("--max-tokens", "5", f"Question {n}"), range(24))
        )
    assert len({report["job_id"] for report in reports}) == 24


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_pays_for_what_came(
    devnet: Devnet, gateway: Gateway, number: signal.Signals
) -> None:
    process = devnet.start("submit", *LONG)
    assert process.stdout is not None
    first = process.stdout.read(5)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err
    newest = devnet.node("receipts", "list", "--json").json[0]
    assert f"{newest['tokens_out']} out, " in err
    assert 0 < newest["tokens_out"] < 1500
    assert first + out
    wait_idle(devnet)


def test_a_reader_that_leaves_ends_the_job(devnet: Devnet, gateway: Gateway) -> None:
    process = devnet.start("submit", *LONG)
    assert process.stdout is not None
    assert process.stdout.read(5)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(30) == ExitCode.FAILED
    assert int(err.split(" tokens in, ")[1].split()[0]) < 1500
    wait_idle(devnet)


def test_a_command_that_is_killed_ends_the_job(devnet: Devnet, gateway: Gateway) -> None:
    process = devnet.start("submit", *LONG)
    assert process.stdout is not None
    assert process.stdout.read(5)
    process.kill()
    process.communicate()
    wait_idle(devnet)
    assert devnet.node("status", "--json").json["gateway"]["submits"] == 0


def test_the_first_token_comes_at_once(devnet: Devnet, gateway: Gateway) -> None:
    took = [first_byte_s(devnet) for _ in range(20)]
    # 0.3 s on a machine that does nothing else; tests run beside one another.
    assert statistics.median(took) < 1.0, took


def first_byte_s(devnet: Devnet) -> float:
    """From the command's start to the first byte of its answer."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "submit", "--max-tokens", "16", PROMPT],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "GPUNODE_HOME": devnet.ready["client_home"]},
    )  # fmt: skip
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1)
    took_s = time.monotonic() - began_s
    process.communicate()
    return took_s


def wait_idle(devnet: Devnet) -> None:
    """Until no worker computes."""
    until_s = time.monotonic() + 20
    while any(
        devnet.node("status", "--json", home=worker["home"]).json["jobs"]["active"]
        for worker in devnet.ready["workers"]
    ):
        assert time.monotonic() < until_s, "the engine goes on"
