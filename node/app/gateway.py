"""`node gateway`: OpenAI's clients buy on the market, on this home's account."""

import ipaddress
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from node.adapters.clock import SystemClock
from node.adapters.http import server
from node.adapters.http.guard import Guard
from node.adapters.http.port import Customer
from node.adapters.http.routes import routes
from node.adapters.http.runs import Runs
from node.adapters.store import open_stores
from node.app import key_control, logs, wallet_control
from node.app.buyer import Buyer, open_buyer
from node.app.control import serve_control
from node.app.domain import domain_of
from node.app.gateway_desk import MarketDesk
from node.app.gateway_job import Counter
from node.app.gateway_models import Shelf
from node.app.gateway_submit import Submits
from node.app.gateway_upstream import Upstream
from node.app.home import Home
from node.app.key_book import KeyBook
from node.app.submit_handover import METHOD
from node.app.unlock import session_key
from node.app.wallet import Wallet, open_wallet
from node.config import Config
from node.errors import ConfigError, ExitCode
from node.protocol.announcements import ANY_MODEL
from node.protocol.signing import checksum
from node.roles.stores import Stores

FOLLOW_EVERY_S: Final = 30.0
"""Offers are kept at hand, so that the first request after a pause is as quick as the others."""
DESCRIPTORS_BESIDES: Final = 1024
"""Besides those of HTTP: peers, the store, commands on the control socket."""
END_S: Final = 8.0
"""How long answers under way may take to be cut off, paid and proven at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A gateway at work."""

    buyer: Buyer
    wallet: Wallet
    keys: KeyBook
    runs: Runs
    counter: Counter
    submits: Submits
    port: int


def run(config: Config) -> int:
    """Serve until told to stop; returns the exit code.

    Raises:
        ConfigError: The home, a setting or the address can't be used.
    """
    logs.configure("info")
    return trio.run(_gateway, config)


async def _gateway(config: Config) -> int:
    home = Home(config.home)
    with home.own("gateway"):
        key = session_key(config)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with (
                open_stores(home.store, domain=domain_of(config)) as stores,
                open_shop(config, key, stores) as shop,
                trio.open_nursery() as nursery,
            ):
                streams = {METHOD: shop.submits.handle}
                await nursery.start(serve_control, home, _methods(shop), streams)
                _say_ready(config, shop)
                await anext(signals)
                with trio.move_on_after(END_S):
                    async with trio.open_nursery() as ending:
                        ending.start_soon(shop.runs.end_all)
                        ending.start_soon(shop.submits.end_all)
                nursery.cancel_scope.cancel()
    return ExitCode.OK


@asynccontextmanager
async def open_shop(config: Config, key: bytes, stores: Stores) -> AsyncIterator[Shop]:
    """A gateway that listens; its tasks end with the context.

    Raises:
        ConfigError: A setting or the address can't be used.
    """
    settings, home = config.gateway, Home(config.home)
    keys = KeyBook(stores.keys, SystemClock())
    await keys.load()
    door = _Door(keys, open_to_all=not _is_loopback(settings.host))
    if door.open_to_all and not keys.any_in_use:
        raise ConfigError(
            f"others can reach {settings.host}, and there is no API key",
            hint="node keys create, or --host 127.0.0.1",
        )
    upstream = Upstream.of(config)
    listeners = await server.listen(settings.host, settings.port)
    async with (
        open_buyer(config, key, stores) as buyer,
        open_wallet(config, key, stores) as wallet,
        trio.open_nursery() as nursery,
    ):
        counter = Counter(config=config, home=home, buyer=buyer, shelf=Shelf(buyer), keys=keys)
        desk = MarketDesk(counter, stores.client, upstream, began_s=int(time.time()))
        runs = Runs(desk)
        app = Guard(
            routes(desk, runs, body_bytes_max=settings.body_bytes_max),
            keys=door,
            hosts=(settings.host, *settings.hosts),
            origins=settings.origins,
            requests_max=settings.requests_max,
        )
        await nursery.start(runs.run)
        nursery.start_soon(_keep_following, buyer)
        connections_max = max(server.CONNECTIONS_MAX, 2 * settings.requests_max)
        allow_descriptors(connections_max + DESCRIPTORS_BESIDES)
        serve = partial(server.serve, app, listeners, connections_max=connections_max)
        await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        yield Shop(
            buyer=buyer,
            wallet=wallet,
            keys=keys,
            runs=runs,
            counter=counter,
            submits=Submits(config, buyer, counter.shelf),
            port=port,
        )
        nursery.cancel_scope.cancel()


class _Door:
    """Who may ask (`port.Keys`): whoever reaches loopback, as long as nobody made a key."""

    def __init__(self, keys: KeyBook, *, open_to_all: bool) -> None:
        self._keys = keys
        self.open_to_all = open_to_all

    @property
    def needed(self) -> bool:
        """Also once all keys were revoked: that is no reason to let everybody in."""
        return self.open_to_all or bool(self._keys.rows)

    def find(self, secret: str) -> Customer | None:
        """Whose key it is."""
        return self._keys.find(secret)


async def _keep_following(buyer: Buyer) -> None:
    buyer.hints.follow(ANY_MODEL)
    while True:
        for model in (ANY_MODEL, *buyer.hints.models()):
            buyer.market.follow(model)
        await trio.sleep(FOLLOW_EVERY_S)


def allow_descriptors(count: int) -> None:
    """Raise this process's limit of open descriptors as far as is needed and allowed.

    Most systems begin with 1,024: a thousand streams are more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say_ready(config: Config, shop: Shop) -> None:
    settings, host = config.gateway, config.gateway.host
    shown = f"[{host}]" if ":" in host else host
    need = "an API key is needed (node keys)" if shop.keys.rows else "any API key will do"
    sys.stderr.write(
        f"client   {checksum(shop.buyer.address)}\n"
        f"base URL http://{shown}:{shop.port}/v1, {need}\n"
        "privacy  the worker that wins a request sees its prompt\n"
        + (f"upstream {settings.upstream}, where no worker is left\n" if settings.upstream else "")
        + "ready\n"
    )
    sys.stderr.flush()


def _methods(shop: Shop) -> Mapping[str, Any]:
    """What other commands of this home may ask the running gateway."""
    began_s = time.monotonic()

    async def status(_parameters: Mapping[str, Any]) -> dict[str, Any]:
        return _status(shop, began_s)

    return {
        "status": status,
        **key_control.methods(shop.keys),
        **wallet_control.methods(shop.wallet),
    }


def _status(shop: Shop, began_s: float) -> dict[str, Any]:
    market = shop.buyer.market
    return {
        "process": {
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - began_s),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
        },
        "gateway": {
            "port": shop.port,
            "requests": shop.runs.active,
            "submits": shop.submits.active,
            "keys": sum(not row.revoked_ms for row in shop.keys.rows),
        },
        "peers": len(shop.buyer.transport.sessions()),
        "models": [
            {
                "name": name,
                "id": "0x" + model.hex(),
                "workers": workers,
                "offers": len(market.live_offers(model)),
            }
            for model, (name, workers) in shop.buyer.hints.models().items()
        ],
        "promised_micro": shop.buyer.payer.promised_micro,
    }
