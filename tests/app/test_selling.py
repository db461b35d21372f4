"""What a worker is told before it sells nothing."""

from pathlib import Path

import pytest

from node.app.selling import check_prices
from node.config import Config, WorkerConfig
from node.errors import ConfigError


def test_prices_that_every_client_refuses_are_said() -> None:
    def prices(price_in: int, price_cached: int) -> Config:
        worker = WorkerConfig(price_in=price_in, price_cached=price_cached)
        return Config(home=Path("/"), worker=worker)

    check_prices(prices(10, 10))
    with pytest.raises(ConfigError, match=r"worker\.price_cached is 11") as caught:
        check_prices(prices(10, 11))
    assert caught.value.hint == "--set worker.price_cached=10, or less"
