"""`node keys …`: by the running gateway if there is one, else by the command itself."""

from collections.abc import Mapping
from typing import Any, Final

import trio

from node.adapters.clock import SystemClock
from node.adapters.store import open_stores
from node.app import control
from node.app.domain import domain_of
from node.app.home import Home, say_waiting
from node.app.key_book import KeyBook
from node.config import Config
from node.errors import ConfigError
from node.roles.stores import KeyRow

ANSWER_S: Final = 10.0
WAIT_S: Final = 120.0
"""How long other commands of this home are waited for."""


async def _create(book: KeyBook, parameters: Mapping[str, Any]) -> Any:
    limit = parameters.get("spend_max_micro")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise ConfigError(f"spend_max_micro must be a whole number, not {limit!r}")
    made = await book.create(str(parameters.get("name", "")), spend_max_micro=limit)
    return {**_shown(made.row), "key": made.secret}


async def _list(book: KeyBook, _: Mapping[str, Any]) -> Any:
    return [_shown(row) for row in book.rows]


async def _revoke(book: KeyBook, parameters: Mapping[str, Any]) -> Any:
    await book.revoke(str(parameters.get("id", "")))
    return {"id": parameters["id"], "revoked": True}


_ACTIONS: Final = {"keys.create": _create, "keys.list": _list, "keys.revoke": _revoke}


def methods(book: KeyBook) -> dict[str, control.Handler]:
    """What a running gateway answers on its control socket."""

    def handler(name: str) -> control.Handler:
        async def handle(parameters: Mapping[str, Any]) -> Any:
            return await _ACTIONS[name](book, parameters)

        return handle

    return {name: handler(name) for name in _ACTIONS}


def perform(config: Config, method: str, **parameters: Any) -> Any:
    """Do something with a home's API keys; JSON values, amounts in micro.

    Args:
        config: The home's.
        method: One of `keys.create`, `keys.list`, `keys.revoke`.
        **parameters: `name`, `spend_max_micro`; `id`.

    Raises:
        UsageError: There is no such key, or it can't be made.
        Unavailable: Another command owns the home.
        ConfigError: The home or its settings can't be used.
    """
    home = Home(config.home)
    home.check()
    try:
        return control.call(home, method, parameters, timeout_s=ANSWER_S)
    except control.NotRunning:
        return trio.run(_alone, config, method, parameters)


async def _alone(config: Config, method: str, parameters: Mapping[str, Any]) -> Any:
    home = Home(config.home)
    purpose = method.replace(".", " ")
    async with (
        home.own_within(WAIT_S, purpose=purpose, on_wait=say_waiting),
        open_stores(home.store, domain=domain_of(config)) as stores,
    ):
        book = KeyBook(stores.keys, SystemClock())
        await book.load()
        return await _ACTIONS[method](book, parameters)


def _shown(row: KeyRow) -> dict[str, Any]:
    """Without the hash: nobody needs it."""
    return {
        "id": row.id,
        "name": row.name,
        "spend_max_micro": row.spend_max_micro,
        "spent_micro": row.spent_micro,
        "created_ms": row.created_ms,
        "revoked_ms": row.revoked_ms or None,
    }
