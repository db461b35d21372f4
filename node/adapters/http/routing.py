"""OpenRouter's fields for which model and which worker: what the auction can do of them."""

import math
from typing import Any, Final

from node.adapters.http.errors import bad_field, unsupported
from node.adapters.http.fields import Fields, name_of
from node.adapters.http.port import Routing, Sort
from node.units import MICRO_PER_UNIT, MS_PER_S

MODELS_MAX: Final = 8
WORKERS_MAX: Final = 32
PRICE_MAX: Final = 2.0**53 / MICRO_PER_UNIT
PACE_MAX: Final = 1e6
"""Seconds, or tokens per second."""
SORTS: Final[dict[str, Sort]] = {
    "price": "price",
    "throughput": "throughput",
    "latency": "latency",
}
SUFFIXES: Final[dict[str, Sort]] = {"nitro": "throughput", "floor": "price"}


def read_models(fields: Fields) -> tuple[tuple[str, ...], Sort | None]:
    """The wanted model and those that would do as well; and the order that its suffix asks for.

    Raises:
        ApiError: There is none, or too many.
    """
    fields.only("route", "fallback", why="only fallback is known")
    first = fields.take("model")
    others = fields.list_of("models", MODELS_MAX, name_of) or ()
    names = (() if first is None else (name_of(first, "model"),)) + others
    if not names:
        raise bad_field("model", "is missing")
    split = [_suffix(name) for name in names]
    sorts = {sort for _, sort in split if sort is not None}
    if len(sorts) > 1:
        raise bad_field("models", "have suffixes that contradict each other")
    return tuple(dict.fromkeys(name for name, _ in split)), next(iter(sorts), None)


def _suffix(name: str) -> tuple[str, Sort | None]:
    model, _, suffix = name.rpartition(":")
    return (model, SUFFIXES[suffix]) if model and suffix in SUFFIXES else (name, None)


def read_routing(fields: Fields, sort: Sort | None) -> Routing:
    """The `provider` object.

    Args:
        fields: The body's.
        sort: What a model's suffix asks for.

    Raises:
        ApiError: A field is unknown, wrong, or asks for what the auction can't do.
    """
    provider = fields.object("provider")
    if provider is None:
        return Routing(sort=sort)
    price = provider.object("max_price")
    price_in, price_out = (None, None) if price is None else _prices(price)
    pace_tps = _pace(provider, "preferred_min_throughput")
    latency_s = _pace(provider, "preferred_max_latency")
    # Every worker that sells a model takes every parameter: nothing is left out in silence.
    provider.flag("require_parameters")
    provider.only("data_collection", "allow", why="without a TEE a worker sees the prompt")
    provider.only("zdr", False, why="without a TEE a worker sees the prompt")
    routing = Routing(
        order=provider.list_of("order", WORKERS_MAX, name_of) or (),
        only=provider.list_of("only", WORKERS_MAX, name_of) or (),
        ignore=provider.list_of("ignore", WORKERS_MAX, name_of) or (),
        allow_fallbacks=provider.flag("allow_fallbacks", default=True),
        sort=provider.choice("sort", SORTS) or sort,
        quantizations=provider.list_of("quantizations", WORKERS_MAX, name_of) or (),
        price_in_max=price_in,
        price_out_max=price_out,
        first_token_ms_max=None if latency_s is None else math.ceil(latency_s * MS_PER_S),
        rate_mtps_min=None if pace_tps is None else math.floor(pace_tps * 1000),
    )
    provider.done()
    return routing


def _prices(price: Fields) -> tuple[int | None, int | None]:
    """Coins per million tokens, as OpenRouter has dollars; in micro."""

    def micro(field: str) -> int | None:
        value: Any = price.take(field)
        if isinstance(value, str):  # some clients send decimals as text
            try:
                value = float(value)
            except ValueError:
                raise bad_field(price.name(field), "must be a number") from None
        coins = Fields({field: value}, "provider.max_price").number(field, 0.0, PRICE_MAX)
        return None if coins is None else math.floor(coins * MICRO_PER_UNIT)

    found = micro("prompt"), micro("completion")
    for field in ("request", "image"):
        price.only(field, why="prices are per token")
    price.done()
    return found


def _pace(provider: Fields, field: str) -> float | None:
    value = provider.take(field)
    if isinstance(value, dict):
        raise unsupported(
            provider.name(field), "percentiles are not weighed; give one number for the prediction"
        )
    return Fields({field: value}, "provider").number(field, 0.0, PACE_MAX)
