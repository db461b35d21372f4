"""The session key on disk: an Ethereum keystore (geth's version 3, scrypt), mode 0600.

Written and read with OpenSSL's scrypt and AES; `eth_keyfile` is the oracle of the tests: importing
it takes half a second, on the way of every command that signs.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
import uuid
from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError, WalletError
from node.protocol.fields import Address
from node.protocol.signing import address_of_key, keccak256

SCRYPT_N: Final = 2**18
"""What geth uses: 0.6 s and 256 MiB per attempt at the password."""
SCRYPT_N_DEVNET: Final = 2**12
"""10 ms: for keys that are worth nothing and whose password lies beside them."""

_SCRYPT_R: Final = 8
_SCRYPT_MEMORY_MAX: Final = 2**30
_CIPHER: Final = "aes-128-ctr"
_FILE_BYTES_MAX: Final = 64 * 1024


def create(path: Path, *, key: bytes, password: bytes, scrypt_n: int = SCRYPT_N) -> Address:
    """Write a keystore that is not there yet, and return the key's address.

    Args:
        path: The file; its folder exists.
        key: The 32-byte private key.
        password: What `unlock` will need.
        scrypt_n: Cost of one attempt at the password: a power of two.

    Raises:
        WalletError: The file exists: a key is never written over.
        ConfigError: It can't be written; nothing is left of it.
    """
    document = seal(key=key, password=password, scrypt_n=scrypt_n)
    try:
        write_private(path, json.dumps(document).encode())
    except FileExistsError:
        raise WalletError(f"{path} exists; a key is never written over") from None
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from error
    return address_of_key(key)


def unlock(path: Path, password: bytes) -> bytes:
    """The 32-byte private key.

    Raises:
        WalletError: No keystore, readable by others, or a wrong password.
        ConfigError: Not a keystore that this program can read.
    """
    document = _read(path)
    try:
        return _open(document, password)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is not a version 3 scrypt keystore ({error})") from error


def address(path: Path) -> Address:
    """The address of the key, which the file states in the clear.

    Raises:
        WalletError: No keystore, or readable by others.
        ConfigError: Not a keystore.
    """
    document = _read(path)
    try:
        found = bytes.fromhex(document["address"].removeprefix("0x"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} names no address ({error})") from error
    if len(found) != 20:
        raise ConfigError(f"{path} names no address")
    return found


def seal(*, key: bytes, password: bytes, scrypt_n: int = SCRYPT_N) -> dict[str, Any]:
    """The keystore of a key, as the JSON object that geth and wallets read."""
    salt, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    kdf = {"dklen": 32, "n": scrypt_n, "r": _SCRYPT_R, "p": 1, "salt": salt.hex()}
    derived = _derive(password, kdf)
    ciphertext = _aes(derived[:16], iv, key)
    return {
        "version": 3,
        "id": str(uuid.uuid4()),
        "address": address_of_key(key).hex(),
        "crypto": {
            "cipher": _CIPHER,
            "cipherparams": {"iv": iv.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": kdf,
            "mac": keccak256(derived[16:] + ciphertext).hex(),
        },
    }


def read_password(path: Path) -> bytes:
    """A password file's first line.

    Raises:
        WalletError: Not there, readable by others, or empty.
    """
    first, _, _ = _read_private(path, "password file").partition(b"\n")
    password = first.rstrip(b"\r")
    if not password:
        raise WalletError(f"password file {path} is empty")
    return password


def write_private(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, readable by its owner alone, and on disk on return.

    Raises:
        FileExistsError: It is there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Under its name it is whole, whenever a crash comes; and a link replaces nothing.
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read_private(path, "keystore"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a keystore: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a keystore")
    return document


def _read_private(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_FILE_BYTES_MAX)
    except FileNotFoundError:
        raise WalletError(f"no {what} at {path}", hint="node init") from None
    except OSError as error:
        raise WalletError(f"can't read {what} {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise WalletError(f"others may read {what} {path}", hint=f"chmod 600 {path}")
    return content


def _open(document: dict[str, Any], password: bytes) -> bytes:
    crypto = document.get("crypto") or document["Crypto"]
    if document["version"] != 3 or crypto["kdf"] != "scrypt" or crypto["cipher"] != _CIPHER:
        raise ValueError("another version, key derivation or cipher")
    ciphertext = bytes.fromhex(crypto["ciphertext"])
    derived = _derive(password, crypto["kdfparams"])
    mac = keccak256(derived[16:32] + ciphertext)
    if not hmac.compare_digest(mac, bytes.fromhex(crypto["mac"])):
        raise WalletError("wrong password for the keystore")
    key = _aes(derived[:16], bytes.fromhex(crypto["cipherparams"]["iv"]), ciphertext)
    if len(key) != 32:
        raise ValueError("no 32-byte key inside")
    return key


def _derive(password: bytes, kdf: dict[str, Any]) -> bytes:
    n, r, p = kdf["n"], kdf["r"], kdf["p"]
    memory = 128 * r * (n + p + 2)
    if kdf["dklen"] != 32 or not 0 < memory <= _SCRYPT_MEMORY_MAX or not 0 < p <= 64:
        raise ValueError("key derivation is out of range")
    salt = bytes.fromhex(kdf["salt"])
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory + 2**20, dklen=32)


def _aes(key: bytes, iv: bytes, data: bytes) -> bytes:
    """AES-128 in counter mode: the same for both directions."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    context = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return context.update(data) + context.finalize()
