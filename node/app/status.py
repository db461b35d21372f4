"""`node status`: from the running node if there is one, else from the store and the chain."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import trio

from node.adapters import keystore
from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.store import open_stores_read_only
from node.app import control
from node.app.domain import domain_of
from node.app.home import Home
from node.config import Config
from node.errors import ConfigError, NodeError
from node.protocol.fields import Address
from node.protocol.signing import checksum
from node.units import format_micro

_ASK_S: Final = 5.0
_JOBS_SHOWN: Final = 1000


def report(config: Config) -> dict[str, Any]:
    """What the home's node does, or what it left; JSON values, amounts in micro.

    Raises:
        ConfigError: There is no home, or its settings can't be used.
        WalletError: It has no key.
        Unavailable: A node runs but does not answer.
    """
    home = Home(config.home)
    home.check()
    address = keystore.address(home.keystore)
    shown: dict[str, Any] = {"home": str(config.home), "address": checksum(address)}
    try:
        live = control.call(home, "status", {}, timeout_s=_ASK_S)
    except control.NotRunning:
        return {**shown, "running": False, **trio.run(_at_rest, config, address)}
    return {**shown, "running": True, **live}


async def _at_rest(config: Config, address: Address) -> dict[str, Any]:
    return {"sold": await _sold(Home(config.home)), "chain": await _chain(config, address)}


async def _sold(home: Home) -> dict[str, Any] | None:
    """Totals of the store; None where nothing was done yet."""
    try:
        async with open_stores_read_only(home.store) as stores:
            totals = await stores.worker.totals()
            jobs = await stores.client.jobs(count_max=_JOBS_SHOWN)
    except ConfigError:
        return None
    return {**asdict(totals), "jobs_bought": len(jobs)}


async def _chain(config: Config, address: Address) -> dict[str, Any]:
    """The account in the escrow; trouble with the RPC is part of the answer, not the end of it."""
    domain = domain_of(config)
    rpc = Rpc(config.chain.rpc_url, chain_id=domain.chain_id)
    reader = EscrowReader(rpc, escrow=domain.escrow, finality_blocks=config.chain.finality_blocks)
    try:
        view = await reader.view(payer=address, payee=address, signer=address)
        credit_micro = await reader.credit(address)
    except NodeError as error:
        return {"problem": str(error)}
    finally:
        rpc.close()
    return {
        "problem": "",
        "block": view.block,
        "free_micro": view.account.free_micro,
        "locked_micro": view.account.locked_micro,
        "credit_micro": credit_micro,
        "exit_ready_s": view.account.exit_ready_s,
    }


def lines(value: Any, indent: str = "") -> Iterator[str]:
    """A report for people: one line per figure, amounts in coins."""
    for name, item in value.items():
        label = name.removesuffix("_micro").replace("_", " ")
        if isinstance(item, dict) and item:
            yield f"{indent}{label}"
            yield from lines(item, indent + "  ")
        elif isinstance(item, list | tuple) and item and isinstance(item[0], dict):
            for number, each in enumerate(item, start=1):
                yield f"{indent}{label} {number}"
                yield from lines(each, indent + "  ")
        else:
            yield f"{indent}{label:<18} {_shown(name, item)}"


def _shown(name: str, item: Any) -> str:
    if name.endswith("_micro") and isinstance(item, int):
        return format_micro(item)
    if isinstance(item, list | tuple):
        return ", ".join(map(str, item)) or "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, float):
        return f"{item:.1f}"
    return "-" if item in (None, "", {}) else str(item)
