"""The main job, as its users call it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.app import receipts
from tests.e2e.conftest import Devnet

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
    assert "score" in result["auction"]["reason"]
    timings = result["timings"]
    assert timings["start_ms"] <= timings["auction_ms"] <= timings["first_token_ms"]
    verified = devnet.node(
        "receipts", "verify", result["receipt"], "--rpc", devnet.ready["rpc_url"]
    )
    assert verified.code == 0, verified.err + verified.out


def test_a_pipe_carries_the_answer_alone(devnet: Devnet) -> None:
    ran = devnet.node("submit", "--seed", "7", PROMPT)
    again = devnet.submit("--seed", "7", PROMPT)
    assert ran.code == 0, ran.err
    assert ran.out == again["text"].rstrip("\n") + "\n"
    assert again["worker"].startswith("0x")
    assert "receipt: " in ran.err


def test_the_prompt_may_come_from_standard_input(devnet: Devnet) -> None:
    ran = devnet.node("submit", "--json", "--max-tokens", "5", "-", stdin=PROMPT)
    assert ran.code == 0, ran.err
    assert ran.json["tokens_in"] > 0


def test_the_same_seed_gives_the_same_answer_at_every_worker(devnet: Devnet) -> None:
    results = [
        devnet.submit(
            PROMPT, "--temperature", "1.0", "--seed", "42", "--max-tokens", "60",
            "--worker", worker["address"],
        )
        for worker in devnet.ready["workers"]
    ]  # fmt: skip
    assert len({result["worker"] for result in results}) == 3
    assert len({result["text"] for result in results}) == 1


@pytest.mark.parametrize("sort", ["price", "latency", "throughput"])
def test_sorting_is_strict(devnet: Devnet, sort: str) -> None:
    result = devnet.submit(PROMPT, "--max-tokens", "8", "--sort", sort)
    bids = {bid["worker"]: bid for bid in result["auction"]["bids"]}
    figures: dict[str, Callable[[dict[str, Any]], float]] = {
        "price": lambda bid: bid["price_micro"],
        "latency": lambda bid: bid["predicted"]["first_token_s"],
        "throughput": lambda bid: -bid["predicted"]["rate_tps"],
    }
    figure = figures[sort]
    assert figure(bids[result["worker"]]) == min(map(figure, bids.values()))


def test_a_stop_string_ends_the_answer_before_it(devnet: Devnet) -> None:
    whole = devnet.submit(PROMPT, "--seed", "1")
    word = whole["text"].split()[3]
    cut = devnet.submit(PROMPT, "--seed", "1", "--stop", word)
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"].partition(word)[0]
    assert cut["amount_micro"] < whole["amount_micro"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--max-price", "0", PROMPT], 69),
        (["--worker", "0x" + "11" * 20, PROMPT], 69),
        (["--worker", "nonsense", PROMPT], 2),
        (["--model", "no-such-model", PROMPT], 69),
        (["--max-tokens", "0", PROMPT], 2),
        (["--max-tokens", "100000", PROMPT], 69),
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
    file = Path(devnet.submit(PROMPT, "--max-tokens", "30")["receipt"])
    content = file.read_bytes()
    changed = tmp_path / file.name
    changed.write_bytes(content)
    assert receipts.verify_file(changed).passed
    rng = random.Random(4)
    for _ in range(1000):
        place, flip = rng.randrange(len(content)), rng.randrange(1, 256)
        changed.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        verdict = receipts.verify_file(changed)
        assert not verdict.passed
        assert any(not check.passed for check in verdict.checks)
    refused = devnet.node("receipts", "verify", str(changed))
    assert refused.code == 1
    assert "failed" in refused.out.lower() + refused.err.lower()
