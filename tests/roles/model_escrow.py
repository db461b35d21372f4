"""The escrow's money rules in a few lines, and chain reads at a lagging final block.

Follows IEscrow.sol: a voucher draws its payee's lock first, then free funds; a lock's total
replaces, its nonce rises; an expired lock pays until somebody ends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from node.errors import Unavailable
from node.protocol.fields import Address, Hash
from node.protocol.statements import Lock, Voucher
from node.protocol.tabs import tab_id, tab_of_voucher
from node.roles.ports import Account, ChainView, LockState
from node.units import MICRO_MAX

FAR_S = 2**63 - 1


@dataclass
class Funds:
    """One payer in the escrow."""

    free: int = 0
    exit_ready_s: int = 0
    locks: dict[Address, tuple[int, int, int]] = field(default_factory=dict)
    """By payee: amount, nonce, expiry."""

    @property
    def locked(self) -> int:
        return sum(amount for amount, _, _ in self.locks.values())


@dataclass
class Block:
    """What the escrow holds at one block."""

    number: int = 0
    time_s: int = 0
    funds: dict[Address, Funds] = field(default_factory=dict)
    paid: dict[Hash, int] = field(default_factory=dict)
    signers: dict[tuple[Address, Address], tuple[int, int]] = field(default_factory=dict)
    """By account and signer: expiry, and what is left of the cap."""

    def copy(self) -> "Block":
        return Block(
            number=self.number,
            time_s=self.time_s,
            funds={
                payer: Funds(free=each.free, exit_ready_s=each.exit_ready_s, locks=dict(each.locks))
                for payer, each in self.funds.items()
            },
            paid=dict(self.paid),
            signers=dict(self.signers),
        )

    def of(self, payer: Address) -> Funds:
        return self.funds.setdefault(payer, Funds())


class ModelEscrow:
    """`ports.Chain` over a list of blocks, of which all but the last `lag` are final."""

    def __init__(self, *, time_s: int, lag: int = 0) -> None:
        self.blocks = [Block(time_s=time_s)]
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

    def _mine(self, *, seconds: int = 1) -> Block:
        block = self.head.copy()
        block.number += 1
        block.time_s += seconds
        self.blocks.append(block)
        return block

    def fork(self) -> "ModelEscrow":
        """The same escrow as of its newest block, to try something on."""
        fork = ModelEscrow(time_s=0)
        fork.blocks = [self.head.copy()]
        return fork

    def pass_time(self, seconds: int) -> None:
        self._mine(seconds=seconds)

    def settle(self) -> None:
        """Let everything become final."""
        for _ in range(self.lag):
            self._mine()

    def deposit(self, payer: Address, amount: int) -> None:
        self._mine().of(payer).free += amount

    def request_exit(self, payer: Address, *, ready_s: int) -> None:
        self._mine().of(payer).exit_ready_s = ready_s

    def exit(self, payer: Address) -> None:
        self._mine().funds[payer] = Funds()

    def authorise(self, payer: Address, signer: Address, *, expiry_s: int, cap: int) -> None:
        self._mine().signers[payer, signer] = (expiry_s, cap)

    def redeem(self, voucher: Voucher) -> int:
        """Pay a voucher as far as the payer's funds go; what it brought."""
        block = self._mine()
        tab, funds = tab_id(tab_of_voucher(voucher)), block.of(voucher.payer)
        owed = voucher.cumulative - block.paid.get(tab, 0)
        lock, nonce, expiry_s = funds.locks.get(voucher.payee, (0, 0, 0))
        from_lock = max(0, min(owed, lock))
        from_free = max(0, min(owed - from_lock, funds.free))
        if nonce:
            funds.locks[voucher.payee] = (lock - from_lock, nonce, expiry_s)
        funds.free -= from_free
        block.paid[tab] = block.paid.get(tab, 0) + from_lock + from_free
        return from_lock + from_free

    def submit_lock(self, lock: Lock) -> bool:
        """Set a lock; False where the escrow refuses it."""
        block = self._mine()
        funds = block.of(lock.payer)
        amount, nonce, expiry_s = funds.locks.get(lock.payee, (0, 0, 0))
        live = amount > 0 and expiry_s > block.time_s
        weaker = live and (lock.total < amount or lock.expiry < expiry_s)
        if lock.nonce <= nonce or lock.expiry <= block.time_s or weaker:
            return False
        if lock.total - amount > funds.free:
            return False
        funds.free -= lock.total - amount
        funds.locks[lock.payee] = (lock.total, lock.nonce, lock.expiry)
        return True

    def expire_lock(self, payer: Address, payee: Address) -> bool:
        """End a lock whose time has come."""
        block = self._mine()
        funds = block.of(payer)
        amount, nonce, expiry_s = funds.locks.get(payee, (0, 0, 0))
        if not amount or expiry_s > block.time_s:
            return False
        funds.free += amount
        funds.locks[payee] = (0, nonce, expiry_s)
        return True

    # `ports.Chain`, at the final block.

    def view_at(
        self, block: Block, *, payer: Address, payee: Address, signer: Address
    ) -> ChainView:
        funds = block.funds.get(payer, Funds())
        amount, nonce, expiry_s = funds.locks.get(payee, (0, 0, 0))
        signer_expiry_s, left = block.signers.get((payer, signer), (0, 0))
        own = payer == signer
        return ChainView(
            block=block.number,
            block_time_s=block.time_s,
            account=Account(
                free_micro=funds.free,
                locked_micro=funds.locked,
                exit_ready_s=funds.exit_ready_s,
            ),
            lock=LockState(amount_micro=amount, nonce=nonce, expiry_s=expiry_s),
            signer_expiry_s=FAR_S if own else signer_expiry_s,
            signer_left_micro=MICRO_MAX if own else left,
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
