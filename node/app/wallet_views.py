"""What wallet commands say: micro, wei, and text for addresses and hashes."""

from dataclasses import dataclass

from node.adapters.chain.endpoint import EndpointHealth
from node.adapters.chain.wallet import Done
from node.roles.transactions import Transaction
from node.units import format_micro


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionLine:
    """A transaction of this home."""

    kind: str
    note: str
    """JSON."""
    hash: str
    state: str
    block: int
    fee_wei: int
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`node wallet show`; micro and wei, addresses as text, all at one final block."""

    address: str
    chain_id: int
    escrow: str
    token: str
    block: int
    native_wei: int
    token_micro: int
    free_micro: int
    locked_micro: int
    promised_micro: int
    """Of the deposit, already promised or reserved for workers."""
    available_micro: int
    credit_micro: int
    """Earned, and not claimed yet."""
    exit: str
    """none, waiting or ready."""
    exit_ready_s: int
    exit_wait_s: int
    exit_delay_s: int
    deposit_cap_micro: int
    transactions: tuple[TransactionLine, ...]
    rpc: tuple[EndpointHealth, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a wallet command did on the chain."""

    action: str
    transaction: str
    """Its hash."""
    block: int
    fee_wei: int
    amount_micro: int
    resumed: bool
    """It was in flight from before; nothing new was sent."""
    message: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """How far taking everything out is."""

    state: str
    """requested, waiting or paid."""
    ready_at_s: int
    wait_s: int
    amount_micro: int
    """Paid out, once paid; until then what would be."""
    promised_micro: int
    """What workers may still redeem of it before it is paid out."""
    transaction: str
    """Empty where nothing was sent."""
    message: str


def receipt_of(action: str, done: Done, amount_micro: int, message: str) -> Receipt:
    """What a final transaction did."""
    return Receipt(
        action=action,
        transaction="0x" + done.tx_hash.hex(),
        block=done.block,
        fee_wei=done.fee_wei,
        amount_micro=amount_micro,
        resumed=done.resumed,
        message=message + (" (by an earlier command's transaction)" if done.resumed else ""),
    )


def line_of(row: Transaction) -> TransactionLine:
    """A journal entry, its newest attempt's hash."""
    return TransactionLine(
        kind=row.kind,
        note=row.note,
        hash="0x" + row.attempts[-1].hash.hex(),
        state=row.state.value,
        block=row.block,
        fee_wei=row.fee_wei,
        created_ms=row.created_ms,
    )


def withdrawal_of(
    state: str,
    done: Done | None,
    *,
    ready_at_s: int,
    wait_s: int,
    amount_micro: int,
    promised_micro: int,
) -> Withdrawal:
    """How far an exit is, and what to do next."""
    amount = format_micro(amount_micro)
    later = f"{amount} can be withdrawn in {_duration(wait_s)}: run this command again then"
    messages = {
        "requested": f"exit requested; {later}",
        "waiting": f"the exit is under way; {later}",
        "paid": f"{amount} paid out",
    }
    return Withdrawal(
        state=state,
        ready_at_s=ready_at_s,
        wait_s=wait_s,
        amount_micro=amount_micro,
        promised_micro=promised_micro,
        transaction="0x" + done.tx_hash.hex() if done else "",
        message=messages[state],
    )


def _duration(seconds: int) -> str:
    hours, minutes = divmod(-(-seconds // 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
