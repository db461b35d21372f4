"""The short form of `scripts/fuzz-gateway`."""

import pytest

from tests.fuzz.gateway import run

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]


def test_what_is_wrong_is_refused_and_reaches_nobody() -> None:
    result = run(count=400, big=4, slow=0, seed=7)
    assert result.faults == []
    assert result.passed, result.to_json()
    assert result.requests == 400
    assert set(result.statuses) <= {
        "400",
        "403",
        "404",
        "405",
        "408",
        "413",
        "415",
        "431",
        "closed",
    }
    assert len(result.kinds) >= 15
