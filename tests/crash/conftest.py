"""One market for the tests of this folder: a worker and two clients, started and killed at will."""

from collections.abc import Iterator

import pytest

from tests.crash.world import World
from tests.crash.world import world as bring_up


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Leave its homes able to trade; nothing of it runs between tests."""
    with bring_up(tmp_path_factory.mktemp("crash"), clients=2, seed=1) as running:
        yield running
