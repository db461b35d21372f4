"""Chain reads at a lagging final block, over the model of the escrow (`tests.sim.escrow`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from node.errors import Unavailable
from node.protocol.fields import Address, Hash
from node.protocol.statements import Lock, Voucher
from node.roles.ports import Account, ChainView, LockState
from node.units import MICRO_MAX
from tests.sim.escrow import Escrow, Funds, Reverted, SignerRow

FAR_S = 2**63 - 1


@dataclass
class Block:
    """What the escrow holds at one block."""

    number: int = 0
    escrow: Escrow = field(default_factory=Escrow)

    @property
    def time_s(self) -> int:
        return self.escrow.time_s

    @property
    def paid(self) -> dict[Hash, int]:
        return self.escrow.paid

    def of(self, payer: Address) -> Funds:
        return self.escrow.of(payer)


class ModelEscrow:
    """`ports.Chain` over a list of blocks, of which all but the last `lag` are final."""

    def __init__(self, *, time_s: int, lag: int = 0) -> None:
        self.blocks = [Block(escrow=Escrow(time_s=time_s))]
        self.lag = lag
        self.down = False
        self.delay_s = 0.0
        self.reads = 0

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    @property
    def final(self) -> Block:
        return self.blocks[max(0, len(self.blocks) - 1 - self.lag)]

    def _mine(self, *, seconds: int = 1) -> Escrow:
        escrow = self.head.escrow.copy()
        escrow.time_s += seconds
        self.blocks.append(Block(number=self.head.number + 1, escrow=escrow))
        return escrow

    def fork(self) -> "ModelEscrow":
        """The same escrow as of its newest block, to try something on."""
        fork = ModelEscrow(time_s=0)
        fork.blocks = [Block(number=self.head.number, escrow=self.head.escrow.copy())]
        return fork

    def pass_time(self, seconds: int) -> None:
        self._mine(seconds=seconds)

    def settle(self) -> None:
        """Let everything become final."""
        for _ in range(self.lag):
            self._mine()

    def deposit(self, payer: Address, amount: int) -> None:
        self._mine().deposit(payer, amount)

    def request_exit(self, payer: Address, *, ready_s: int) -> None:
        """As if it had been requested at another time, or never."""
        escrow = self._mine()
        escrow.accounts[payer] = replace(escrow.of(payer), exit_ready_s=ready_s)

    def exit(self, payer: Address) -> None:
        """As if one that was requested long ago completed."""
        escrow = self._mine()
        escrow.accounts[payer] = replace(escrow.of(payer), exit_ready_s=escrow.time_s)
        escrow.exit(payer, payer)

    def authorise(self, payer: Address, signer: Address, *, expiry_s: int, cap: int) -> None:
        self._mine().signers[payer, signer] = SignerRow(cap=cap, expiry_s=expiry_s)

    def redeem(self, voucher: Voucher) -> int:
        """Pay a voucher of the payer's own hand as far as its funds go; what it brought."""
        return self._mine().redeem(voucher.payee, [(voucher, voucher.payer)])

    def submit_lock(self, lock: Lock) -> bool:
        """Set a lock of the payer's own hand; False where the escrow refuses it."""
        escrow = self._mine()
        try:
            escrow.submit_lock(lock, signer=lock.payer, caller=lock.payer)
        except Reverted:
            return False
        return True

    def expire_lock(self, payer: Address, payee: Address) -> bool:
        """End a lock whose time has come."""
        escrow = self._mine()
        try:
            escrow.expire_lock(payer, payee)
        except Reverted:
            return False
        return True

    # `ports.Chain`, at the final block.

    def view_at(
        self, block: Block, *, payer: Address, payee: Address, signer: Address
    ) -> ChainView:
        escrow = block.escrow
        funds, lock = escrow.of(payer), escrow.lock_of(payer, payee)
        own = payer == signer
        row = escrow.signers.get((payer, signer), SignerRow())
        return ChainView(
            block=block.number,
            block_time_s=block.time_s,
            account=Account(
                free_micro=funds.free,
                locked_micro=funds.locked,
                exit_ready_s=funds.exit_ready_s,
            ),
            lock=LockState(amount_micro=lock.amount, nonce=lock.nonce, expiry_s=lock.expiry_s),
            signer_expiry_s=FAR_S if own else row.expiry_s,
            signer_left_micro=MICRO_MAX if own else escrow.cap_left(payer, signer),
        )

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        await self._answer()
        return self.view_at(self.final, payer=payer, payee=payee, signer=signer)

    async def tabs_paid(self, tabs: Sequence[Hash]) -> tuple[int, ...]:
        await self._answer()
        return tuple(self.final.paid.get(tab, 0) for tab in tabs)

    async def _answer(self) -> None:
        self.reads += 1
        await trio.sleep(self.delay_s)
        if self.down:
            raise Unavailable("the RPC is down")
