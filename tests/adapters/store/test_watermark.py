"""An old copy of the database, put back: nothing is signed from it."""

import os
import shutil
from pathlib import Path

import pytest

from node.adapters.store import open_stores
from node.adapters.store.watermark import path_of
from node.errors import CorruptState, ExitCode
from node.roles.stores import StoreFailed
from tests.adapters.store.samples import PAYER_TAB, draft, reservation
from tests.roles.fakes import DOMAIN


async def voucher(path: Path, cumulative: int, *, old_ok: bool = False) -> None:
    """One more voucher on the sample tab."""
    async with open_stores(path, domain=DOMAIN, old_ok=old_ok) as stores:
        rows = await stores.payer.load()
        if not rows.tabs:
            await stores.payer.reserve(reservation(1), PAYER_TAB)
        tab = rows.tabs[0] if rows.tabs else PAYER_TAB
        made, frame = draft(tab, 1, cumulative - tab.cumulative_micro)
        await stores.payer.save_vouchers([(made, frame)])


async def opens(path: Path) -> None:
    async with open_stores(path, domain=DOMAIN):
        pass


async def test_the_newest_file_opens_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    for cumulative in (1, 2, 3):
        await voucher(path, cumulative)
        await opens(path)


async def test_an_old_copy_is_refused_for_good(tmp_path: Path) -> None:
    path, copy = tmp_path / "node.sqlite", tmp_path / "copy"
    await voucher(path, 1)
    shutil.copy(path, copy)
    await voucher(path, 2)
    shutil.copy(copy, path)
    for _ in range(2):
        with pytest.raises(CorruptState, match="not the copy that this home used last") as refused:
            await voucher(path, 2)
    assert refused.value.exit_code == ExitCode.CONFIG
    assert "put the newest node.sqlite back" in refused.value.hint


async def test_the_newest_one_put_back_is_fine(tmp_path: Path) -> None:
    path, old, new = tmp_path / "node.sqlite", tmp_path / "old", tmp_path / "new"
    await voucher(path, 1)
    shutil.copy(path, old)
    await voucher(path, 2)
    shutil.copy(path, new)
    shutil.copy(old, path)
    with pytest.raises(CorruptState):
        await opens(path)
    shutil.copy(new, path)
    await voucher(path, 3)


async def test_a_store_that_was_deleted_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await voucher(path, 1)
    for file in tmp_path.glob("node.sqlite*"):  # noqa: ASYNC240
        file.unlink()
    with pytest.raises(CorruptState):
        await voucher(path, 1)


async def test_a_used_store_without_its_watermark(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await voucher(path, 1)
    path_of(path).unlink()
    with pytest.raises(CorruptState):
        await voucher(path, 2)


async def test_a_crash_before_the_file_was_made(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await opens(path)
    path_of(path).write_bytes(b"")
    await voucher(path, 1)
    await voucher(path, 2)


async def test_a_file_that_lags_after_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    await voucher(path, 1)
    before = path_of(path).read_bytes()
    await voucher(path, 2)
    path_of(path).write_bytes(before)
    await voucher(path, 3)


async def test_what_an_old_copy_still_may(tmp_path: Path) -> None:
    """Its owner takes the money out: that opens it, but it never becomes a new one again."""
    path, copy = tmp_path / "node.sqlite", tmp_path / "copy"
    await voucher(path, 1)
    shutil.copy(path, copy)
    await voucher(path, 2)
    shutil.copy(copy, path)
    async with open_stores(path, domain=DOMAIN, old_ok=True) as stores:
        assert "an old copy" in (await stores.payer.load()).halted
        for _ in range(20):
            await stores.worker.next_serials(1)
    with pytest.raises(CorruptState):
        await opens(path)


async def test_a_watermark_that_cannot_be_written_stops_the_store(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    async with open_stores(path, domain=DOMAIN) as stores:
        await stores.worker.next_serials(1)
        for name in os.listdir("/proc/self/fd"):
            if os.path.realpath(f"/proc/self/fd/{name}") == str(path_of(path)):  # noqa: ASYNC240
                closed = os.open(os.devnull, os.O_RDONLY)
                os.dup2(closed, int(name))
                os.close(closed)
        for _ in range(2):
            with pytest.raises(StoreFailed):
                await stores.worker.next_serials(1)
    await opens(path)
