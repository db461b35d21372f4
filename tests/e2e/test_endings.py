"""Commands that can't end well: one clear line, the right exit code, never a traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import ExitCode
from tests.e2e.conftest import Devnet, Ran

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]
PROMPT = "What is a voucher?"
NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/16Uiu2HAmGCErKi1wb5bBWmRXAysBpgtbubwRXqAb9UHB9KCYni85"


def says(ran: Ran, words: str) -> bool:
    """Whether the last word on stderr is one line with these words."""
    lines = [line for line in ran.err.splitlines() if not line.startswith("hint: ")]
    assert "Traceback" not in ran.err
    return lines[-1].startswith("error: ") and words in lines[-1]


def test_the_chain_is_away(devnet: Devnet) -> None:
    ran = devnet.node("--set", "chain.rpc_url=http://127.0.0.1:1", "submit", PROMPT)
    assert (ran.code, ran.out) == (ExitCode.TRY_AGAIN, "")
    assert says(ran, "RPC does not answer")


def test_nobody_is_there(devnet: Devnet) -> None:
    ran = devnet.node("--set", f"network.bootstrap={NOBODY}", "submit", PROMPT)
    assert ran.code == ExitCode.NO_PEERS
    assert says(ran, "no worker was found")


def test_an_interrupted_search_ends_at_once(devnet: Devnet) -> None:
    process = devnet.start("--set", f"network.bootstrap={NOBODY}", "submit", PROMPT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=2.5)
    assert process.returncode == ExitCode.INTERRUPTED
    assert err.strip() == "interrupted"


def test_the_deposit_is_empty(devnet: Devnet, tmp_path: Path) -> None:
    contracts = devnet.ready["contracts"]
    made = devnet.node(
        "--home", str(tmp_path / "poor"), "init", "--light", "--generate-password",
        "--rpc", devnet.ready["rpc_url"], "--chain-id", str(devnet.ready["chain_id"]),
        "--escrow", contracts["escrow"], "--token", contracts["token"],
        "--bootstrap", devnet.ready["bootstrap"][0],
    )  # fmt: skip
    assert made.code == ExitCode.OK, made.err
    ran = devnet.node("submit", PROMPT, home=str(tmp_path / "poor"))
    assert ran.code == ExitCode.WALLET
    assert says(ran, "short of this job's cap")
    assert "hint: node wallet deposit" in ran.err


def test_a_wrong_password(devnet: Devnet, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong\n")
    wrong.chmod(0o600)
    ran = devnet.node("--set", f"keystore.password_file={wrong}", "submit", PROMPT)
    assert ran.code == ExitCode.WALLET
    assert says(ran, "wrong password")


def test_an_order_that_is_none(devnet: Devnet) -> None:
    ran = devnet.node("submit", PROMPT, "--stop", "x" * 300)
    assert ran.code == ExitCode.USAGE
    assert says(ran, "can't be asked for")


def test_a_transcript_that_has_no_place_costs_no_answer(devnet: Devnet) -> None:
    folder = Path(devnet.ready["client_home"]) / "transcripts"
    before = folder.exists()
    if before:
        folder.rename(folder.with_name("kept"))
    folder.touch()
    try:
        ran = devnet.node("submit", "--json", PROMPT)
    finally:
        folder.unlink()
        if before:
            folder.with_name("kept").rename(folder)
    assert ran.code == ExitCode.CONFIG
    assert says(ran, "the transcript can't be written")
    assert ran.json["text"]
    assert ran.json["receipt"] is None


def test_a_reader_that_leaves_ends_the_job(devnet: Devnet) -> None:
    argv = ["submit", "--ignore-eos", "--max-tokens", "1500", PROMPT]
    process = devnet.start(*argv)
    assert process.stdout is not None
    assert process.stdout.read(5)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(30) == ExitCode.FAILED
    assert "Traceback" not in err
    assert "receipt: " in err
    tokens_out = int(err.split(" tokens in, ")[1].split()[0])
    assert tokens_out < 1500


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_answer_that_finds_a_full_disk(devnet: Devnet) -> None:
    environ_home = ["--home", devnet.ready["client_home"]]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "node", *environ_home, "submit", "--max-tokens", "20", PROMPT],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == ExitCode.FAILED
    assert "error: the answer can't be written: No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr
