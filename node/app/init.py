"""Make a home: a folder, a config, a key."""

import dataclasses
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node import config
from node.adapters import keystore
from node.adapters.p2p.identity import peer_id_of_key, peer_id_text
from node.app.home import Home
from node.errors import ConfigError
from node.protocol.fields import Address
from node.protocol.signing import address_of_key

PASSWORD_FILE = "password"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Number of points of secp256k1: private keys are 1 to this, exclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitRequest:
    """What a home is made of."""

    home: Path
    password: bytes
    store_password: bool = False
    """Keep the password in a file beside the key, so that the node starts unattended."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By ``section.key``; the rest stays at its default."""
    key: bytes | None = None
    """32-byte private key to import; None draws one."""
    scrypt_n: int = keystore.SCRYPT_N


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a home is."""

    home: Path
    address: Address
    peer_id: str


def create(request: InitRequest) -> Identity:
    """Make the home.  The key comes last, so that what failed half-way can be run again.

    Raises:
        ConfigError: There is a home already, the folder is somebody else's, or a setting is wrong.
    """
    home = Home(request.home)
    if home.keystore.exists():
        raise ConfigError(f"{home.path} has a key already", hint="choose another --home")
    settings = dict(request.settings)
    if request.store_password:
        settings["keystore.password_file"] = PASSWORD_FILE
    text = render(settings)
    key = request.key or draw_key()
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.check()
        _replace(home.path / config.FILE_NAME, text.encode())
        if request.store_password:
            _replace(home.path / PASSWORD_FILE, request.password + b"\n")
    except OSError as error:
        raise ConfigError(f"can't make {home.path}: {error.strerror}") from error
    address = keystore.create(
        home.keystore, key=key, password=request.password, scrypt_n=request.scrypt_n
    )
    return Identity(home=home.path, address=address, peer_id=peer_id_text(peer_id_of_key(key)))


def draw_key() -> bytes:
    """A random private key."""
    return (secrets.randbelow(_ORDER - 1) + 1).to_bytes(32, "big")


def read_key(path: Path) -> bytes:
    """A private key from a file: 64 hex digits, with or without 0x.

    Raises:
        ConfigError: Not there, or not a key.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip().removeprefix("0x"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no private key in hexadecimal") from error
    if len(key) != 32 or not 0 < int.from_bytes(key, "big") < _ORDER:
        raise ConfigError(f"{path} is no private key of secp256k1")
    address_of_key(key)
    return key


def render(settings: Mapping[str, Any]) -> str:
    """A config file: the given settings, and every other as a comment with its default.

    Raises:
        ConfigError: A setting that does not exist, or a value that it can't have.
    """
    import tomli_w

    given = {name: (value, "init") for name, value in settings.items()}
    loaded = config.build(Path(), given)
    lines = ["# Settings of this node; the commented ones show their defaults."]
    for section in dataclasses.fields(loaded):
        values = getattr(loaded, section.name)
        if not dataclasses.is_dataclass(values):
            continue
        lines += ["", f"[{section.name}]"]
        for key in dataclasses.fields(values):
            value = _plain(getattr(values, key.name))
            line = tomli_w.dumps({key.name: value}, multiline_strings=False).strip()
            chosen = f"{section.name}.{key.name}" in settings
            lines += line.splitlines() if chosen else [f"# {part}" for part in line.splitlines()]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _replace(path: Path, content: bytes) -> None:
    """Write a private file, over what an earlier, failed attempt left."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    keystore.write_private(temporary, content)
    os.replace(temporary, path)
