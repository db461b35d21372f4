"""From an intent to a signed transaction.  Blocks: for threads."""

from dataclasses import replace
from typing import Any, Final

from node.adapters.chain.abi import quantity
from node.adapters.chain.fees import QUOTE_CALLS, Fees, first_fees, quote
from node.adapters.chain.rpc import Call, Rpc, RpcFault
from node.errors import Unavailable, WalletError
from node.protocol.signing import address_of_key, checksum
from node.roles.transactions import Attempt, Intent, Transaction, TxState

GAS_MARGIN_BPS: Final = 2_500
"""On top of an estimate."""


def draft(
    rpc: Rpc, intent: Intent, *, key: bytes, nonce_last: int | None, fee_cap_wei: int, now_ms: int
) -> Transaction:
    """Check that an intent would work, price it, and sign it.

    Args:
        rpc: Where to ask.
        intent: What to do.
        key: 32-byte private key of the account that sends.
        nonce_last: Highest nonce that the journal knows of this account.
        fee_cap_wei: Most to offer per gas.
        now_ms: For the journal.

    Raises:
        WalletError: It would revert, or the account can't pay for it.
        Unavailable: No RPC answered, or gas is dearer than the cap.
    """
    me = checksum(address_of_key(key))
    history, tip, count, balance, tried = rpc.batch_sync(
        (
            *QUOTE_CALLS,
            Call("eth_getTransactionCount", (me, "pending")),
            Call("eth_getBalance", (me, "latest")),
            _trial(intent, me),
        )
    )
    _refuse_revert(intent, tried)
    gas = intent.gas
    if gas is None:
        gas = quantity(tried) * (10_000 + GAS_MARGIN_BPS) // 10_000
    fees = first_fees(quote(history, tip), fee_cap_wei=fee_cap_wei)
    _refuse_poverty(me, quantity(balance), gas * fees.fee_max_wei + intent.value_wei)
    nonce = quantity(count)
    if nonce_last is not None and nonce <= nonce_last:
        raise Unavailable("the chain's RPC lags behind this account's own transactions")
    unsigned = Transaction(
        sender=address_of_key(key),
        nonce=nonce,
        kind=intent.kind,
        note=intent.note,
        to=intent.to,
        value_wei=intent.value_wei,
        data=intent.data,
        gas=gas,
        created_ms=now_ms,
        attempts=(),
        state=TxState.SENT,
    )
    return signed_again(unsigned, fees, key=key, chain_id=rpc.chain_id, now_ms=now_ms)


def signed_again(
    transaction: Transaction, fees: Fees, *, key: bytes, chain_id: int, now_ms: int
) -> Transaction:
    """The same transaction with one attempt more, at these fees."""
    # Only here, since it takes a second to import: a worker pays that with its first redemption.
    from node.adapters.chain import contracts

    raw, tx_hash = contracts.sign(
        key,
        chain_id=chain_id,
        nonce=transaction.nonce,
        to=transaction.to,
        value_wei=transaction.value_wei,
        data=transaction.data,
        gas=transaction.gas,
        fees=fees,
    )
    attempt = Attempt(
        hash=tx_hash,
        raw=raw,
        fee_max_wei=fees.fee_max_wei,
        tip_wei=fees.tip_wei,
        sent_ms=now_ms,
    )
    return replace(transaction, attempts=(*transaction.attempts, attempt))


def _trial(intent: Intent, me: str) -> Call:
    call = {
        "from": me,
        "to": checksum(intent.to),
        "data": "0x" + intent.data.hex(),
        "value": hex(intent.value_wei),
    }
    if intent.gas is None:
        return Call("eth_estimateGas", (call, "latest"))
    return Call("eth_call", (call | {"gas": hex(intent.gas)}, "latest"))


def _refuse_revert(intent: Intent, tried: Any) -> None:
    if isinstance(tried, RpcFault):
        from node.adapters.chain import contracts

        why = contracts.error_text(tried.data) or tried.message
        raise WalletError(f"the chain would refuse to {intent.kind}: {why}")


def _refuse_poverty(me: str, balance_wei: int, needed_wei: int) -> None:
    if balance_wei < needed_wei:
        raise WalletError(
            f"not enough coins for gas: {needed_wei / 1e18:.6f} needed,"
            f" {balance_wei / 1e18:.6f} there",
            hint=f"send native coins to {me}",
        )
