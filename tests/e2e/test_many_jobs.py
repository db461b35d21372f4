"""A hundred jobs, ten at a time, from five homes: every unit is accounted for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Devnet, devnet_up

JOBS = 100
HOMES = 5
AT_A_TIME_PER_HOME = 2

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    folder: Path = tmp_path_factory.mktemp("many")
    with devnet_up(folder, "--workers", "5", "--clients", str(HOMES)) as running:
        yield running


@pytest.fixture(scope="module")
def deposits(net: Devnet) -> dict[str, int]:
    """What each client had before the jobs; in micro."""
    return {home: deposit_micro(net, home) for home in net.client_homes}


@pytest.fixture(scope="module")
def jobs(net: Devnet, deposits: dict[str, int]) -> list[dict[str, Any]]:
    """The results of all jobs; each ended well."""

    def buy(number: int) -> dict[str, Any]:
        home = net.client_homes[number % HOMES]
        question = f"Question {number}: what does a worker do?"
        return net.submit("--max-tokens", "24", question, home=home)

    with ThreadPoolExecutor(HOMES * AT_A_TIME_PER_HOME) as pool:
        return list(pool.map(buy, range(JOBS)))


def deposit_micro(net: Devnet, home: str) -> int:
    shown = net.node("wallet", "show", "--json", home=home).json
    return int(shown["free_micro"] + shown["locked_micro"])


def test_all_end_well(jobs: list[dict[str, Any]]) -> None:
    assert len({job["job_id"] for job in jobs}) == JOBS
    assert all(job["finish_reason"] in ("stop", "length") for job in jobs)
    assert all(job["amount_micro"] > 0 and job["tokens_out"] > 0 for job in jobs)


def test_every_unit_is_accounted_for(
    net: Devnet, deposits: dict[str, int], jobs: list[dict[str, Any]]
) -> None:
    total_micro = sum(job["amount_micro"] for job in jobs)

    receipts = [
        row
        for home in net.client_homes
        for row in net.node("receipts", "list", "--last", "1000", "--json", home=home).json
    ]
    assert len(receipts) == JOBS
    assert sum(row["paid_micro"] for row in receipts) == total_micro

    homes = [worker["home"] for worker in net.ready["workers"]]
    earnings = [net.node("earnings", "--json", home=home).json["totals"] for home in homes]
    assert sum(each["earned_micro"] for each in earnings) == total_micro
    assert sum(each["vouchered_micro"] for each in earnings) == total_micro
    assert sum(each["segments"] for each in earnings) == JOBS

    redeemed_micro = 0
    for home, earned in zip(homes, earnings, strict=True):
        done = net.node("redeem", "--json", home=home).json
        assert len(done["transactions"]) == (1 if earned["segments"] else 0)
        assert done["amount_micro"] == earned["vouchered_micro"]
        assert done["left_micro"] == 0
        redeemed_micro += done["amount_micro"]
        credit_micro = net.node("wallet", "show", "--json", home=home).json["credit_micro"]
        assert credit_micro == earned["vouchered_micro"]
    assert redeemed_micro == total_micro

    spent_micro = sum(deposits.values()) - sum(deposit_micro(net, h) for h in net.client_homes)
    assert spent_micro == total_micro


def test_every_receipt_verifies(net: Devnet, jobs: list[dict[str, Any]]) -> None:
    sample = jobs[::10]
    verdicts = [net.node("receipts", "verify", job["receipt"], "--json") for job in sample]
    assert [verdict.code for verdict in verdicts] == [0] * len(sample)
