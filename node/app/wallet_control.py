"""`node wallet …`: by the running node if there is one; one process alone sends transactions."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final

import trio

from node.adapters.store import open_stores, open_stores_read_only
from node.app import control
from node.app.domain import domain_of
from node.app.home import Home, say_waiting
from node.app.unlock import session_key
from node.app.wallet import Wallet, open_wallet
from node.config import Config
from node.errors import ConfigError
from node.protocol.fields import Address
from node.roles.stores import Stores

Action = Callable[[Wallet, Mapping[str, Any]], Awaitable[Any]]

ANSWER_S: Final = 600.0
"""A transaction may need that long to be final."""
WAIT_S: Final = 120.0
"""How long other commands of this home are waited for."""
SHOW: Final = "wallet.show"


async def _show(wallet: Wallet, _: Mapping[str, Any]) -> Any:
    return await wallet.figures()


async def _deposit(wallet: Wallet, parameters: Mapping[str, Any]) -> Any:
    return await wallet.deposit(_number(parameters, "amount_micro"))


async def _withdraw(wallet: Wallet, parameters: Mapping[str, Any]) -> Any:
    return await wallet.withdraw(to=_address(parameters, "to"))


async def _stay(wallet: Wallet, _: Mapping[str, Any]) -> Any:
    return await wallet.stay()


async def _lock(wallet: Wallet, parameters: Mapping[str, Any]) -> Any:
    payee = _address(parameters, "payee")
    if payee is None:
        raise ConfigError("a lock needs a payee")
    return await wallet.lock(
        payee=payee,
        total_micro=_number(parameters, "total_micro"),
        expiry_s=_number(parameters, "expiry_s"),
    )


async def _claim(wallet: Wallet, parameters: Mapping[str, Any]) -> Any:
    return await wallet.claim(to=_address(parameters, "to"))


async def _mint(wallet: Wallet, parameters: Mapping[str, Any]) -> Any:
    return await wallet.mint(_number(parameters, "amount_micro"))


_ACTIONS: Final[Mapping[str, Action]] = {
    SHOW: _show,
    "wallet.deposit": _deposit,
    "wallet.withdraw": _withdraw,
    "wallet.stay": _stay,
    "wallet.lock": _lock,
    "wallet.claim": _claim,
    "wallet.mint": _mint,
}


def methods(wallet: Wallet) -> dict[str, control.Handler]:
    """What a running node answers on its control socket."""

    def handler(action: Action) -> control.Handler:
        async def handle(parameters: Mapping[str, Any]) -> Any:
            return asdict(await action(wallet, parameters))

        return handle

    return {name: handler(action) for name, action in _ACTIONS.items()}


def perform(
    config: Config, method: str, *, old_store: bool = False, **parameters: Any
) -> dict[str, Any]:
    """Do something with a home's wallet; JSON values, amounts in micro.

    Args:
        config: The home's.
        method: One of `wallet.show`, `.deposit`, `.withdraw`, `.stay`, `.lock`, `.claim`, `.mint`.
        old_store: Also beside an old copy of the store: for taking money out.
        **parameters: JSON values, as `Wallet`'s method of that name has them; addresses as text.

    Raises:
        WalletError: Refused: by the figures, the escrow, or for lack of coins.
        Unavailable: No RPC answered, or another command owns the home.
        ConfigError: The home or its settings can't be used.
        CorruptState: The store is an old copy.
    """
    home = Home(config.home)
    home.check()
    try:
        answer: dict[str, Any] = control.call(home, method, parameters, timeout_s=ANSWER_S)
    except control.NotRunning:
        return trio.run(_alone, config, method, parameters, old_store)
    return answer


async def _alone(
    config: Config, method: str, parameters: Mapping[str, Any], old_store: bool
) -> dict[str, Any]:
    opened = _beside(config) if method == SHOW else _owning(config, method, old_store)
    async with opened as stores, open_wallet(config, session_key(config), stores) as wallet:
        answer: dict[str, Any] = asdict(await _ACTIONS[method](wallet, parameters))
    return answer


@asynccontextmanager
async def _owning(config: Config, method: str, old_store: bool) -> AsyncIterator[Stores]:
    home = Home(config.home)
    purpose = method.replace(".", " ")
    async with (
        home.own_within(WAIT_S, purpose=purpose, on_wait=say_waiting),
        open_stores(home.store, domain=domain_of(config), old_ok=old_store) as stores,
    ):
        yield stores


@asynccontextmanager
async def _beside(config: Config) -> AsyncIterator[Stores]:
    """To look only: nobody is kept waiting.  A new home has nothing to look at yet."""
    store = Home(config.home).store
    if store.exists():
        async with open_stores_read_only(store) as stores:
            yield stores
    else:
        async with open_stores(None, domain=domain_of(config)) as stores:
            yield stores


def _number(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name)
    if type(value) is not int or value < 0:
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    return value


def _address(parameters: Mapping[str, Any], name: str) -> Address | None:
    """An address from text; None from an empty one."""
    text = str(parameters.get(name, ""))
    if not text:
        return None
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 20:
        raise ConfigError(f"{name}: {text} is no address")
    return found
