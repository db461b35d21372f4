"""Transactions of one account: journalled, one in flight, bumped when stuck, watched until final.

The order is always the same: sign, save, send.  After a crash the saved bytes are sent again; a
nonce is never given to a second call.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
import trio

from node.adapters.chain.drafting import draft, signed_again
from node.adapters.chain.fees import GWEI, QUOTE_CALLS, Fees, bumped_fees, quote
from node.adapters.chain.inflight import Look, Mined, look, nonce_at
from node.adapters.chain.rpc import Rpc, RpcFault
from node.errors import Unavailable, WalletError
from node.protocol.fields import Address
from node.protocol.signing import address_of_key
from node.roles.ports import Clock
from node.roles.transactions import Intent, Outcome, Transaction, TransactionJournal, TxState

POLL_S: Final = (0.25, 4.0)
"""Shortest and longest pause between looks at what is in flight."""
RESEND_S: Final = 15.0
REFUSED_S: Final = 2.0
"""Pause after no node took it: its fee may be enough again."""
BUMP_BLOCKS: Final = 4
"""Blocks that a transaction may miss before its fee is raised; no blocks, no reason to pay more."""
ATTEMPTS_MAX: Final = 40
REPLACED_LOOKS: Final = 5
"""Looks in a row that must find the nonce used and none of our receipts.  One is no proof: behind
one URL several nodes may answer, and one of them may not have seen our block yet."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    """What only this process's watching knows."""

    resend_at_s: float = -math.inf
    """Monotonic time."""
    bump_at_block: int | None = None
    was_mined: bool = False
    replaced: int = 0
    """Looks in a row that say so."""


