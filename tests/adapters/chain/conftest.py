"""One real chain for all tests of a run; every test has accounts of its own on it."""

from collections.abc import Iterator

import pytest

from devnet.chain import DevChain, running
from tests.adapters.chain.world import World


@pytest.fixture(scope="session")
def chain() -> Iterator[DevChain]:
    with running() as chain:
        chain.mine(3)
        yield chain


@pytest.fixture
def world(chain: DevChain, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(chain, request.node.name)
    yield world
    world.close()
