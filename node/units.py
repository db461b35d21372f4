"""Units that appear in every layer.  A name's last word is its unit; these give the factors."""

from typing import Final

MICRO_PER_UNIT: Final = 1_000_000
"""Micro in one unit of the stablecoin (it has 6 decimals)."""

TOKENS_PER_PRICE: Final = 1_000_000
"""Prices are micro per this many tokens."""

BPS_PER_WHOLE: Final = 10_000
MS_PER_S: Final = 1_000
US_PER_S: Final = 1_000_000

MICRO_MAX: Final = 2**63 - 1
"""Largest amount of any statement: it fits SQLite's integer and the contract's uint96."""


def cost_micro(
    *,
    tokens_in: int,
    tokens_cached: int,
    tokens_out: int,
    price_in: int,
    price_cached: int,
    price_out: int,
) -> int:
    """What a segment costs, in micro, rounded up once (protocol.md, "Cost").

    Args:
        tokens_in: Prompt tokens that were computed.
        tokens_cached: Prompt tokens served from a cache; not counted in `tokens_in`.
        tokens_out: Output tokens delivered.
        price_in: Micro per million computed prompt tokens.
        price_cached: Micro per million cached prompt tokens.
        price_out: Micro per million output tokens.
    """
    total = tokens_in * price_in + tokens_cached * price_cached + tokens_out * price_out
    return -(-total // TOKENS_PER_PRICE)


def format_micro(amount_micro: int) -> str:
    """An amount for people: ``1234567`` becomes ``1.234567``."""
    sign = "-" if amount_micro < 0 else ""
    whole, part = divmod(abs(amount_micro), MICRO_PER_UNIT)
    return f"{sign}{whole}.{part:06d}"
