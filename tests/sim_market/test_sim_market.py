"""The scale simulation in small: a hundred workers and clients, a few minutes."""

from tests.sim_market.population import Size
from tests.sim_market.run import simulate

SMALL = Size(nodes=100, warm_s=60.0, measured_s=60.0, load=0.4, probes=6)


def test_a_market_of_a_hundred_is_quiet_and_finds_its_newcomers() -> None:
    found = simulate(SMALL)
    assert found.client.cpu_percent < 2.0
    assert found.worker.cpu_percent < 2.0
    # Six workers that join within 42 seconds are more than such a market sees in an hour: they make
    # half of what is said on the topic, 7 kB each time.
    assert found.client.bytes_per_s < 6_500
    assert found.found.never == 0
    assert found.found.most < 5.0
    assert found.awarded.never < found.joined
    assert found.refused_percent < 5.0
    # Clients that joined a second ago and know nobody.
    assert found.failed_percent < 1.0
    assert 1.0 <= found.choice_ratio < 1.5
    assert found.cost_ratio < 1.05
