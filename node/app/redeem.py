"""`node redeem`: by the running worker if there is one, else by this process."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from node.adapters.chain.follower import CachedChain
from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.chain.sender import Sender
from node.adapters.chain.settlement import EscrowSettlement
from node.adapters.clock import SystemClock
from node.adapters.store import open_stores
from node.app import control, logs
from node.app.domain import domain_of
from node.app.home import Home
from node.app.selling import Cashier, cashier_of
from node.app.unlock import session_key
from node.app.wallet import Wallet
from node.config import Config
from node.errors import ConfigError
from node.protocol.fields import Address
from node.protocol.signing import checksum
from node.roles.payee import Payee
from node.roles.redeemer import Redeemer, RedeemReport
from node.roles.stores import Stores

REDEEM_S = 600.0
"""A transaction may need that long to be final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Till:
    """What turns vouchers into money."""

    cashier: Cashier
    wallet: Wallet
    """On the same sender: one transaction of this home at a time."""
    chain: CachedChain
    rpc: Rpc

    @property
    def payee(self) -> Payee:
        """Takes vouchers."""
        return self.cashier.payee

    @property
    def redeemer(self) -> Redeemer:
        """Brings them to the chain."""
        return self.cashier.redeemer


def report(config: Config, *, claim_to: str = "", old_store: bool = False) -> dict[str, Any]:
    """Redeem everything now; then pay the credit out to `claim_to` (0x…), if one is named.

    Args:
        config: The home's.
        claim_to: 0x and 40 hex digits, or empty.
        old_store: Also from an old copy of the store, which may do nothing else any more.

    Raises:
        WalletError: Refused, reverted, or no coins for gas.
        Unavailable: No RPC answered.
        CorruptState: The store is an old copy.
    """
    logs.configure("warning")
    home = Home(config.home)
    home.check()
    try:
        answer = control.call(home, "redeem", {"claim_to": claim_to}, timeout_s=REDEEM_S)
    except control.NotRunning:
        return trio.run(_alone, config, claim_to, old_store)
    assert isinstance(answer, dict)
    return answer


async def _alone(config: Config, claim_to: str, old_store: bool) -> dict[str, Any]:
    home = Home(config.home)
    with home.own("redeem"):
        key = session_key(config)
        async with (
            open_stores(home.store, domain=domain_of(config), old_ok=old_store) as stores,
            open_till(config, key, stores) as till,
        ):
            return redeem_json(await till.redeemer.redeem_now(claim_to=parse_claim(claim_to)))


@asynccontextmanager
async def open_till(config: Config, key: bytes, stores: Stores) -> AsyncIterator[Till]:
    """Payee and redeemer on the chain; `Redeemer.run` is left to the caller."""
    clock, domain = SystemClock(), domain_of(config)
    rpc = Rpc(config.chain.rpc_url, chain_id=config.chain.chain_id)
    reader = EscrowReader(rpc, escrow=domain.escrow, finality_blocks=config.chain.finality_blocks)
    chain = CachedChain(rpc, reader, escrow=domain.escrow, clock=clock)
    sender = Sender(
        rpc,
        key=key,
        journal=stores.chain,
        clock=clock,
        finality_blocks=config.chain.finality_blocks,
        fee_max_gwei=config.chain.fee_max_gwei,
    )
    cashier = cashier_of(
        config,
        key,
        chain=chain,
        settlement=EscrowSettlement(rpc, reader, sender, escrow=domain.escrow),
        stores=stores,
        clock=clock,
    )
    wallet = Wallet(config, key=key, stores=stores, rpc=rpc, reader=reader, sender=sender)
    try:
        async with trio.open_nursery() as nursery:
            for role in (chain, cashier.payee):
                await nursery.start(role.run)
            yield Till(cashier=cashier, wallet=wallet, chain=chain, rpc=rpc)
            nursery.cancel_scope.cancel()
    finally:
        rpc.close()


def parse_claim(claim_to: str) -> Address | None:
    """The address to pay out to, if one was named.

    Raises:
        ConfigError: It is none.
    """
    if not claim_to:
        return None
    if not re.fullmatch("0x[0-9a-fA-F]{40}", claim_to):
        raise ConfigError(f"{claim_to} is no address to pay out to")
    return bytes.fromhex(claim_to[2:])


def redeem_json(done: RedeemReport) -> dict[str, Any]:
    """Plain values, amounts in micro."""
    claimed = done.claimed
    return {
        "why": done.why,
        "amount_micro": done.amount_micro,
        "left_micro": done.left_micro,
        "transactions": [
            {
                "tx_hash": "0x" + each.tx_hash.hex(),
                "block": each.block,
                "gas_used": each.gas_used,
                "fee_wei": each.fee_wei,
                "vouchers": each.vouchers,
                "amount_micro": each.amount_micro,
                "skipped": [
                    {"payer": checksum(skip.payer), "reason": skip.reason} for skip in each.skipped
                ],
            }
            for each in done.transactions
        ],
        "claimed": None
        if claimed is None
        else {
            "tx_hash": "0x" + claimed.tx_hash.hex(),
            "to": checksum(claimed.to),
            "amount_micro": claimed.amount_micro,
        },
    }
