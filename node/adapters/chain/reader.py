"""The escrow, read at the finality depth: everything of one answer is from one block."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from node.adapters.chain.abi import call_data, quantity, words
from node.adapters.chain.endpoint import EndpointFailure
from node.adapters.chain.rpc import Call, Rpc
from node.errors import Unavailable
from node.protocol.fields import Address, Hash
from node.roles.ports import Account, ChainView, LockState
from node.units import MICRO_MAX

FAR_FUTURE_S: Final = 2**63 - 1
HEAD_LIFE_S: Final = 1.0
"""A head as old as this still says which block is final: it only makes us look further back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block by number, with its time."""

    number: int
    time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a `ChainView` is about."""

    payer: Address
    payee: Address
    signer: Address


class EscrowReader:
    """`ports.Chain` by direct reads: at most two round trips, one when the head is known.

    Does not follow anything; a worker uses `follower.CachedChain` around it.
    """

    def __init__(
        self,
        rpc: Rpc,
        *,
        escrow: Address,
        finality_blocks: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            rpc: Where to ask.
            escrow: The contract.
            finality_blocks: Blocks on top of one before what it says is believed.
            now: Monotonic seconds.
        """
        self._rpc = rpc
        self._escrow = "0x" + escrow.hex()
        self._finality_blocks = finality_blocks
        self._now = now
        self._final: tuple[int, float] | None = None

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        """Account, lock and authority at the finality depth.

        Raises:
            Unavailable: No RPC answered.
        """
        pair = Pair(payer=payer, payee=payee, signer=signer)
        _, (view,) = await self.views((pair,))
        return view

    async def views(
        self, pairs: Sequence[Pair], *, block: int | None = None
    ) -> tuple[Block, tuple[ChainView, ...]]:
        """Several at once, all at one block.

        Args:
            pairs: What to read; may be empty.
            block: Where; None for the newest final one.

        Raises:
            Unavailable: No RPC answered, or the escrow is not there.
        """
        number = await self.final_block() if block is None else block
        calls = [Call("eth_getBlockByNumber", (hex(number), False))]
        for pair in pairs:
            calls.append(self._call(number, "accounts(address)", pair.payer))
            calls.append(self._call(number, "lockOf(address,address)", pair.payer, pair.payee))
            calls.append(self._call(number, "signers(address,address)", pair.payer, pair.signer))
        results = await self._rpc.batch(calls, check=partial(has_block, number))
        at = decode_block(results[0], number)
        return at, tuple(
            _view(at, pair, results[1 + 3 * index : 4 + 3 * index])
            for index, pair in enumerate(pairs)
        )

    async def tabs_paid(self, tabs: Sequence[Hash]) -> tuple[int, ...]:
        """Micro redeemed so far per tab id, all at one final block.

        Raises:
            Unavailable: No RPC answered.
        """
        if not tabs:
            return ()
        return await self.tabs_paid_at(tabs, block=await self.final_block())

    async def tabs_paid_at(self, tabs: Sequence[Hash], *, block: int) -> tuple[int, ...]:
        """The same at a block of the caller's choice.

        Raises:
            Unavailable: No RPC answered.
        """
        calls = [self._call(block, "tabPaid(bytes32)", tab) for tab in tabs]
        return tuple(words(result, 1)[0] for result in await self._rpc.batch(calls))

    async def credit(self, account: Address) -> int:
        """Micro that `account` may claim, at the finality depth.

        Raises:
            Unavailable: No RPC answered.
        """
        number = await self.final_block()
        (result,) = await self._rpc.batch((self._call(number, "credits(address)", account),))
        return words(result, 1)[0]

    async def final_block(self, *, age_max_s: float = HEAD_LIFE_S) -> int:
        """Number of the newest block at the finality depth; it never falls.

        An RPC that is behind it can't answer at that block, and another one is asked.

        Args:
            age_max_s: How old the knowledge of the chain's head may be.

        Raises:
            Unavailable: No RPC answered.
        """
        if self._final is not None and self._now() - self._final[1] < age_max_s:
            return self._final[0]
        asked_s = self._now()  # on a busy machine an answer may lie here for a while
        (head,) = await self._rpc.batch((Call("eth_blockNumber"),))
        before = self._final[0] if self._final is not None else 0
        number = max(before, quantity(head) - self._finality_blocks)
        self._final = (number, asked_s)
        return number

    def _call(self, block: int, signature: str, *args: bytes | int) -> Call:
        target = {"to": self._escrow, "data": call_data(signature, *args)}
        return Call("eth_call", (target, hex(block)))


def has_block(number: int, results: list[Any]) -> None:
    """Check that a batch's first result is this block: one that lags answers the rest wrongly.

    Raises:
        EndpointFailure: It is not there (yet).
    """
    try:
        decode_block(results[0], number)
    except Unavailable as error:
        raise EndpointFailure(str(error)) from error


def decode_block(result: Any, number: int) -> Block:
    """A block from `eth_getBlockByNumber`.

    Raises:
        Unavailable: This node does not have it (yet).
    """
    if not isinstance(result, dict) or quantity(result.get("number")) != number:
        raise Unavailable(f"the chain's RPC does not have block {number}")
    return Block(number=number, time_s=quantity(result.get("timestamp")))


def _view(at: Block, pair: Pair, results: Sequence[Any]) -> ChainView:
    free, locked, exit_ready_s = words(results[0], 3)
    amount, nonce, lock_expiry_s = words(results[1], 3)
    signer_expiry_s, cap, spent = words(results[2], 3)
    own = pair.signer == pair.payer
    # The contract honours a signer while the time is below its expiry; the payer's own key always.
    alive = own or signer_expiry_s > at.time_s
    return ChainView(
        block=at.number,
        block_time_s=at.time_s,
        account=Account(free_micro=free, locked_micro=locked, exit_ready_s=exit_ready_s),
        lock=LockState(amount_micro=amount, nonce=nonce, expiry_s=lock_expiry_s),
        signer_expiry_s=FAR_FUTURE_S if own else signer_expiry_s if alive else 0,
        signer_left_micro=MICRO_MAX if own else max(0, cap - spent) if alive else 0,
    )
