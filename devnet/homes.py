"""Homes of a devnet's nodes: made as `node init` makes them, with prices and speeds that differ."""

import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from devnet.chain import CHAIN_ID, HOST, Contracts
from node.adapters import keystore
from node.app.init import Identity, InitRequest, create
from node.units import MICRO_PER_UNIT

PASSWORD: Final = b"devnet"

NATIVE_PRICE_MICRO: Final = 2_500 * MICRO_PER_UNIT
"""With a price for gas, a few cheap jobs don't pay for their redemption: it waits to be asked."""

SHOP_FRONTS: Final[tuple[Mapping[str, Any], ...]] = (
    {"worker.price_in": 60_000, "worker.price_out": 250_000, "engine.tokens_per_s_max": 30.0},
    {"worker.price_in": 100_000, "worker.price_out": 400_000, "engine.tokens_per_s_max": 90.0},
    {"worker.price_in": 160_000, "worker.price_out": 700_000, "engine.tokens_per_s_max": 240.0},
    {"worker.price_in": 80_000, "worker.price_out": 320_000, "engine.tokens_per_s_max": 60.0},
    {"worker.price_in": 130_000, "worker.price_out": 520_000, "engine.tokens_per_s_max": 150.0},
)
"""Cheap and slow to dear and fast; a sixth worker is like the first."""

_PORTS: Final = range(20_000, 32_000)
"""Below what the kernel gives to outgoing connections: nobody takes one while a node starts."""


def make_worker(
    home: Path,
    *,
    number: int,
    chain: Mapping[str, Any],
    port: int,
    bootstrap: tuple[str, ...],
    settings: Mapping[str, Any],
) -> Identity:
    """A worker's home.

    Args:
        home: Its folder, not there yet.
        number: From 0; decides prices and speed.
        chain: From `chain_settings`.
        port: Where it listens, on loopback.
        bootstrap: Multiaddrs that it starts from.
        settings: By ``section.key``; over everything else.
    """
    own = {
        "network.listen": [f"/ip4/{HOST}/tcp/{port}"],
        "network.bootstrap": list(bootstrap),
        # A stopped devnet is gone in 5 s: what is in the air has this long.
        "worker.drain_s": 2.0,
        # All of a devnet's share one machine.
        "engine.threads": 1,
    }
    front = SHOP_FRONTS[number % len(SHOP_FRONTS)]
    return _make(home, {**chain, **own, **front, **settings})


def make_client(
    home: Path, *, chain: Mapping[str, Any], bootstrap: tuple[str, ...], settings: Mapping[str, Any]
) -> Identity:
    """A client's home: it dials, nobody dials it."""
    own = {"network.listen": [], "network.bootstrap": list(bootstrap)}
    return _make(home, {**chain, **own, **settings})


def chain_settings(rpc_url: str, contracts: Contracts) -> dict[str, Any]:
    """The settings that all nodes of one devnet share."""
    return {
        "chain.rpc_url": rpc_url,
        "chain.chain_id": CHAIN_ID,
        "chain.escrow": contracts.escrow,
        "chain.token": contracts.token,
        "chain.native_price_micro": NATIVE_PRICE_MICRO,
    }


def free_port() -> int:
    """A loopback port that nobody listens on."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port on loopback")


def multiaddr(identity: Identity, port: int) -> str:
    """Where a worker will be reached."""
    return f"/ip4/{HOST}/tcp/{port}/p2p/{identity.peer_id}"


def _make(home: Path, settings: Mapping[str, Any]) -> Identity:
    return create(
        InitRequest(
            home=home,
            password=PASSWORD,
            store_password=True,
            settings=settings,
            scrypt_n=keystore.SCRYPT_N_DEVNET,
        )
    )
