"""The session key of a home: where its password comes from, in which order."""

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from node.adapters import keystore
from node.app.home import Home
from node.config import Config
from node.errors import ConfigError, WalletError

PASSWORD_FD: Final = "GPUNODE_PASSWORD_FD"
_PASSWORD_BYTES_MAX: Final = 4096


def session_key(config: Config, environ: Mapping[str, str] = os.environ) -> bytes:
    """The 32-byte private key of a home.

    The password comes from the descriptor that GPUNODE_PASSWORD_FD names, else from the file
    that `keystore.password_file` names, else from the terminal; never from the command line, which
    every user of the machine can read.

    A crash of this process leaves no core file from here on: it would hold the key and the prompts.

    Raises:
        WalletError: No keystore, no password, or a wrong one.
        ConfigError: Not a keystore.
    """
    _forbid_core_files()
    path = Home(config.home).keystore
    return keystore.unlock(path, _password(config, environ))


def read_descriptor(environ: Mapping[str, str]) -> bytes | None:
    """The password from GPUNODE_PASSWORD_FD, or None if that is not set.

    Raises:
        ConfigError: It names no open descriptor.
        WalletError: Nothing was in it.
    """
    number = environ.get(PASSWORD_FD)
    if number is None:
        return None
    try:
        with os.fdopen(int(number), "rb") as file:
            password = file.read(_PASSWORD_BYTES_MAX).partition(b"\n")[0].rstrip(b"\r")
    except (ValueError, OSError) as error:
        raise ConfigError(f"{PASSWORD_FD}={number} names no open descriptor") from error
    if not password:
        raise WalletError(f"{PASSWORD_FD}: no password in descriptor {number}")
    return password


def ask(prompt: str) -> bytes:
    """Ask on the terminal, without an echo.

    Raises:
        WalletError: There is no terminal to ask on.
    """
    from getpass import getpass

    if sys.stdin is None or not sys.stdin.isatty():
        raise WalletError(
            "no password, and no terminal to ask for it on",
            hint=f"--password-file FILE, keystore.password_file, or {PASSWORD_FD}",
        )
    return getpass(prompt).encode()


def _forbid_core_files() -> None:
    # 1 and not 0: Linux hands the core to a program that `core_pattern` names whatever the limit
    # is, except with this one (core(5)); as a size of a file it is too little for any.
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, hard))


def _password(config: Config, environ: Mapping[str, str]) -> bytes:
    given = read_descriptor(environ)
    if given is not None:
        return given
    if config.keystore.password_file:
        path = config.home / Path(config.keystore.password_file).expanduser()
        return keystore.read_password(path)
    return ask(f"Password of {config.home}: ")
