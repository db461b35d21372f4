"""Keystores: what we write others read, what others write we read, and nobody else may."""

import json
from pathlib import Path

import pytest
from eth_keyfile import keyfile as oracle

from node.adapters import keystore
from node.errors import ConfigError, WalletError
from node.protocol.signing import address_of_key

KEY = bytes(range(1, 33))
PASSWORD = "correct horse ünd batterie".encode()
N = 2**10


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "keystore.json"
    keystore.create(path, key=KEY, password=PASSWORD, scrypt_n=N)
    return path


def test_what_was_stored_comes_back(stored: Path) -> None:
    assert keystore.unlock(stored, PASSWORD) == KEY
    assert keystore.address(stored) == address_of_key(KEY)


def test_eth_keyfile_reads_ours(stored: Path) -> None:
    assert oracle.load_keyfile(str(stored))["version"] == 3
    assert oracle.decode_keyfile_json(json.loads(stored.read_text()), PASSWORD) == KEY


def test_we_read_eth_keyfile(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    document = oracle.create_keyfile_json(KEY, PASSWORD, kdf="scrypt", iterations=N)
    keystore.write_private(path, json.dumps(document).encode())
    assert keystore.unlock(path, PASSWORD) == KEY
    assert keystore.address(path) == address_of_key(KEY)


def test_default_cost_is_geths() -> None:
    assert keystore.seal(key=KEY, password=PASSWORD)["crypto"]["kdfparams"]["n"] == 262144


def test_file_is_private_and_holds_no_key(stored: Path) -> None:
    assert stored.stat().st_mode & 0o777 == 0o600
    assert KEY.hex() not in stored.read_text()


def test_wrong_password(stored: Path) -> None:
    with pytest.raises(WalletError, match="wrong password"):
        keystore.unlock(stored, b"guess")


def test_key_is_never_written_over(stored: Path) -> None:
    before = stored.read_bytes()
    with pytest.raises(WalletError, match="never written over"):
        keystore.create(stored, key=bytes(31) + b"\1", password=PASSWORD, scrypt_n=N)
    assert stored.read_bytes() == before


def test_readable_by_others_is_refused(stored: Path) -> None:
    stored.chmod(0o640)
    with pytest.raises(WalletError, match="others may read") as caught:
        keystore.unlock(stored, PASSWORD)
    assert caught.value.hint == f"chmod 600 {stored}"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="no keystore"):
        keystore.unlock(tmp_path / "none.json", PASSWORD)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": None},
        {"crypto": {}},
        {"crypto": 7},
        {"crypto": {"kdf": "pbkdf2", "cipher": "aes-128-ctr"}},
    ],
)
def test_other_documents_are_refused(stored: Path, change: dict[str, object]) -> None:
    document = json.loads(stored.read_text()) | change
    stored.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="version 3 scrypt"):
        keystore.unlock(stored, PASSWORD)


@pytest.mark.parametrize(
    "change", [{"n": 2**30}, {"n": 0}, {"p": 10**6}, {"r": -8}, {"dklen": 16}, {"n": 1000}]
)
def test_derivation_is_bounded(stored: Path, change: dict[str, int]) -> None:
    document = json.loads(stored.read_text())
    document["crypto"]["kdfparams"] |= change
    stored.write_text(json.dumps(document))
    with pytest.raises(ConfigError):
        keystore.unlock(stored, PASSWORD)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", "[" * 5_000])
def test_not_a_keystore(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keystore.json"
    keystore.write_private(path, text.encode())
    with pytest.raises(ConfigError):
        keystore.unlock(path, PASSWORD)
    with pytest.raises(ConfigError):
        keystore.address(path)


def test_password_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    keystore.write_private(path, b"secret word\r\nnotes\n")
    assert keystore.read_password(path) == b"secret word"
    path.chmod(0o644)
    with pytest.raises(WalletError, match="others may read password file"):
        keystore.read_password(path)


def test_empty_password_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    keystore.write_private(path, b"\n")
    with pytest.raises(WalletError, match="empty"):
        keystore.read_password(path)