class Sender:
    """`roles.transactions.Transactor` with one key."""

    def __init__(
        self,
        rpc: Rpc,
        *,
        key: bytes,
        journal: TransactionJournal,
        clock: Clock,
        finality_blocks: int,
        fee_max_gwei: int,
    ) -> None:
        """
        Args:
            rpc: Where to send.
            key: 32-byte private key.
            journal: Where transactions are saved before they leave.
            clock: For the journal's times.
            finality_blocks: Blocks on top of a transaction's before it counts.
            fee_max_gwei: Most that is offered per gas, tip included.
        """
        self._rpc = rpc
        self._key = key
        self._address = address_of_key(key)
        self._journal = journal
        self._clock = clock
        self._finality_blocks = finality_blocks
        self._fee_cap_wei = fee_max_gwei * GWEI
        self._one = trio.Lock()
        self._problem = ""

    @property
    def address(self) -> Address:
        """The account that sends, and pays for gas."""
        return self._address

    @property
    def problem(self) -> str:
        """Why the one in flight does not advance; empty when nothing is wrong."""
        return self._problem

    async def transact(self, intent: Intent) -> Outcome:
        """Sign, save, send, and see it through to the finality depth (`Transactor.transact`)."""
        async with self._one:
            left = await self._journal.open_transaction(self._address)
            if left is not None:
                same = (left.kind, left.note) == (intent.kind, intent.note)
                try:
                    earlier = await self._resume(left)
                except WalletError as error:
                    if same:
                        raise
                    _log.warning("an earlier transaction failed", reason=str(error))
                else:
                    if same:
                        return earlier
            return await self._to_final(await self._begin(intent), resumed=False)

    async def settle(self) -> Outcome | None:
        """See through what was left in flight (`Transactor.settle`)."""
        async with self._one:
            left = await self._journal.open_transaction(self._address)
            return None if left is None else await self._resume(left)

    async def gas_price_wei(self) -> int:
        """What a unit of gas would cost now, tip included.

        Raises:
            Unavailable: No RPC answered.
        """
        history, tip = await self._rpc.batch(QUOTE_CALLS)
        return quote(history, tip).price_wei

    async def _resume(self, left: Transaction) -> Outcome:
        _log.info("a transaction is still in flight", kind=left.kind, nonce=left.nonce)
        return await self._to_final(left, resumed=True)

    async def _begin(self, intent: Intent) -> Transaction:
        nonce_last = await self._journal.nonce_last(self._address)
        transaction: Transaction = await self._rpc.run_sync(
            partial(
                draft,
                self._rpc,
                intent,
                key=self._key,
                nonce_last=nonce_last,
                fee_cap_wei=self._fee_cap_wei,
                now_ms=self._clock.unix_ms(),
            )
        )
        await self._journal.begin_transaction(transaction)
        return transaction

    async def _to_final(self, transaction: Transaction, *, resumed: bool) -> Outcome:
        watch = _Watch()
        started_s = self._clock.monotonic_s()
        while True:
            try:
                seen = await look(self._rpc, transaction)
                state = await self._ended(transaction, seen, watch)
                if state is not None:
                    return await self._close(transaction, state, seen.mined, resumed=resumed)
                if seen.mined is not None or seen.nonce > transaction.nonce:
                    watch.was_mined = True
                else:
                    # In two steps: what is saved is looked for, though its sending fails.
                    transaction = await self._raise(transaction, seen, watch)
                    await self._send_again(transaction, watch)
            except Unavailable as error:
                self._trouble(str(error))
            waited_s = self._clock.monotonic_s() - started_s
            await trio.sleep(min(POLL_S[1], max(POLL_S[0], waited_s / 10)))

    async def _ended(self, transaction: Transaction, seen: Look, watch: _Watch) -> TxState | None:
        """How it ended, if what the chain says is deep enough to be believed."""
        before, watch.replaced = watch.replaced, 0
        if seen.mined is not None:
            if seen.head - seen.mined.block < self._finality_blocks:
                return None
            return TxState.FINAL if seen.mined.ok else TxState.REVERTED
        if seen.nonce <= transaction.nonce:
            return None
        self._trouble("its nonce was used by something that this node did not send")
        final = max(0, seen.head - self._finality_blocks)
        if await nonce_at(self._rpc, transaction, final) <= transaction.nonce:
            return None
        watch.replaced = before + 1
        return TxState.REPLACED if watch.replaced >= REPLACED_LOOKS else None

    async def _raise(self, transaction: Transaction, seen: Look, watch: _Watch) -> Transaction:
        """Offer more, if it has missed enough blocks; it is saved then, and not sent."""
        if watch.bump_at_block is None:
            watch.bump_at_block = seen.head + BUMP_BLOCKS
        if seen.nonce < transaction.nonce:
            # Paying more would not help.
            self._trouble("it waits for an earlier transaction, which this node did not send")
        elif seen.head >= watch.bump_at_block:
            watch.bump_at_block = seen.head + BUMP_BLOCKS
            bumped = await self._bump(transaction)
            if bumped is not transaction:
                watch.resend_at_s = -math.inf
            return bumped
        return transaction

    async def _send_again(self, transaction: Transaction, watch: _Watch) -> None:
        """Send it when it is due."""
        # A reorg may have thrown it out of the nodes' pools as well.
        if watch.was_mined or self._clock.monotonic_s() >= watch.resend_at_s:
            again_s = RESEND_S if await self._send(transaction) else REFUSED_S
            watch.was_mined, watch.resend_at_s = False, self._clock.monotonic_s() + again_s

    async def _bump(self, transaction: Transaction) -> Transaction:
        """The same with a higher fee, saved; unchanged when the cap leaves no room."""
        history, tip = await self._rpc.batch(QUOTE_CALLS)
        last = transaction.attempts[-1]
        old = Fees(fee_max_wei=last.fee_max_wei, tip_wei=last.tip_wei)
        fees = bumped_fees(old, quote(history, tip), fee_cap_wei=self._fee_cap_wei)
        if fees is None or len(transaction.attempts) >= ATTEMPTS_MAX:
            self._trouble("it waits for a block at the highest fee that chain.fee_max_gwei allows")
            return transaction
        bumped: Transaction = await self._rpc.run_sync(
            partial(
                signed_again,
                transaction,
                fees,
                key=self._key,
                chain_id=self._rpc.chain_id,
                now_ms=self._clock.unix_ms(),
            )
        )
        await self._journal.add_attempt(
            sender=self._address, nonce=transaction.nonce, attempt=bumped.attempts[-1]
        )
        _log.info("fee raised", kind=transaction.kind, gwei=fees.fee_max_wei / GWEI)
        return bumped

    async def _send(self, transaction: Transaction) -> bool:
        """Hand the newest attempt to every RPC; tells whether one of them has it now."""
        raw = transaction.attempts[-1].raw
        results = await self._rpc.run_sync(partial(self._rpc.broadcast_sync, raw))
        faults = [result for result in results if isinstance(result, RpcFault)]
        refused = [fault for fault in faults if not _is_known(fault)]
        taken = len(refused) < len(results)
        self._trouble("" if taken else refused[0].message)
        return taken

    async def _close(
        self, transaction: Transaction, state: TxState, mined: Mined | None, *, resumed: bool
    ) -> Outcome:
        self._trouble("")
        await self._journal.close_transaction(
            sender=self._address,
            nonce=transaction.nonce,
            state=state,
            block=mined.block if mined else 0,
            gas_used=mined.gas_used if mined else 0,
            fee_wei=mined.fee_wei if mined else 0,
            closed_ms=self._clock.unix_ms(),
        )
        if mined is None:
            raise WalletError(
                f"another program used this account's nonce {transaction.nonce}:"
                f" the transaction to {transaction.kind} can no longer happen",
                hint="use this key in one place only, then try again",
            )
        if not mined.ok:
            raise WalletError(
                f"the transaction to {transaction.kind} reverted: 0x{mined.tx_hash.hex()}"
            )
        return Outcome(
            transaction=_closed(transaction, state, mined),
            tx_hash=mined.tx_hash,
            logs=mined.logs,
            resumed=resumed,
        )

    def _trouble(self, why: str) -> None:
        if why and why != self._problem:
            _log.warning("a transaction does not advance", reason=why)
        self._problem = why


def _is_known(fault: RpcFault) -> bool:
    """Whether a refusal to take a transaction says that it is there already."""
    message = fault.message.lower()
    return any(word in message for word in ("already known", "already imported", "known trans"))


def _closed(transaction: Transaction, state: TxState, mined: Mined) -> Transaction:
    return replace(
        transaction, state=state, block=mined.block, gas_used=mined.gas_used, fee_wei=mined.fee_wei
    )
