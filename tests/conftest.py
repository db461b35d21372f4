"""One real chain for all tests of a run that want one; each has accounts of its own on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# Before any test imports eth_account itself: the limit belongs to the process.
import node.adapters.chain.sane_recursion  # noqa: F401
from node.adapters.chain.fees import GWEI

if TYPE_CHECKING:
    from devnet.chain import DevChain
    from tests.adapters.chain.world import World

# A busy machine is no failure: what takes how long is measured in scripts/bench…, never here.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def chain() -> Iterator[DevChain]:
    from devnet.chain import running  # web3 takes a second: not for tests without a chain

    with running() as chain:
        chain.mine(3)
        yield chain


@pytest.fixture
def world(chain: DevChain, request: pytest.FixtureRequest) -> Iterator[World]:
    from tests.adapters.chain.world import World

    # A base fee outlives the test that made the chain dear, and `evm_revert` as well.
    chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    world = World(chain, request.node.name)
    yield world
    world.close()
