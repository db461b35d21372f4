"""Workers that cheat, fall silent or die: real processes, against the real client."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devnet.misbehave import KINDS
from node.app import control, receipts
from node.app.home import Home
from node.errors import ExitCode
from tests.e2e.conftest import Devnet, devnet_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
PROMPT = "What is a voucher?"
SILENCE_S = 2.0
STARTS_WITHIN_S = 90.0
REASONS = {
    "overbill": "billed",
    "reprice": "where the terms come to",
    "after-end": "output after the end",
    "old-job": "another position",  # what came under the old id was dropped
    "silent": "no token for",
}


@pytest.fixture(scope="module")
def crooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    """An honest worker, and one of each kind of cheat after it."""
    folder: Path = tmp_path_factory.mktemp("crooked")
    workers = str(1 + len(KINDS))
    with devnet_up(folder, "--workers", workers, "--misbehave", ",".join(KINDS)) as running:
        yield running


def address(devnet: Devnet, number: int) -> str:
    return str(devnet.ready["workers"][number]["address"])


def due_micro(result: dict[str, Any]) -> int:
    """What the tokens that were delivered cost at the awarded prices."""
    prices = result["prices"]
    due = result["tokens_in"] * prices["in"] + result["tokens_out"] * prices["out"]
    return int(-(-due // 10**6))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_cheat_is_cut_off_with_its_reason(crooked: Devnet, kind: str) -> None:
    worker = address(crooked, 1 + list(KINDS).index(kind))
    silence = f"client.silence_s={SILENCE_S}"
    ran = crooked.node("submit", "--json", "--set", silence, "--worker", worker, PROMPT)
    assert ran.code == ExitCode.TRY_AGAIN, ran.err
    result = ran.json
    assert REASONS[kind] in result["failure"]
    assert result["text"]
    assert result["amount_micro"] <= due_micro(result)
    assert receipts.verify_file(Path(result["receipt"])).passed


def test_honest_workers_go_on_beside_them(crooked: Devnet) -> None:
    assert crooked.submit(PROMPT, "--worker", address(crooked, 0))["failure"] is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_in_mid_answer_is_replaced(
    tmp_path: Path, number: signal.Signals
) -> None:
    job = ("--ignore-eos", "--max-tokens", "1000", "--temperature", "0.8", "--seed", "7", PROMPT)
    with devnet_up(tmp_path, "--workers", "3") as devnet:
        whole = devnet.submit(*job)
        process = devnet.start("submit", "--json", *job)
        struck = wait_for_job(devnet, process)
        os.kill(struck["pid"], number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == ExitCode.OK, err
        result = json.loads(out)
        assert result["failure"] is None
        assert result["text"] == whole["text"]
        assert result["tokens_out"] == whole["tokens_out"] == 1000
        first, *others = result["segments"]
        assert others
        assert first["worker"] == struck["address"] != others[-1]["worker"] == result["worker"]
        assert first["stopped"]
        assert first["tokens_out"] == others[0]["position"] > 0
        assert result["amount_micro"] == sum(each["amount_micro"] for each in result["segments"])
        assert result["amount_micro"] <= sum(due_micro(each) for each in result["segments"])
        assert receipts.verify_file(Path(result["receipt"])).passed
        assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_with_nobody_to_go_on_the_text_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    with devnet_up(tmp_path, "--workers", "1") as devnet:
        process = devnet.start("submit", "--ignore-eos", "--max-tokens", "1500", PROMPT)
        os.kill(wait_for_job(devnet, process)["pid"], number)
        struck_s = time.monotonic()
        out, err = process.communicate(timeout=30)
        took_s = time.monotonic() - struck_s
        assert process.returncode == ExitCode.TRY_AGAIN, err
        assert out.strip()
        assert "stopped: " in err
        assert "nobody went on" in err
        assert "Traceback" not in err
        # Noticed within 5 s, and somebody looked for within 5 s; the rest is the command's own end.
        assert took_s < 13
        [receipt] = re.findall(r"^receipt: (.+)$", err, re.MULTILINE)
        assert receipts.verify_file(Path(receipt)).passed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_wanted_worker_is_not_replaced(tmp_path: Path, number: signal.Signals) -> None:
    with devnet_up(tmp_path, "--workers", "2") as devnet:
        process = devnet.start(
            "submit", "--json", "--ignore-eos", "--max-tokens", "1500",
            "--worker", address(devnet, 0), PROMPT,
        )  # fmt: skip
        wait_for_job(devnet, process)
        os.kill(devnet.ready["workers"][0]["pid"], number)
        struck_s = time.monotonic()
        out, err = process.communicate(timeout=30)
        took_s = time.monotonic() - struck_s
        assert process.returncode == ExitCode.TRY_AGAIN, err
        result = json.loads(out)
        assert result["failure"]
        assert result["text"]
        assert 0 < result["tokens_out"] < 1500
        assert result["amount_micro"] <= due_micro(result)
        assert len(result["segments"]) == 1
        assert "Traceback" not in err
        # Noticed within 5 s; the rest is the command's own end.
        assert took_s < 8
        assert devnet.submit(PROMPT, "--max-tokens", "10", "--worker", address(devnet, 1))["text"]


def test_an_interrupted_command_pays_for_what_came(devnet: Devnet) -> None:
    process = devnet.start(
        "submit", "--json", "--ignore-eos", "--max-tokens", "1500",
        "--worker", address(devnet, 0), PROMPT,
    )  # fmt: skip
    wait_for_job(devnet, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err
    result = json.loads(out)
    assert result["finish_reason"] == "cancelled"
    assert result["amount_micro"] == due_micro(result)
    assert receipts.verify_file(Path(result["receipt"])).passed


def wait_for_job(devnet: Devnet, process: subprocess.Popen[str]) -> dict[str, Any]:
    """The worker that has the job, once it has been in mid-answer for a moment."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        for worker in devnet.ready["workers"]:
            home = Home(Path(worker["home"]))
            if control.call(home, "status", {}, timeout_s=5.0)["jobs"]["active"]:
                time.sleep(0.5)
                found: dict[str, Any] = worker
                return found
        time.sleep(0.05)
    pytest.fail("the job never started")
