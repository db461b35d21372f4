"""The short form of `scripts/fuzz-gateway`."""

import pytest

from tests.fuzz.gateway import run

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]


def test_what_is_wrong_is_refused_and_reaches_nobody() -> None:
    result = run(count=400, big=24, slow=0, seed=7)
    assert result.faults == []
    assert result.passed, result.to_json()
    assert result.requests == 400
    assert result.statuses["400"] > 200
    assert result.statuses["413"] == 24
    assert len(result.kinds) >= 15
