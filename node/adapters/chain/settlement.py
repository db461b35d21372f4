"""The escrow, written to: `roles.redeemer.Settlement` over a transactor."""

from collections.abc import Sequence
from typing import Final

from node.adapters.chain.abi import quantity
from node.adapters.chain.encoding import events, intent
from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Call, Rpc
from node.adapters.chain.voucher_batch import GAS_BASE, gas_limit, in_order, pack
from node.errors import Unavailable
from node.protocol.fields import Address, Signed
from node.protocol.signing import checksum
from node.protocol.statements import Lock
from node.roles.redeemer import Claimed, Redemption, Skip
from node.roles.redemption import Due, Gas
from node.roles.transactions import Outcome, Transactor

REDEEM: Final = "redeem"
CLAIM: Final = "claim"
LOCK: Final = "submit a lock"

BATCH_GAS_MAX: Final = 16_000_000
"""Ethereum caps a transaction at 2**24."""
BLOCK_SHARE: Final = 2
"""A batch asks for at most this part of a block; it uses less than half of what it asks for."""
RECORD_GAS_USUAL: Final = 30_000
"""Between a warm tab's and a new one's (scripts/bench-gas): what plans are made with."""
SKIP_REASONS: Final = (
    "not skipped",
    "nothing owed",
    "the payer has no funds",
    "bad signature",
    "the signer's authority has ended",
    "the signer's cap is used up",
    "only a lock is left, and this node may not draw it for a split",
)
"""By number of the contract's SkipReason."""


class EscrowSettlement:
    """Redeems, locks and claims, each in one transaction seen through to finality."""

    def __init__(
        self, rpc: Rpc, reader: EscrowReader, transactor: Transactor, *, escrow: Address
    ) -> None:
        self._rpc = rpc
        self._reader = reader
        self._transactor = transactor
        self._escrow = escrow
        self._aside = rpc.run_sync

    @property
    def problem(self) -> str:
        """Why a transaction in flight does not advance; empty when nothing is wrong."""
        return self._transactor.problem

    async def gas(self) -> Gas:
        """What gas costs now.

        Raises:
            Unavailable: No RPC answered.
        """
        price_wei = await self._transactor.gas_price_wei()
        return Gas(price_wei=price_wei, batch=GAS_BASE, record=RECORD_GAS_USUAL)

    async def batches(self, dues: Sequence[Due]) -> tuple[tuple[Due, ...], ...]:
        """The dues in as few transactions as a block leaves room for.

        Raises:
            Unavailable: No RPC answered.
        """
        (block,) = await self._rpc.batch((Call("eth_getBlockByNumber", ("latest", False)),))
        if not isinstance(block, dict):
            raise Unavailable("the chain's RPC has no latest block")
        room = min(BATCH_GAS_MAX, quantity(block.get("gasLimit")) // BLOCK_SHARE)
        ordered = [due for group in in_order(dues) for due in group]
        done: list[tuple[Due, ...]] = []
        batch: list[Due] = []
        for due in ordered:
            if batch and gas_limit(in_order((*batch, due))) > room:
                done.append(tuple(batch))
                batch = []
            batch.append(due)
        return (*done, tuple(batch)) if batch else tuple(done)

    async def redeem(self, batch: Sequence[Due]) -> Redemption:
        """One transaction for one of `batches` (`Settlement.redeem`)."""
        groups = in_order(batch)
        note = {"vouchers": len(batch), "owed_micro": sum(due.owed_micro for due in batch)}
        # Not estimated: a record's cost depends on what the others of its batch do.
        call = ("Escrow", "redeem", pack(groups))
        wanted = await intent(
            REDEEM, note, self._escrow, *call, aside=self._aside, gas=gas_limit(groups)
        )
        return await self._redemption(await self._transactor.transact(wanted))

    async def submit_lock(self, lock: Signed[Lock]) -> None:
        """Have the escrow set a lock (`Settlement.submit_lock`)."""
        each = lock.statement
        note = {"payer": checksum(each.payer), "total_micro": each.total, "nonce": each.nonce}
        fields = (each.payer, each.payee, each.total, each.nonce, each.expiry)
        call = ("Escrow", "submitLock", fields, lock.signature)
        await self._transactor.transact(
            await intent(LOCK, note, self._escrow, *call, aside=self._aside)
        )

    async def claim(self, to: Address) -> Claimed | None:
        """Pay our credit out, if there is any (`Settlement.claim`)."""
        if not await self._reader.credit(self._transactor.address):
            return None
        note = {"to": checksum(to)}
        wanted = await intent(CLAIM, note, self._escrow, "Escrow", "claim", to, aside=self._aside)
        outcome = await self._transactor.transact(wanted)
        (event,) = await events(outcome, "Claimed", aside=self._aside)
        return Claimed(
            tx_hash=outcome.tx_hash,
            block=outcome.transaction.block,
            to=event["to"],
            amount_micro=event["amount"],
            fee_wei=outcome.transaction.fee_wei,
        )

    async def settle(self) -> Redemption | None:
        """See through what an earlier process left in flight (`Settlement.settle`)."""
        outcome = await self._transactor.settle()
        if outcome is None or outcome.transaction.kind != REDEEM:
            return None
        return await self._redemption(outcome)

    async def _redemption(self, outcome: Outcome) -> Redemption:
        redeemed = await events(outcome, "VoucherRedeemed", aside=self._aside)
        skipped = await events(outcome, "VoucherSkipped", aside=self._aside)
        return Redemption(
            tx_hash=outcome.tx_hash,
            block=outcome.transaction.block,
            gas_used=outcome.transaction.gas_used,
            fee_wei=outcome.transaction.fee_wei,
            vouchers=len(redeemed),
            amount_micro=sum(event["amount"] for event in redeemed),
            # Of two vouchers on one tab the later says more.
            paid={event["tab"]: event["paid"] for event in redeemed},
            skipped=tuple(
                Skip(
                    payer=event["payer"],
                    payee=event["payee"],
                    index=event["index"],
                    reason=_reason(event["reason"]),
                )
                for event in skipped
            ),
        )


def _reason(number: int) -> str:
    return SKIP_REASONS[number] if number < len(SKIP_REASONS) else f"reason {number}"
