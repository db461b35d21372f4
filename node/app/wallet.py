"""`node wallet`: what the account has, and what it puts into the escrow and takes out.

Works beside nothing else of the same home: a running `serve` does it for the command.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.adapters.chain.reader import EscrowReader
from node.adapters.chain.rpc import Rpc
from node.adapters.chain.sender import Sender
from node.adapters.chain.settlement import EscrowSettlement
from node.adapters.chain.wallet import Balances, EscrowWallet
from node.adapters.clock import SystemClock
from node.app.domain import domain_of
from node.app.wallet_views import Figures, Receipt, Withdrawal, line_of, receipt_of, withdrawal_of
from node.config import Config
from node.errors import ConfigError, NodeError, Unavailable, WalletError
from node.protocol import payer_ledger
from node.protocol.fields import Address, Signed
from node.protocol.frames import VoucherFrame
from node.protocol.signing import checksum
from node.protocol.statements import Lock
from node.roles.payer import Payer
from node.roles.payer_book import PayerBook
from node.roles.stores import Stores
from node.units import MS_PER_S, format_micro

TRANSACTIONS_SHOWN: Final = 10


class Wallet:
    """One home's account."""

    def __init__(
        self,
        config: Config,
        *,
        key: bytes,
        stores: Stores,
        rpc: Rpc,
        reader: EscrowReader,
        sender: Sender,
    ) -> None:
        """
        Args:
            config: The home's.
            key: 32-byte session key.
            stores: The home's, open for writing.
            rpc: Where to ask.
            reader: The escrow's state.
            sender: The home's only one.

        Raises:
            ConfigError: chain.escrow or chain.token is not set.
        """
        if not config.chain.token:
            raise ConfigError("chain.token is not set", hint="--set chain.token=0x…")
        self._config = config
        self._domain = domain_of(config)
        self._key = key
        self._stores = stores
        self._rpc = rpc
        self._reader = reader
        self._clock = SystemClock()
        self._escrow = EscrowWallet(
            rpc,
            reader,
            sender,
            key=key,
            escrow=self._domain.escrow,
            token=bytes.fromhex(config.chain.token[2:]),
        )
        self._settlement = EscrowSettlement(rpc, reader, sender, escrow=self._domain.escrow)

    @property
    def address(self) -> Address:
        """The account."""
        return self._escrow.address

    async def figures(self) -> Figures:
        """Everything that `show` shows.

        Raises:
            Unavailable: No RPC answered.
        """
        has = await self._escrow.balances()
        promised_micro = await self._promised_micro()
        deposit_micro = has.free_micro + has.locked_micro
        wait_s = self._wait_s(has)
        waiting = "waiting" if wait_s else "ready"
        rows = await self._stores.chain.transactions(count_max=TRANSACTIONS_SHOWN)
        return Figures(
            address=checksum(self.address),
            chain_id=self._domain.chain_id,
            escrow=checksum(self._domain.escrow),
            token=self._config.chain.token,
            block=has.block,
            native_wei=has.native_wei,
            token_micro=has.token_micro,
            free_micro=has.free_micro,
            locked_micro=has.locked_micro,
            promised_micro=promised_micro,
            available_micro=max(0, deposit_micro - promised_micro),
            credit_micro=has.credit_micro,
            exit=waiting if has.exit_ready_s else "none",
            exit_ready_s=has.exit_ready_s,
            exit_wait_s=wait_s,
            exit_delay_s=has.exit_delay_s,
            deposit_cap_micro=has.deposit_cap_micro,
            transactions=tuple(line_of(row) for row in rows),
            rpc=self._rpc.health(),
        )

    async def deposit(self, amount_micro: int) -> Receipt:
        """Move tokens into the escrow, as this account's free funds.

        Raises:
            WalletError: Too few tokens or coins, the escrow's cap, or an exit is under way.
            Unavailable: No RPC answered; nothing was sent.
        """
        has = await self._escrow.balances()
        if amount_micro <= 0:
            raise WalletError("the amount must be above zero")
        if has.exit_ready_s:
            raise WalletError(
                "an exit is under way, so nothing can be deposited",
                hint="node wallet withdraw --cancel, or once more when it is ready",
            )
        room_micro = has.deposit_cap_micro - has.free_micro - has.locked_micro
        if amount_micro > room_micro:
            raise WalletError(f"the escrow takes only {format_micro(max(0, room_micro))} more")
        if amount_micro > has.token_micro and not await self._in_flight():
            raise WalletError(
                f"the account has {format_micro(has.token_micro)}, less than that",
                hint=f"send tokens to {checksum(self.address)}; on a devnet: node wallet mint",
            )
        done = await self._escrow.deposit(self.address, amount_micro)
        return receipt_of("deposit", done, amount_micro, f"{format_micro(amount_micro)} deposited")

    async def withdraw(self, *, to: Address | None = None) -> Withdrawal:
        """Take everything out: first ask to exit, later, once the delay is over, be paid.

        Args:
            to: Who gets the tokens; None for this account.

        Raises:
            WalletError: There is nothing to withdraw, or the transaction failed.
            Unavailable: No RPC answered; nothing was sent.
        """
        has = await self._escrow.balances()
        amount_micro = has.free_micro + has.locked_micro
        ready_at_s, wait_s, done = has.exit_ready_s, self._wait_s(has), None
        if not ready_at_s:
            if not amount_micro:
                raise WalletError("there is nothing in the escrow to withdraw")
            state = "requested"
            done, ready_at_s = await self._escrow.request_exit()
            wait_s = max(0, ready_at_s - self._now_s(has))
        elif wait_s:
            state = "waiting"
        else:
            state = "paid"
            done, amount_micro = await self._escrow.exit(to or self.address)
        return withdrawal_of(
            state,
            done,
            ready_at_s=ready_at_s,
            wait_s=wait_s,
            amount_micro=amount_micro,
            promised_micro=await self._promised_micro(),
        )

    async def stay(self) -> Receipt:
        """Cancel the exit.

        Raises:
            WalletError: No exit was requested.
            Unavailable: No RPC answered; nothing was sent.
        """
        if not (await self._escrow.balances()).exit_ready_s:
            raise WalletError("no exit was requested")
        return receipt_of("cancel", await self._escrow.cancel_exit(), 0, "the exit is cancelled")

    async def lock(self, *, payee: Address, total_micro: int, expiry_s: int) -> Receipt:
        """Reserve a part of the deposit for one payee.

        Args:
            payee: For whom.
            total_micro: What the lock holds afterwards; it replaces.
            expiry_s: Unix seconds until which it holds.

        Raises:
            WalletError: The deposit does not allow it, or the escrow refuses.
            Unavailable: No RPC answered; nothing was sent.
        """
        signed = await self._signed_lock(payee=payee, total_micro=total_micro, expiry_s=expiry_s)
        done = await self._escrow.submit_lock(signed)
        message = f"{format_micro(total_micro)} locked for {checksum(payee)}"
        return receipt_of("lock", done, total_micro, message)

    async def claim(self, *, to: Address | None = None) -> Receipt:
        """Have the escrow pay out what this account earned.

        Args:
            to: Who gets the tokens; None for this account.

        Raises:
            WalletError: There is nothing to claim, or the transaction failed.
            Unavailable: No RPC answered; nothing was sent.
        """
        claimed = await self._settlement.claim(to or self.address)
        if claimed is None:
            raise WalletError("there is nothing to claim", hint="node redeem")
        return Receipt(
            action="claim",
            transaction="0x" + claimed.tx_hash.hex(),
            block=claimed.block,
            fee_wei=claimed.fee_wei,
            amount_micro=claimed.amount_micro,
            resumed=False,
            message=f"{format_micro(claimed.amount_micro)} claimed",
        )

    async def mint(self, amount_micro: int) -> Receipt:
        """Make test tokens, on a devnet.

        Raises:
            WalletError: This is no devnet.
            Unavailable: No RPC answered; nothing was sent.
        """
        done = await self._escrow.mint(amount_micro)
        return receipt_of("mint", done, amount_micro, f"{format_micro(amount_micro)} minted")

    async def _promised_micro(self) -> int:
        book = PayerBook(account=self.address, store=self._stores.payer, clock=self._clock)
        await book.load()
        return payer_ledger.promised_micro(book.state)

    async def _in_flight(self) -> bool:
        return await self._stores.chain.open_transaction(self.address) is not None

    async def _signed_lock(
        self, *, payee: Address, total_micro: int, expiry_s: int
    ) -> Signed[Lock]:
        """By the payer's ledger: it knows which nonces were used, and what is promised."""
        payer = Payer(
            account=self.address,
            domain=self._domain,
            key=self._key,
            chain=self._reader,
            store=self._stores.payer,
            clock=self._clock,
            deliver=_nobody,
        )
        signed: Signed[Lock] | NodeError
        async with trio.open_nursery() as nursery:
            await nursery.start(payer.run)
            try:
                signed = await payer.make_lock(
                    payee=payee, total_micro=total_micro, expiry_s=expiry_s
                )
            except NodeError as error:  # kept out of the nursery, which would wrap it in a group
                signed = error
            nursery.cancel_scope.cancel()
        if isinstance(signed, NodeError):
            raise signed
        return signed

    def _now_s(self, has: Balances) -> int:
        return max(has.block_time_s, self._clock.unix_ms() // MS_PER_S)

    def _wait_s(self, has: Balances) -> int:
        return max(0, has.exit_ready_s - self._now_s(has)) if has.exit_ready_s else 0


@asynccontextmanager
async def open_wallet(config: Config, key: bytes, stores: Stores) -> AsyncIterator[Wallet]:
    """The wallet of a home that this process owns.

    Raises:
        ConfigError: chain.escrow, chain.token or chain.rpc_url can't be used.
    """
    chain = config.chain
    domain = domain_of(config)
    rpc = Rpc(chain.rpc_url, chain_id=chain.chain_id)
    try:
        reader = EscrowReader(rpc, escrow=domain.escrow, finality_blocks=chain.finality_blocks)
        sender = Sender(
            rpc,
            key=key,
            journal=stores.chain,
            clock=SystemClock(),
            finality_blocks=chain.finality_blocks,
            fee_max_gwei=chain.fee_max_gwei,
        )
        yield Wallet(config, key=key, stores=stores, rpc=rpc, reader=reader, sender=sender)
    finally:
        rpc.close()


async def _nobody(_worker: Address, _frame: VoucherFrame) -> None:
    raise Unavailable("a wallet command talks to no worker")
