"""Where a password comes from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.adapters import keystore
from node.app.unlock import PASSWORD_FD, session_key
from node.config import Config, KeystoreConfig
from node.errors import ConfigError, WalletError

KEY = bytes(31) + b"\7"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    keystore.create(tmp_path / "keystore.json", key=KEY, password=b"pass", scrypt_n=1024)
    keystore.write_private(tmp_path / "password", b"pass\n")
    return tmp_path


def descriptor(content: bytes) -> dict[str, str]:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return {PASSWORD_FD: str(reading)}


@pytest.mark.parametrize("absolute", [False, True])
def test_from_the_file_in_the_config(home: Path, absolute: bool) -> None:
    file = str(home / "password") if absolute else "password"
    config = Config(home=home, keystore=KeystoreConfig(password_file=file))
    assert session_key(config, {}) == KEY


def test_descriptor_comes_first(home: Path) -> None:
    config = Config(home=home, keystore=KeystoreConfig(password_file="none"))
    assert session_key(config, descriptor(b"pass\n")) == KEY


def test_empty_descriptor(home: Path) -> None:
    with pytest.raises(WalletError, match="no password"):
        session_key(Config(home=home), descriptor(b""))


@pytest.mark.parametrize("number", ["", "x", "900"])
def test_no_such_descriptor(home: Path, number: str) -> None:
    with pytest.raises(ConfigError, match="names no open descriptor"):
        session_key(Config(home=home), {PASSWORD_FD: number})


def test_no_source_and_no_terminal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(WalletError, match="no terminal") as caught:
            session_key(Config(home=home), {})
    assert "--password-file" in caught.value.hint


def test_a_crash_leaves_no_core_file(home: Path) -> None:
    program = (
        "import os, resource, sys; from pathlib import Path\n"
        "from node.app.unlock import session_key\n"
        "from node.config import Config, KeystoreConfig\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        "home = Path(sys.argv[1])\n"
        "session_key(Config(home=home, keystore=KeystoreConfig(password_file='password')), {})\n"
        "print(*resource.getrlimit(resource.RLIMIT_CORE), flush=True)\n"
        "os.abort()"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", program, str(home)], cwd=home, env=environ, capture_output=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode < 0
    assert ran.stdout.split()[0] in (b"0", b"1")
    assert {path.name for path in home.iterdir()} == {"keystore.json", "password"}
