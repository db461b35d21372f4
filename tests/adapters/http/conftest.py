"""A gateway's app for each test; waits cost nothing."""

import pytest
import trio
from trio.testing import MockClock

from tests.adapters.http.world import World, world


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
async def w(nursery: trio.Nursery) -> World:
    return await world(nursery)
