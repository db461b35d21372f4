"""Reads what the escrow holds for a payer, so that the parts fit together."""

from collections.abc import Collection, Sequence

from node.errors import Unavailable
from node.protocol.fields import ZERO_ADDRESS, Address, Hash
from node.protocol.payer_state import Funds, FundsSeen, LockSeen
from node.roles.ports import Chain, ChainView

ONE_BLOCK_TRIES = 3


async def read_funds(
    chain: Chain,
    *,
    payer: Address,
    signer: Address,
    payees: Collection[Address],
    tabs: Sequence[Hash],
) -> FundsSeen:
    """Tabs, deposit and locks of a payer, none newer than what is read after it.

    What tabs were paid comes first: a redemption in between then only makes the payer seem to owe
    more.  The other way round it would be counted as paid and as still in the deposit.

    Raises:
        Unavailable: No RPC answered, or blocks come faster than they can be read.
    """
    paid = await chain.tabs_paid(tabs) if tabs else ()
    for _ in range(ONE_BLOCK_TRIES):
        views = await _views(chain, payer=payer, signer=signer, payees=payees)
        if len({view.block for view in views.values()}) > 1:
            continue
        exact = not tabs or await chain.tabs_paid(tabs) == paid
        return FundsSeen(funds=_funds(views, exact=exact), paid=dict(zip(tabs, paid, strict=True)))
    raise Unavailable("the escrow could not be read at one block")


async def _views(
    chain: Chain, *, payer: Address, signer: Address, payees: Collection[Address]
) -> dict[Address, ChainView]:
    return {
        payee: await chain.view(payer=payer, payee=payee, signer=signer)
        for payee in (payees or (ZERO_ADDRESS,))
    }


def _funds(views: dict[Address, ChainView], *, exact: bool) -> Funds:
    view = next(iter(views.values()))
    return Funds(
        block=view.block,
        block_time_s=view.block_time_s,
        free_micro=view.account.free_micro,
        locked_micro=view.account.locked_micro,
        exit_ready_s=view.account.exit_ready_s,
        signer_expiry_s=view.signer_expiry_s,
        signer_left_micro=view.signer_left_micro,
        exact=exact,
        locks={
            payee: LockSeen(amount_micro=each.lock.amount_micro, nonce=each.lock.nonce)
            for payee, each in views.items()
        },
    )
