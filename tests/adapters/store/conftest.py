"""One contract, two stores: a file and memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.adapters.store import open_stores
from node.roles.stores import Stores
from tests.roles.fakes import DOMAIN


@pytest.fixture(params=["file", "memory"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    path = tmp_path / "node.sqlite" if request.param == "file" else None
    async with open_stores(path, domain=DOMAIN) as opened:
        yield opened
