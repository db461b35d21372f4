"""`node init`: what a new home holds, and what it refuses."""

from pathlib import Path

import pytest

from node.adapters import keystore
from node.adapters.p2p.identity import address_of_peer_id_text
from node.app.init import InitRequest, create, read_key, render
from node.app.unlock import session_key
from node.config import Config, load, setting_kinds
from node.errors import ConfigError
from node.protocol.signing import address_of_key

KEY = bytes(31) + b"\7"


def request(home: Path, **changes: object) -> InitRequest:
    return InitRequest(
        **{"home": home, "password": b"pass", "scrypt_n": 1024, **changes}  # type: ignore[arg-type]
    )


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_home_with_its_password(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    made = create(request(home, store_password=True, settings={"chain.chain_id": 5}))
    assert home.stat().st_mode & 0o777 == 0o700
    assert modes(home) == {"config.toml": 0o600, "keystore.json": 0o600, "password": 0o600}
    config = load(home)
    assert config.chain.chain_id == 5
    assert address_of_key(session_key(config, {})) == made.address
    assert address_of_peer_id_text(made.peer_id) == made.address


def test_password_is_not_kept_unless_asked(tmp_path: Path) -> None:
    create(request(tmp_path / "home"))
    assert not (tmp_path / "home" / "password").exists()
    assert load(tmp_path / "home") == Config(home=tmp_path / "home")


def test_every_home_has_a_key_of_its_own(tmp_path: Path) -> None:
    one, two = (create(request(tmp_path / name)) for name in "ab")
    assert one.address != two.address


def test_imported_key(tmp_path: Path) -> None:
    made = create(request(tmp_path / "home", key=KEY))
    assert made.address == address_of_key(KEY)
    assert keystore.unlock(tmp_path / "home" / "keystore.json", b"pass") == KEY


def test_second_time_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    create(request(home))
    before = {path: path.read_bytes() for path in home.iterdir()}
    with pytest.raises(ConfigError, match="has a key already"):
        create(request(home, settings={"chain.chain_id": 5}))
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_wrong_setting_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"worker\.price_inn"):
        create(request(tmp_path / "home", settings={"worker.price_inn": 5}))
    assert not (tmp_path / "home").exists()


def test_half_made_home_is_made_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("half")
    (home / "config.new").write_text("half")
    create(request(home))
    assert load(home) == Config(home=home)


def test_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="others may enter"):
        create(request(tmp_path / "home"))


def test_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't make"):
        create(request(tmp_path / "file" / "home"))


def test_config_lists_every_setting() -> None:
    text = render({})
    assert all(f"# {name.split('.')[1]} = " in text for name in setting_kinds())


def test_uncommented_defaults_are_the_defaults(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in render({}).splitlines()[1:]]
    (tmp_path / "config.toml").write_text("\n".join(lines))
    assert load(tmp_path) == Config(home=tmp_path)


@pytest.mark.parametrize("text", ["0x" + KEY.hex(), KEY.hex() + "\n"])
def test_key_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert read_key(tmp_path / "key") == KEY


@pytest.mark.parametrize("text", ["", "00" * 32, "ff" * 32, "12", "no hex"])
def test_no_key_in_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match="no private key"):
        read_key(tmp_path / "key")


def test_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no private key"):
        read_key(tmp_path / "none")
