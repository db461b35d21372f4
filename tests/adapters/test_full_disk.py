"""Files that find no place: an error that says so, and nothing half-written under its name."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.adapters import keystore
from node.adapters.files import FolderFiles
from node.adapters.store import open_stores
from node.app import receipts
from node.app.home import Home
from node.app.init import InitRequest, create
from node.errors import ConfigError
from node.roles.stores import StoreFailed
from tests.roles.fakes import DOMAIN

KEY = bytes(range(1, 33))
N = 2**10


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses the rest with EFBIG, as it does with ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_keystore_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    with no_file_above(100), pytest.raises(ConfigError, match="File too large"):
        keystore.create(path, key=KEY, password=b"p", scrypt_n=N)
    assert list(tmp_path.iterdir()) == []
    keystore.create(path, key=KEY, password=b"p", scrypt_n=N)
    assert keystore.unlock(path, b"p") == KEY


@pytest.mark.parametrize("size", [0, 100, 1_000])
def test_init_can_be_run_again(tmp_path: Path, size: int) -> None:
    request = InitRequest(
        home=tmp_path / "home", password=b"p", store_password=True, key=KEY, scrypt_n=N
    )
    with no_file_above(size), pytest.raises(ConfigError, match="File too large"):
        create(request)
    assert not Home(request.home).keystore.exists()
    assert create(request).address
    assert sorted(file.name for file in request.home.iterdir()) == [
        "config.toml", "keystore.json", "password",
    ]  # fmt: skip


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    home = Home(tmp_path)
    with no_file_above(0), pytest.raises(ConfigError, match="lock: File too large"), home.own("a"):
        pass
    with home.own("b"):
        pass


async def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "node.sqlite").mkdir()
    with pytest.raises(StoreFailed, match="the store can't be opened: Is a directory"):
        async with open_stores(tmp_path / "node.sqlite", domain=DOMAIN):
            pass
    with no_file_above(5_000), pytest.raises(StoreFailed):
        async with open_stores(tmp_path / "other.sqlite", domain=DOMAIN):
            pass
    async with open_stores(tmp_path / "other.sqlite", domain=DOMAIN) as stores:
        await stores.worker.next_serials(1)


def test_a_transcript_is_whole_or_not_there(tmp_path: Path) -> None:
    folder, job = tmp_path / "transcripts", bytes(16)
    with no_file_above(1_000):
        receipts.save(folder, job, b"first", None)
        with pytest.raises(ConfigError, match="the transcript can't be written"):
            receipts.save(folder, job, bytes(2_000), None)
    path = folder / f"{job.hex()}{receipts.TRANSCRIPT_SUFFIX}"
    assert path.read_bytes() == b"first"
    receipts.save(folder, job, bytes(2_000), b"disclosure")
    assert path.read_bytes() == bytes(2_000)


def test_a_model_file_leaves_nothing_behind(tmp_path: Path) -> None:
    files = FolderFiles(tmp_path / "files")
    with no_file_above(1_000), pytest.raises(ConfigError, match="File too large"):
        files.write(bytes(2_000))
    assert list((tmp_path / "files").iterdir()) == []
    assert files.read(files.write(bytes(2_000))) == bytes(2_000)
