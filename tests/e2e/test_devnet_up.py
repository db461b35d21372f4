"""`python -m devnet up` as people and other programs use it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
END_S = 5.0

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(300)]


@contextmanager
def started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "devnet", "up", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the devnet ended before it was ready"
    loaded: dict[str, Any] = json.loads(line)
    return loaded


def stat(pid: int) -> tuple[int, str] | None:
    """Parent and state of a process."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(parent), state


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    tree = {int(name): stat(int(name)) for name in os.listdir("/proc") if name.isdecimal()}
    while True:
        more = {p for p, s in tree.items() if s and s[0] in found | {pid}} - found
        if not more:
            return found
        found |= more


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if (found := stat(pid)) and found[1] not in "ZX"}


def wait_gone(pids: set[int]) -> None:
    deadline_s = time.monotonic() + END_S
    while left := alive(pids):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.02)


def test_says_what_it_brought_up_and_ends_clean() -> None:
    with started("--workers", "2", "--clients", "2", "--json") as process:
        net = ready(process)
        assert net["chain_id"] == 31337
        assert len(net["workers"]) == len(net["bootstrap"]) == 2
        assert net["client_homes"][0] == net["client_home"] == f"{net['dir']}/client"
        assert len({worker["address"] for worker in net["workers"]}) == 2
        assert {worker["multiaddr"] for worker in net["workers"]} == set(net["bootstrap"])
        family = descendants(process.pid)
        assert {worker["pid"] for worker in net["workers"]} < family
        bought = subprocess.run(
            [sys.executable, "-m", "node", "submit", "--home", net["client_home"], "--json",
             "--max-tokens", "8", "What is a worker?"],
            capture_output=True, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
        assert bought.returncode == 0, bought.stderr
        assert json.loads(bought.stdout)["tokens_out"] > 0
        with subprocess.Popen(
            [sys.executable, "-m", "node", "submit", "--home", net["client_homes"][1],
             "--max-tokens", "1000", "--ignore-eos", "And what is a client?"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        ) as running:  # fmt: skip
            assert running.stdout is not None
            assert running.stdout.read(1), "the answer has begun"
            process.send_signal(signal.SIGTERM)
            started_s = time.monotonic()
            assert process.wait(30) == 0
            assert time.monotonic() - started_s <= END_S
            running.kill()
    assert alive(family) == set()
    assert not Path(net["dir"]).exists()


def test_interrupted_while_it_starts() -> None:
    with started("--workers", "2", "--clients", "0", "--json") as process:
        deadline_s = time.monotonic() + 60
        while len(family := descendants(process.pid)) < 2:
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert alive(family) == set()


def test_killed_it_leaves_no_orphan(tmp_path: Path) -> None:
    with started("--workers", "1", "--json", "--home", str(tmp_path / "net")) as process:
        ready(process)
        family = descendants(process.pid)
        assert len(family) >= 2
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        wait_gone(family)


def test_unknown_misbehaviour() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devnet", "up", "--misbehave", "politeness"],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "politeness" in done.stderr
