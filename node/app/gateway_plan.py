"""In which order models and workers are tried for one request: the auction knows one model and one
set of limits at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from node.adapters.http.port import Ask, Routing
from node.app.ordering import worker_named
from node.config import ClientConfig
from node.errors import UsageError
from node.protocol.fields import Address
from node.protocol.scoring import Preferences

PRECISIONS = {
    "fp32": {"float32", "fp32"},
    "fp16": {"float16", "fp16"},
    "bf16": {"bfloat16", "bf16"},
    "fp8": {"float8", "fp8"},
    "int8": {"int8"},
    "int4": {"int4"},
}
"""OpenRouter's names of quantizations, and what manifests call them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One auction, if those before it came to nothing."""

    model: str
    preferences: Preferences


def steps(ask: Ask, config: ClientConfig) -> tuple[Step, ...]:
    """All auctions that an ask may take, the wanted one first.

    Raises:
        UsageError: A worker is named by what is no address and no PeerID.
    """
    models = ask.models if ask.routing.allow_fallbacks else ask.models[:1]
    wanted = tuple(_preferences(ask.routing, config))
    return tuple(Step(model=model, preferences=each) for model in models for each in wanted)


def precise_enough(routing: Routing, precision: str) -> bool:
    """Whether a model's precision is one of those that will do."""
    word = precision.lower()
    return not routing.quantizations or any(
        word in PRECISIONS.get(name.lower(), {name.lower()}) for name in routing.quantizations
    )


def _preferences(routing: Routing, config: ClientConfig) -> Iterator[Preferences]:
    """The named workers one by one, the quick ones of the rest, the rest."""
    every = Preferences(
        price_micro_max=config.job_cap_micro,
        sort=routing.sort or "score",
        only=_workers("provider.only", routing.only),
        ignore=_workers("provider.ignore", routing.ignore),
        price_in_max=routing.price_in_max,
        price_out_max=routing.price_out_max,
        value_of_time_micro_per_s=config.value_of_time_micro_per_s,
        prepay_micro_max=config.prepay_max_micro,
    )
    order = [_worker("provider.order", name) for name in routing.order]
    for worker in dict.fromkeys(order):
        yield replace(every, worker=worker)
    if order and not routing.allow_fallbacks:
        return
    first_max, rate_min = routing.first_token_ms_max, routing.rate_mtps_min
    if (first_max, rate_min) != (None, None):
        yield replace(every, first_token_ms_max=first_max, rate_mtps_min=rate_min)
    yield every


def _workers(param: str, names: tuple[str, ...]) -> frozenset[Address]:
    return frozenset(_worker(param, name) for name in names)


def _worker(param: str, name: str) -> Address:
    try:
        return worker_named(name)
    except UsageError as error:
        raise UsageError(f"{param}: {error}") from error
