"""Reading the escrow in several calls, so that the parts fit together."""

from collections.abc import Sequence

import pytest

from node.errors import Unavailable
from node.protocol.fields import Address, Hash
from node.protocol.payer_state import FundsSeen
from node.roles.escrow_funds import read_funds
from node.roles.ports import ChainView
from tests.roles.model_escrow import ModelEscrow
from tests.roles.payment_world import START_S

PAYER, ONE, TWO = b"p" * 20, b"1" * 20, b"2" * 20
TAB = b"t" * 32


class Busy(ModelEscrow):
    """A chain on which something happens between two reads, the first `busy` times."""

    busy = 0

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        view = await super().view(payer=payer, payee=payee, signer=signer)
        self._happens()
        return view

    async def tabs_paid(self, tabs: Sequence[Hash]) -> tuple[int, ...]:
        paid = await super().tabs_paid(tabs)
        self._happens()
        return paid

    def _happens(self) -> None:
        if self.busy:
            self.busy -= 1
            self.pass_time(1)
            self.head.paid[TAB] = self.head.paid.get(TAB, 0) + 1


async def read(escrow: ModelEscrow, *, tabs: Sequence[Hash] = ()) -> FundsSeen:
    return await read_funds(escrow, payer=PAYER, signer=PAYER, payees=(ONE, TWO), tabs=tabs)


async def test_locks_are_from_one_block() -> None:
    escrow = Busy(time_s=START_S)
    escrow.busy = 2
    assert (await read(escrow)).funds.block == 2
    escrow.busy = 10**6
    with pytest.raises(Unavailable, match="one block"):
        await read(escrow)


async def test_what_was_paid_is_never_newer_than_the_deposit() -> None:
    escrow = Busy(time_s=START_S)
    escrow.busy = 1
    seen = await read(escrow, tabs=(TAB,))
    assert seen.paid == {TAB: 0}
    assert not seen.funds.exact
    seen = await read(escrow, tabs=(TAB,))
    assert seen.paid == {TAB: 1}
    assert seen.funds.exact


async def test_a_payer_without_locks_is_read_all_the_same() -> None:
    escrow = ModelEscrow(time_s=START_S)
    escrow.deposit(PAYER, 70)
    seen = await read_funds(escrow, payer=PAYER, signer=PAYER, payees=(), tabs=())
    assert seen.funds.deposit_micro == 70
