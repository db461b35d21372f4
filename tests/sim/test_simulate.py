"""The simulator by itself: seeds without a fault found, the same trace twice, planted bugs found.

In processes of their own: a run rules over trio's scheduler and the order of sets.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.sim.plants import PLANTS

ROOT = Path(__file__).parents[2]
SEEDS = 200
SAME = 6


def simulate(*arguments: str, timeout_s: float = 1800) -> subprocess.CompletedProcess[str]:
    # Another seed of the hashes than the script's own must make no difference.
    environ = {**os.environ, "PYTHONHASHSEED": "random"}
    return subprocess.run(
        [ROOT / "scripts" / "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environ,
        check=False,
    )


def figures(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(simulate("--json", *arguments).stdout)
    return found


@pytest.mark.sim
@pytest.mark.timeout(1800)
def test_no_seed_breaks_a_rule() -> None:
    found = figures("--seeds", str(SEEDS))
    broken = [(each["seed"], each["rule"], each["what"]) for each in found["broken"]]
    assert not broken, f"scripts/simulate --replay {broken[0][0]}"
    assert found["seeds"] == SEEDS
    assert found["jobs"]["done"] > SEEDS, "hardly a job is done: the faults drown the market"


@pytest.mark.sim
@pytest.mark.timeout(600)
def test_a_seed_gives_the_same_trace_whatever_ran_before_it() -> None:
    together = figures("--seeds", str(SAME), "--start", "1001")["traces"]
    for seed in (1001, 1001 + SAME - 1):
        alone = simulate("--replay", str(seed)).stdout
        assert f"trace {together[str(seed)]}" in alone
    assert len(set(together.values())) == SAME


@pytest.mark.sim
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_bug_is_found(plant: str) -> None:
    done = simulate("--seeds", str(SEEDS), "--plant", plant)
    assert done.returncode == 0, done.stdout[-2000:]
    assert f"--plant {plant}" in done.stdout, "no word on how to see it again"
