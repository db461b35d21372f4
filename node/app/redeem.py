"""`node redeem` while no `serve` of the home runs: its redeemer alone, without a network."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from node.adapters.chain.follower import CachedChain
from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.chain.sender import Sender
from node.adapters.chain.settlement import EscrowSettlement
from node.adapters.clock import SystemClock
from node.app.domain import domain_of
from node.config import Config
from node.errors import NodeError
from node.protocol.fields import Address
from node.protocol.signing import address_of_key
from node.roles.admission import rules_of
from node.roles.payee import Payee
from node.roles.redeemer import Redeemer, RedeemReport
from node.roles.stores import Stores


@asynccontextmanager
async def open_redeemer(config: Config, key: bytes, stores: Stores) -> AsyncIterator[Redeemer]:
    """The redeemer of a home that this process owns; it does nothing unless it is asked to.

    Raises:
        ConfigError: A setting of the chain can't be used.
    """
    clock, domain, settings = SystemClock(), domain_of(config), config.chain
    rpc = Rpc(settings.rpc_url, chain_id=settings.chain_id)
    reader = EscrowReader(rpc, escrow=domain.escrow, finality_blocks=settings.finality_blocks)
    chain = CachedChain(rpc, reader, escrow=domain.escrow, clock=clock)
    account = bytes.fromhex(config.worker.payee[2:]) or address_of_key(key)
    payee = Payee(
        account=account,
        domain=domain,
        chain=chain,
        store=stores.payee,
        clock=clock,
        rules=rules_of(config.worker, settings),
    )
    sender = Sender(
        rpc,
        key=key,
        journal=stores.chain,
        clock=clock,
        finality_blocks=settings.finality_blocks,
        fee_max_gwei=settings.fee_max_gwei,
    )
    async with AsyncExitStack() as stack:
        stack.callback(rpc.close)
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(payee.run)
        yield Redeemer(
            claims=payee,
            chain=chain,
            settlement=EscrowSettlement(rpc, reader, sender, escrow=domain.escrow),
            clock=clock,
            chain_config=settings,
            worker_config=config.worker,
        )
        nursery.cancel_scope.cancel()


async def redeem(
    config: Config, key: bytes, stores: Stores, *, claim_to: Address | None = None
) -> RedeemReport:
    """Redeem everything that brings something, now.

    Args:
        config: The home's.
        key: 32-byte session key.
        stores: The home's, open for writing.
        claim_to: Then pay the whole credit out to this address; None leaves it in the escrow.

    Raises:
        WalletError: Refused, reverted, or no coins for gas.
        Unavailable: No RPC answered.
    """
    report: RedeemReport | NodeError
    async with open_redeemer(config, key, stores) as redeemer:
        try:
            report = await redeemer.redeem_now(claim_to=claim_to)
        except NodeError as error:  # kept out of the nursery, which would wrap it in a group
            report = error
    if isinstance(report, NodeError):
        raise report
    return report
