"""A few of the strikes of `scripts/failover`."""

from pathlib import Path

import pytest

from tests.failover.runs import KINDS, market, run

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
JOBS = 2
TOKENS = 120


def test_nobody_sees_a_seam(tmp_path: Path) -> None:
    with market(tmp_path / "d") as up:
        for kind in KINDS:
            result = run(kind, up, jobs=JOBS, tokens=TOKENS, seed=7, tell=print)
            assert result.violations == []
            assert result.struck == result.jobs == JOBS
