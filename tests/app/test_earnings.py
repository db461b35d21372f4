"""`node earnings` and `node status` of a home at rest, from a real store."""

from pathlib import Path

import pytest

from node.adapters import keystore
from node.adapters.store import open_stores
from node.app import earnings, status
from node.app.home import Home
from node.config import ChainConfig, Config
from node.errors import ConfigError
from node.protocol.signing import address_of_key, checksum, digest, sign
from node.units import MS_PER_S
from tests.protocol.sample_job import (
    CLIENT_KEY,
    DOMAIN,
    WORKER_KEYS,
    award_of,
    progress_of,
    terms_of,
)

HOUR_MS = 3600 * MS_PER_S
T0_MS = 490_000 * HOUR_MS
OTHER_MODEL = bytes([9]) * 32


@pytest.fixture
def home(tmp_path: Path) -> Home:
    tmp_path.chmod(0o700)
    keystore.create(tmp_path / "keystore.json", key=WORKER_KEYS[0], password=b"pass", scrypt_n=1024)
    return Home(tmp_path)


async def sell(home: Home, *begun_ms: int, model: bytes | None = None, out: int = 7) -> None:
    """Segments of one job each, begun at these times, of `out` tokens so far."""
    terms = terms_of(0) if model is None else terms_of(0, model=model)
    async with open_stores(home.store, domain=DOMAIN) as stores:
        for number, at_ms in enumerate(begun_ms):
            job = at_ms.to_bytes(12, "big") + number.to_bytes(4, "big")
            award = award_of(terms, b"", job=job)
            await stores.worker.begin_segment(
                digest=digest(award, DOMAIN),
                award=sign(award, DOMAIN, CLIENT_KEY),
                terms=sign(terms, DOMAIN, WORKER_KEYS[0]),
                at_ms=at_ms,
            )
            if out:
                progress = progress_of(terms, award, out=out, chain=bytes(32), at_ms=at_ms)
                await stores.worker.save_progress(sign(progress, DOMAIN, WORKER_KEYS[0]))


async def test_hours_are_apart_and_newest_first(home: Home) -> None:
    await sell(home, T0_MS, T0_MS + HOUR_MS - 1, T0_MS + HOUR_MS)
    await sell(home, T0_MS + 5, model=OTHER_MODEL)
    report = await earnings.report(home, since_ms=0)
    assert [(row.hour_ms, row.segments) for row in report.hours] == [
        (T0_MS + HOUR_MS, 1), (T0_MS, 1), (T0_MS, 2),
    ]  # fmt: skip
    assert report.totals.segments == 4


async def test_an_award_that_came_to_nothing_is_no_sale(home: Home) -> None:
    await sell(home, T0_MS, out=0)
    await sell(home, T0_MS + 1)
    report = await earnings.report(home, since_ms=0)
    assert [(row.segments, row.tokens_out) for row in report.hours] == [(1, 7)]
    assert report.totals.segments == 1


async def test_only_what_began_since(home: Home) -> None:
    await sell(home, T0_MS, T0_MS + HOUR_MS, T0_MS + HOUR_MS + 1)
    report = await earnings.report(home, since_ms=T0_MS + HOUR_MS)
    assert [row.segments for row in report.hours] == [2]
    assert report.totals.segments == 3


@pytest.mark.parametrize("page", [2, 3, 7])
async def test_pages_lose_and_repeat_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(earnings, "_PAGE", page)
    await sell(home, *(T0_MS + offset for offset in range(9)))
    report = await earnings.report(home, since_ms=0)
    assert [row.segments for row in report.hours] == [9]


async def test_page_that_ends_amid_one_millisecond(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earnings, "_PAGE", 3)
    await sell(home, T0_MS, T0_MS + 1, T0_MS + 1, T0_MS + 2, T0_MS + 2)
    report = await earnings.report(home, since_ms=0)
    assert [row.segments for row in report.hours] == [5]


async def test_home_without_a_store(home: Home) -> None:
    with pytest.raises(ConfigError, match="no store yet"):
        await earnings.report(home, since_ms=0)


def config_of(home: Home) -> Config:
    chain = ChainConfig(rpc_url="http://127.0.0.1:1", escrow="0x" + DOMAIN.escrow.hex())
    return Config(home=home.path, chain=chain)


def test_status_without_store_and_chain(home: Home) -> None:
    report = status.report(config_of(home))
    assert report["address"] == checksum(address_of_key(WORKER_KEYS[0]))
    assert (report["running"], report["sold"]) == (False, None)
    assert "does not answer" in report["chain"]["problem"]


def test_status_for_people() -> None:
    report = {
        "free_micro": 1_500_000,
        "running": True,
        "rpc": [{"host": "a", "latency_ms": 1.25}],
        "jobs": {"active": 2},
        "addrs": ["x", "y"],
        "note": "",
    }
    assert [" ".join(line.split()) for line in status.lines(report)] == [
        "free 1.500000", "running yes", "rpc 1", "host a", "latency ms 1.2", "jobs", "active 2",
        "addrs x, y", "note -",
    ]  # fmt: skip
