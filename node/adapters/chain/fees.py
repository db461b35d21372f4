"""EIP-1559 fees: what to offer, and by how much to raise it for what got stuck."""

from dataclasses import dataclass
from typing import Any, Final

from node.adapters.chain.abi import quantity
from node.adapters.chain.rpc import Call, RpcFault
from node.errors import Unavailable

GWEI: Final = 10**9
BUMP_BPS: Final = 1_250
"""Nodes take a replacement from 10 % on; less than 11 % can fail by rounding."""
BUMP_BPS_MIN: Final = 1_100
HISTORY_BLOCKS: Final = 5
QUOTE_CALLS: Final = (
    Call("eth_feeHistory", (hex(HISTORY_BLOCKS), "latest", [50])),
    Call("eth_maxPriorityFeePerGas"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What the chain asks for now, in wei per gas."""

    base_wei: int
    tip_wei: int

    @property
    def price_wei(self) -> int:
        """What is paid in the next block."""
        return self.base_wei + self.tip_wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """What a transaction offers, in wei per gas."""

    fee_max_wei: int
    tip_wei: int


def quote(history: Any, tip: Any) -> Quote:
    """From the answers to `QUOTE_CALLS`.

    Raises:
        Unavailable: They are not fees.
    """
    try:
        base_wei = quantity(history["baseFeePerGas"][-1])
        rewards = sorted(quantity(row[0]) for row in history.get("reward") or ())
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise Unavailable("the chain's RPC does not say what gas costs") from error
    median_wei = rewards[len(rewards) // 2] if rewards else 0
    # Some nodes suggest nothing; then what others paid has to do.
    suggested_wei = 0 if isinstance(tip, RpcFault) or tip is None else quantity(tip)
    return Quote(base_wei=base_wei, tip_wei=max(median_wei, suggested_wei))


def first_fees(now: Quote, *, fee_cap_wei: int) -> Fees:
    """For a new transaction: room for the base fee to double.

    Raises:
        Unavailable: Gas costs more than the cap.
    """
    if now.price_wei > fee_cap_wei:
        raise Unavailable(
            f"gas costs {now.price_wei / GWEI:.2f} gwei, more than chain.fee_max_gwei",
            hint="wait, or raise chain.fee_max_gwei",
        )
    fee_max_wei = min(fee_cap_wei, 2 * now.base_wei + now.tip_wei)
    return Fees(fee_max_wei=fee_max_wei, tip_wei=min(now.tip_wei, fee_max_wei))


def bumped_fees(old: Fees, now: Quote, *, fee_cap_wei: int) -> Fees | None:
    """For a replacement; None when the cap leaves no room for one that nodes would take."""
    fee_max_wei = max(_raised(old.fee_max_wei, BUMP_BPS), 2 * now.base_wei + now.tip_wei)
    tip_wei = max(_raised(old.tip_wei, BUMP_BPS), now.tip_wei)
    fee_max_wei = min(fee_max_wei, fee_cap_wei)
    tip_wei = min(tip_wei, fee_max_wei)
    enough = fee_max_wei >= _raised(old.fee_max_wei, BUMP_BPS_MIN)
    if not enough or tip_wei < _raised(old.tip_wei, BUMP_BPS_MIN):
        return None
    return Fees(fee_max_wei=fee_max_wei, tip_wei=tip_wei)


def _raised(wei: int, bps: int) -> int:
    """Rounded up, and by one at least."""
    return max(wei + 1, -(-wei * (10_000 + bps) // 10_000))
