"""The main job, as its users call it."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Devnet, devnet_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
PROMPT = "What is a voucher?"
KEYS = {
    "job_id", "model", "worker", "text", "finish_reason", "tokens_in", "tokens_out",
    "amount_micro", "prices", "auction", "timings", "receipt",
}  # fmt: skip


def test_a_job_is_auctioned_streamed_paid_and_proven(devnet: Devnet) -> None:
    result = devnet.submit(PROMPT, "--max-tokens", "60")
    assert result.keys() >= KEYS
    assert result["text"].strip()
    assert result["finish_reason"] in ("stop", "length")
    assert 0 < result["tokens_out"] <= 60
    assert len(result["auction"]["bids"]) == 3
    assert result["auction"]["winner"] == result["worker"]
    verified = devnet.node(
        "receipts", "verify", result["receipt"], "--rpc", devnet.ready["rpc_url"]
    )
    assert verified.code == 0, verified.err + verified.out


def test_a_pipe_carries_the_answer_alone(devnet: Devnet) -> None:
    ran = devnet.node("submit", "--seed", "7", PROMPT)
    again = devnet.submit("--seed", "7", PROMPT)
    assert ran.code == 0
    assert ran.out.strip() == again["text"].strip()
    assert ran.err


def test_the_prompt_may_come_from_standard_input(devnet: Devnet) -> None:
    ran = devnet.node("submit", "--json", "-", stdin=PROMPT)
    assert ran.code == 0, ran.err
    assert ran.json["tokens_in"] > 0


def test_the_same_seed_gives_the_same_answer_at_another_worker(devnet: Devnet) -> None:
    texts = {
        devnet.submit(
            PROMPT, "--temperature", "1.0", "--seed", "42", "--worker", worker["address"]
        )["text"]
        for worker in devnet.ready["workers"]
    }
    assert len(texts) == 1


@pytest.mark.parametrize("sort", ["price", "latency", "throughput"])
def test_sorting_is_strict(devnet: Devnet, sort: str) -> None:
    result = devnet.submit(PROMPT, "--max-tokens", "8", "--sort", sort)
    bids = {bid["worker"]: bid for bid in result["auction"]["bids"]}
    if sort == "price":
        assert bids[result["worker"]]["price_micro"] == min(b["price_micro"] for b in bids.values())
    assert result["auction"]["reason"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--max-price", "0.000001", PROMPT], 69),
        (["--worker", "0x" + "11" * 20, PROMPT], 69),
        (["--model", "no-such-model", PROMPT], 69),
        (["--max-tokens", "0", PROMPT], 2),
        (["--sort", "beauty", PROMPT], 2),
    ],
)
def test_what_cannot_be_done_is_said(devnet: Devnet, argv: list[str], code: int) -> None:
    ran = devnet.node("submit", *argv)
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.err.strip()


def test_every_changed_byte_of_a_transcript_is_refused(devnet: Devnet, tmp_path: Path) -> None:
    from node.app import receipts

    file = Path(devnet.submit(PROMPT, "--max-tokens", "30")["receipt"])
    content = file.read_bytes()
    changed = tmp_path / file.name
    changed.write_bytes(content)
    assert receipts.verify(changed).ok
    rng = random.Random(4)
    for _ in range(1000):
        place, flip = rng.randrange(len(content)), rng.randrange(1, 256)
        changed.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        report = receipts.verify(changed)
        assert not report.ok
        assert any(not check.ok for check in report.checks)


def test_a_worker_killed_in_mid_answer(tmp_path: Path) -> None:
    with devnet_up(tmp_path, "--workers", "3") as devnet:
        process = devnet.start(
            "submit", "--json", "--ignore-eos", "--max-tokens", "1500", "--worker",
            devnet.ready["workers"][0]["address"], PROMPT,
        )  # fmt: skip
        assert process.stderr is not None
        wait_for_stream(devnet, process)
        os.kill(devnet.ready["workers"][0]["pid"], signal.SIGKILL)
        killed_s = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - killed_s < 8
        assert process.returncode == 75
        result = json.loads(out)
        assert result["text"]
        assert 0 < result["tokens_out"] < 1500
        prices = result["prices"]
        due = result["tokens_in"] * prices["in"] + result["tokens_out"] * prices["out"]
        assert result["amount_micro"] <= -(-due // 10**6)
        assert "Traceback" not in err
        assert devnet.submit(PROMPT, "--max-tokens", "10")["text"]


def wait_for_stream(devnet: Devnet, process: subprocess.Popen[str]) -> None:
    """Until the worker under test has a running job for long enough to be in mid-answer."""
    home = devnet.ready["workers"][0]["home"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        status = devnet.node("status", "--json", home=home)
        if status.code == 0 and status.json.get("jobs", {}).get("active"):
            return
    pytest.fail("the job never started")
