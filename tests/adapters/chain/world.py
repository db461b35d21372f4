"""What the tests of the chain share: funded keys, blocks on demand, a journal, faulty RPCs."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from devnet.chain import DevChain, Funding
from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.chain.sender import Sender
from node.adapters.chain.settlement import EscrowSettlement
from node.errors import CorruptState
from node.protocol.fields import Address, Hash
from node.protocol.signing import Domain, address_of_key, sign
from node.protocol.statements import Split, Voucher
from node.protocol.tabs import splits_hash, tab_id, tab_of_voucher
from node.roles.redemption import Due
from node.roles.transactions import Attempt, Transaction, TxState

FINALITY_BLOCKS = 2
MODEL = hashlib.sha256(b"a model").digest()


class SystemClock:
    """`ports.Clock` of this machine; `ahead_s` moves the wall's on."""

    def __init__(self) -> None:
        self.ahead_s = 0

    def unix_ms(self) -> int:
        return int((time.time() + self.ahead_s) * 1000)

    def monotonic_s(self) -> float:
        return time.monotonic()


class MemoryJournal:
    """`TransactionJournal` in memory: what outlives a process is whatever was saved here."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Address, int], Transaction] = {}

    async def begin_transaction(self, transaction: Transaction) -> None:
        key = transaction.sender, transaction.nonce
        if key in self.rows or await self.open_transaction(transaction.sender):
            raise CorruptState("there is one already")
        self.rows[key] = transaction

    async def add_attempt(self, *, sender: Address, nonce: int, attempt: Attempt) -> None:
        row = self.rows[sender, nonce]
        self.rows[sender, nonce] = replace(row, attempts=(*row.attempts, attempt))

    async def close_transaction(
        self,
        *,
        sender: Address,
        nonce: int,
        state: TxState,
        block: int,
        gas_used: int,
        fee_wei: int,
        closed_ms: int,
    ) -> None:
        assert state is not TxState.SENT
        self.rows[sender, nonce] = replace(
            self.rows[sender, nonce],
            state=state,
            block=block,
            gas_used=gas_used,
            fee_wei=fee_wei,
            closed_ms=closed_ms,
        )

    async def open_transaction(self, sender: Address) -> Transaction | None:
        mine = [row for row in self.rows.values() if row.sender == sender]
        return next((row for row in mine if row.state is TxState.SENT), None)

    async def nonce_last(self, sender: Address) -> int | None:
        return max((nonce for who, nonce in self.rows if who == sender), default=None)

    async def transactions(self, *, count_max: int) -> tuple[Transaction, ...]:
        return tuple(reversed(self.rows.values()))[:count_max]


class World:
    """Keys and adapters of one test."""

    def __init__(self, chain: DevChain, name: str) -> None:
        self.chain = chain
        self.name = name
        self.clock = SystemClock()
        self.escrow = bytes.fromhex(chain.contracts.escrow[2:])
        self.token = bytes.fromhex(chain.contracts.token[2:])
        self.domain = Domain(chain.chain_id, self.escrow)
        self.rpc = self.connect()
        self.reader = self.reading(self.rpc)
        self._keys = 0

    def connect(self, urls: str = "") -> Rpc:
        return Rpc(urls or self.chain.anvil.url, chain_id=self.chain.chain_id, sleep=lambda _: None)

    def reading(self, rpc: Rpc) -> EscrowReader:
        return EscrowReader(rpc, escrow=self.escrow, finality_blocks=FINALITY_BLOCKS)

    def key(self, *, deposit_micro: int = 0, token_micro: int = 0, coins: bool = False) -> bytes:
        """A new private key, and what its account starts with, at a final block."""
        self._keys += 1
        key = hashlib.sha256(f"{self.name} {self._keys}".encode()).digest()
        if deposit_micro or token_micro or coins:
            funding = Funding(
                address=address_of_key(key), token_micro=token_micro, deposit_micro=deposit_micro
            )
            self.chain.fund([funding])
            self.chain.mine(FINALITY_BLOCKS)
            self.reader = self.reading(self.rpc)
        return key

    def sender(
        self, key: bytes, journal: MemoryJournal, *, rpc: Rpc | None = None, gwei: int = 200
    ) -> Sender:
        return Sender(
            rpc or self.rpc,
            key=key,
            journal=journal,
            clock=self.clock,
            finality_blocks=FINALITY_BLOCKS,
            fee_max_gwei=gwei,
        )

    def settlement(self, sender: Sender, *, rpc: Rpc | None = None) -> EscrowSettlement:
        rpc = rpc or self.rpc
        return EscrowSettlement(rpc, self.reading(rpc), sender, escrow=self.escrow)

    def due(
        self,
        payer_key: bytes,
        payee: Address,
        cumulative_micro: int,
        *,
        splits: Sequence[Split] = (),
        signer_key: bytes | None = None,
        model: Hash = MODEL,
        paid_micro: int = 0,
    ) -> Due:
        voucher = Voucher(
            payer=address_of_key(payer_key),
            payee=payee,
            model=model,
            splits=splits_hash(splits),
            cumulative=cumulative_micro,
            receipts=hashlib.sha256(b"receipts").digest(),
        )
        signer_key = signer_key or payer_key
        return Due(
            tab=tab_id(tab_of_voucher(voucher)),
            voucher=sign(voucher, self.domain, signer_key),
            splits=tuple(splits),
            paid_micro=paid_micro,
            signer=address_of_key(signer_key),
            since_ms=self.clock.unix_ms(),
        )

    def call(self, contract: str, function: str, *args: Any) -> Any:
        """A view of a contract, now."""
        address = (
            self.chain.contracts.escrow if contract == "Escrow" else self.chain.contracts.token
        )
        return self.chain.contract(contract, address).functions[function](*args).call()

    def redeem_logs(self, payee: Address) -> list[Any]:
        """Every payment to a payee that ever happened."""
        event = self.chain.contract("Escrow", self.chain.contracts.escrow).events.VoucherRedeemed()
        return list(event.get_logs(from_block=0, argument_filters={"payee": payee}))

    @asynccontextmanager
    async def blocks(self, every_s: float = 0.03) -> AsyncIterator[None]:
        """Blocks go on being made."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mine, every_s)
            yield
            nursery.cancel_scope.cancel()

    async def _mine(self, every_s: float) -> None:
        while True:
            await trio.to_thread.run_sync(self.chain.mine)
            await trio.sleep(every_s)

    def close(self) -> None:
        self.rpc.close()


async def until(true: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for something that happens on the chain or in a thread, where there is no event."""
    with trio.fail_after(within_s):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.01)
