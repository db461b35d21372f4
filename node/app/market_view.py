"""`node market`: what is offered now.

It looks on under a key drawn for the occasion: no home is owned, nothing can be promised, and a
running node is not disturbed.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from node.adapters.clock import SystemClock
from node.adapters.p2p.transport import open_transport
from node.app import logs
from node.app.domain import domain_of
from node.app.hello import hello_of
from node.app.init import draw_key
from node.config import Config
from node.errors import NoPeers
from node.protocol.announcements import ANY_MODEL
from node.protocol.fields import ZERO_ADDRESS
from node.protocol.signing import address_of_key, checksum
from node.protocol.statements import Terms, Tier
from node.roles.dispatch import Dispatcher
from node.roles.hints import Hints
from node.roles.market import Market
from node.units import MS_PER_S

_RATE_PER_TPS: Final = 1_000
_LOOKED_EVERY_S: Final = 0.1
_SETTLED_S: Final = 1.0
"""Announcements come at once from whom was asked, and within a second from the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRow:
    """One live offer.  Prices: micro per million tokens."""

    name: str
    worker: str
    model: str
    tier: str
    price_in: int
    price_cached: int
    price_out: int
    first_token_ms: int
    """Promised, for a prompt of 1,024 tokens."""
    rate_tps: float
    """Promised."""
    context_max: int
    slots_free: int
    queued: int
    region: str
    splits_bps: int
    """Share of the price that goes to others than the worker."""


class Window:
    """The market as it looks from here."""

    def __init__(self, hints: Hints, market: Market) -> None:
        self._hints = hints
        self._market = market

    def rows(self) -> tuple[OfferRow, ...]:
        """Live offers, the cheapest output first."""
        names = {model: name for model, (name, _) in self._hints.models().items()}
        rows = [
            row(standing.terms, name)
            for model, name in names.items()
            for standing in self._market.live_offers(model)
        ]
        return tuple(sorted(rows, key=lambda each: (each.price_out, each.price_in, each.worker)))

    async def settle(self) -> None:
        """Return once all that announce have offered, and nothing more came for a while."""
        seen, since_s = 0, trio.current_time()
        while True:
            await trio.sleep(_LOOKED_EVERY_S)
            offers, announced = len(self.rows()), self.announced
            if offers + announced != seen:
                seen, since_s = offers + announced, trio.current_time()
            elif offers >= announced > 0 and trio.current_time() - since_s >= _SETTLED_S:
                return

    @property
    def announced(self) -> int:
        """Workers that announce something, whether or not they answer."""
        return sum(count for _, count in self._hints.models().values())


@asynccontextmanager
async def open_window(config: Config) -> AsyncIterator[Window]:
    """Connect, and keep looking for as long as the context is open.

    Raises:
        ConfigError: The chain or the network is not configured.
    """
    logs.configure("warning")
    key, clock, rng = draw_key(), SystemClock(), random.SystemRandom()
    domain = domain_of(config)
    address = address_of_key(key)
    hello = hello_of(domain, payer=ZERO_ADDRESS, payee=ZERO_ADDRESS, sells=False)
    network = replace(config.network, listen=())
    async with open_transport(network, key, hello) as transport, trio.open_nursery() as nursery:
        hints = Hints(
            transport=transport,
            discovery=None,
            clock=clock,
            domain=domain,
            rng=rng,
            bootstrap=config.network.bootstrap,
        )
        market = Market(
            transport=transport,
            hints=hints,
            clock=clock,
            domain=domain,
            key=key,
            payer=address,
            rng=rng,
            config=config.client,
            store=None,
        )
        dispatcher = Dispatcher(
            transport, hints.handlers, market.handlers, greeters=(hints.greet, market.greet)
        )
        for role in (hints, market, dispatcher):
            await nursery.start(role.run)
        hints.follow(ANY_MODEL)
        market.follow(ANY_MODEL)
        yield Window(hints, market)
        nursery.cancel_scope.cancel()


async def look(config: Config, *, window_s: float) -> tuple[OfferRow, ...]:
    """The offers that arrive within a time; sooner, once everybody who announces has offered.

    Raises:
        NoPeers: Nobody offered anything.
    """
    async with open_window(config) as window:
        with trio.move_on_after(window_s):
            await window.settle()
        rows, announced = window.rows(), window.announced
    if not rows:
        hint = "network.bootstrap says whom to ask" if not announced else "see node doctor"
        raise NoPeers(f"no offers; {announced} workers announce themselves", hint=hint)
    return rows


def row(terms: Terms, name: str) -> OfferRow:
    """An offer for people and programs."""
    return OfferRow(
        name=name,
        worker=checksum(terms.worker),
        model="0x" + terms.model.hex(),
        tier=Tier(terms.tier).name.lower(),
        price_in=terms.price_in,
        price_cached=terms.price_cached,
        price_out=terms.price_out,
        first_token_ms=terms.first_token_ms,
        rate_tps=terms.rate_mtps / _RATE_PER_TPS,
        context_max=terms.context_max,
        slots_free=terms.slots_free,
        queued=terms.queued,
        region=terms.region,
        splits_bps=sum(split.bps for split in terms.splits),
    )


def table(rows: tuple[OfferRow, ...]) -> Any:
    """The offers as a rich table."""
    from rich.table import Table

    shown = Table(caption="prices: micro per million tokens; times and rates are promises")
    for column in ("model", "worker", "region"):
        shown.add_column(column, overflow="fold", min_width=42 if column == "worker" else None)
    for column in ("in", "out", "first token", "tokens/s", "free", "queued"):
        shown.add_column(column, justify="right")
    for each in rows:
        shown.add_row(
            each.name,
            each.worker,
            each.region or "-",
            f"{each.price_in:,}",
            f"{each.price_out:,}",
            f"{each.first_token_ms / MS_PER_S:.2f} s",
            f"{each.rate_tps:.0f}",
            str(each.slots_free),
            str(each.queued),
        )
    return shown


async def follow(config: Config, *, every_s: float) -> None:
    """Show the table on the terminal, anew every so often, until cancelled."""
    from rich.live import Live

    async with open_window(config) as window:
        with Live(table(()), auto_refresh=False) as live:
            while True:
                live.update(table(window.rows()), refresh=True)
                await trio.sleep(every_s)
