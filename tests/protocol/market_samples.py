"""Workers, terms and announcements for tests of the market's pure parts."""

from dataclasses import replace
from functools import cache
from typing import Any

from node.protocol import signing
from node.protocol.fields import ZERO_HASH, Address, Hash, Signed
from node.protocol.offers import Standing
from node.protocol.scoring import Need, Preferences
from node.protocol.statements import AnnouncedModel, Announcement, Terms, Tier

DOMAIN = signing.Domain(31337, bytes.fromhex("5f" * 20))
FOREIGN = signing.Domain(1, bytes.fromhex("5f" * 20))
MODEL: Hash = b"m" * 32
NOW_MS = 1_790_000_000_000


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


@cache
def worker_of(number: int) -> Address:
    return signing.address_of_key(key_of(number))


def need(**changes: Any) -> Need:
    return replace(Need(model=MODEL, tier=Tier.IDS, tokens_in=100, output_max=100), **changes)


def prefs(**changes: Any) -> Preferences:
    return replace(Preferences(price_micro_max=10**9), **changes)


def terms(number: int, **changes: Any) -> Terms:
    """Terms of worker `number`: 100 tokens/s, 100 ms to the first token, 50 micro for `need()`."""
    made = Terms(
        worker=worker_of(number),
        payee=worker_of(number),
        model=MODEL,
        tier=Tier.IDS,
        tokenizer=ZERO_HASH,
        price_in=100_000,
        price_cached=25_000,
        price_out=400_000,
        splits=(),
        quantum=100,
        prepay=0,
        context_max=4096,
        output_max=4096,
        first_token_ms=100,
        rate_mtps=100_000,
        prefill_tps=0,
        slots_free=4,
        queued=0,
        region="eu-west",
        serial=1,
        expires_ms=NOW_MS + 15_000,
        ask=ZERO_HASH,
    )
    return replace(made, **changes)


def signed_terms(number: int, *, domain: signing.Domain = DOMAIN, **changes: Any) -> Signed[Terms]:
    return signing.sign(terms(number, **changes), domain, key_of(number))


def standing(number: int, *, arrived_s: float = 0.0, **changes: Any) -> Standing:
    """Terms as if they had been verified: the auction never looks at the signature."""
    made = terms(number, **changes)
    digest = repr((number, made.serial, made.ask)).encode().ljust(32, b"\0")[:32]
    return Standing(signed=Signed(made, bytes(64)), digest=digest, arrived_s=arrived_s)


def announcement(
    number: int, *, host: str | None = None, model: Hash = MODEL, **changes: Any
) -> Announcement:
    """Worker `number`, by default in a /24 of its own."""
    host = host or f"10.{number >> 8}.{number & 255}.1"
    made = Announcement(
        worker=worker_of(number),
        payee=worker_of(number),
        addrs=(f"/ip4/{host}/tcp/4001/p2p/16Uiu2HA{number}",),
        models=(
            AnnouncedModel(
                model=model, name="tiny", tier=Tier.IDS, price_in=100_000, price_out=400_000
            ),
        ),
        region="eu",
        issued_ms=NOW_MS,
        ttl_s=60,
    )
    return replace(made, **changes)


def announced(
    number: int, *, domain: signing.Domain = DOMAIN, key: int | None = None, **changes: Any
) -> Signed[Announcement]:
    """The same, signed by its worker or by `key`."""
    signer = key_of(number if key is None else key)
    return signing.sign(announcement(number, **changes), domain, signer)
