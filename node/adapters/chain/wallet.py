"""The payer's side of the escrow, and the token: figures, deposits, exits.

What is read is final; what is written is seen through to finality (`roles.transactions`).
"""

from dataclasses import dataclass
from typing import Any, Final

from coincurve import PrivateKey

from node.adapters.chain.abi import call_data, quantity, words
from node.adapters.chain.encoding import events, intent
from node.adapters.chain.reader import EscrowReader, Pair
from node.adapters.chain.rpc import Call, Rpc, RpcFault
from node.errors import Unavailable, WalletError
from node.protocol.fields import Address, Signed
from node.protocol.signing import checksum, keccak256
from node.protocol.statements import Lock
from node.roles.transactions import Outcome, Transactor

PERMIT_LIFE_S: Final = 24 * 3600
"""Long enough for a transaction that is stuck; the allowance can only go to the escrow."""
DEVNET_CHAIN_IDS: Final = (1337, 31337)
_PERMIT_TYPE: Final = keccak256(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances:
    """An account at one final block; amounts in micro unless they say otherwise."""

    block: int
    block_time_s: int
    native_wei: int
    token_micro: int
    free_micro: int
    locked_micro: int
    exit_ready_s: int
    """Unix second from which it may leave; 0 when no exit was requested."""
    credit_micro: int
    exit_delay_s: int
    deposit_cap_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A final transaction."""

    tx_hash: bytes
    block: int
    fee_wei: int
    resumed: bool
    """It was in flight already when it was asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Permit:
    """An ERC-2612 permit for the escrow, signed."""

    amount_micro: int
    nonce: int
    deadline_s: int
    v: int
    r: bytes
    s: bytes


class EscrowWallet:
    """One account's own money."""

    def __init__(
        self,
        rpc: Rpc,
        reader: EscrowReader,
        transactor: Transactor,
        *,
        key: bytes,
        escrow: Address,
        token: Address,
    ) -> None:
        """
        Args:
            rpc: Where to ask.
            reader: The escrow's state.
            transactor: Sends for the account of `key`.
            key: 32-byte private key: signs permits.
            escrow: The contract.
            token: What it holds.
        """
        self._rpc = rpc
        self._reader = reader
        self._transactor = transactor
        self._key = key
        self._escrow = escrow
        self._token = token

    @property
    def address(self) -> Address:
        """Whose wallet it is."""
        return self._transactor.address

    async def balances(self) -> Balances:
        """Figures at the finality depth.

        Raises:
            Unavailable: No RPC answered, or the contracts are not there.
        """
        number = await self._reader.final_block(age_max_s=0)
        me = self.address
        pair = Pair(payer=me, payee=me, signer=me)
        block, (view,) = await self._reader.views((pair,), block=number)
        native, *results = await self._rpc.batch(
            (
                Call("eth_getBalance", (checksum(me), hex(number))),
                self._read(self._token, number, "balanceOf(address)", me),
                self._read(self._escrow, number, "credits(address)", me),
                self._read(self._escrow, number, "EXIT_DELAY()"),
                self._read(self._escrow, number, "DEPOSIT_CAP()"),
            )
        )
        token, credit, exit_delay_s, deposit_cap = (words(each, 1)[0] for each in results)
        return Balances(
            block=number,
            block_time_s=block.time_s,
            native_wei=quantity(native),
            token_micro=token,
            free_micro=view.account.free_micro,
            locked_micro=view.account.locked_micro,
            exit_ready_s=view.account.exit_ready_s,
            credit_micro=credit,
            exit_delay_s=exit_delay_s,
            deposit_cap_micro=deposit_cap,
        )

    async def deposit(self, account: Address, amount_micro: int) -> Done:
        """Move tokens of ours into an account's free funds.

        With a permit where the token has them, else with an approval before.

        Raises:
            WalletError: Refused, reverted, or no coins for gas.
            Unavailable: Nothing was signed.
        """
        note = {"account": checksum(account), "amount_micro": amount_micro}
        permit = await self._permit(amount_micro)
        if permit is not None:
            return _done(await self._deposit_with(permit, note, account))
        if await self._allowance() < amount_micro:
            approve = ("TestToken", "approve", self._escrow, amount_micro)
            await self._transactor.transact(
                await intent("approve", note, self._token, *approve, aside=self._rpc.run_sync)
            )
        return _done(await self._call("deposit", note, "deposit", account, amount_micro))

    async def request_exit(self) -> tuple[Done, int]:
        """Start the exit's delay; returns the Unix second from which `exit` works."""
        outcome = await self._call("request an exit", {}, "requestExit")
        (event,) = await events(outcome, "ExitRequested", aside=self._rpc.run_sync)
        return _done(outcome), event["readyAt"]

    async def cancel_exit(self) -> Done:
        """Stay after all."""
        return _done(await self._call("cancel the exit", {}, "cancelExit"))

    async def exit(self, to: Address) -> tuple[Done, int]:
        """Take everything out; returns how many micro that was."""
        note = {"to": checksum(to)}
        outcome = await self._call("exit", note, "exit", to)
        (event,) = await events(outcome, "ExitCompleted", aside=self._rpc.run_sync)
        return _done(outcome), event["amount"]

    async def submit_lock(self, lock: Signed[Lock]) -> Done:
        """Have the escrow set a lock that this account signed."""
        each = lock.statement
        note = {"payee": checksum(each.payee), "total_micro": each.total, "nonce": each.nonce}
        fields = (each.payer, each.payee, each.total, each.nonce, each.expiry)
        return _done(await self._call("lock", note, "submitLock", fields, lock.signature))

    async def mint(self, amount_micro: int) -> Done:
        """Make test tokens for this account, on a devnet.

        Raises:
            WalletError: This is no devnet, or the token is a real one.
        """
        if self._rpc.chain_id not in DEVNET_CHAIN_IDS:
            raise WalletError("only a devnet's test token can be minted")
        note = {"amount_micro": amount_micro}
        call = ("TestToken", "mint", self.address, amount_micro)
        wanted = await intent("mint", note, self._token, *call, aside=self._rpc.run_sync)
        return _done(await self._transactor.transact(wanted))

    async def _deposit_with(
        self, permit: _Permit, note: dict[str, Any], account: Address
    ) -> Outcome:
        args = (account, permit.amount_micro, permit.deadline_s, permit.v, permit.r, permit.s)
        try:
            return await self._call("deposit", note, "depositWithPermit", *args)
        except WalletError:
            # What was in flight before may have used the permit's nonce.
            again = await self._permit(permit.amount_micro)
            if again is None or again.nonce == permit.nonce:
                raise
        args = (account, again.amount_micro, again.deadline_s, again.v, again.r, again.s)
        return await self._call("deposit", note, "depositWithPermit", *args)

    async def _permit(self, amount_micro: int) -> _Permit | None:
        """A permit for the escrow; None where the token takes none."""
        block, separator, nonce = await self._rpc.batch(
            (
                Call("eth_getBlockByNumber", ("latest", False)),
                self._read(self._token, None, "DOMAIN_SEPARATOR()"),
                self._read(self._token, None, "nonces(address)", self.address),
            )
        )
        if any(isinstance(each, RpcFault) or each == "0x" for each in (separator, nonce)):
            return None
        if not isinstance(block, dict):
            raise Unavailable("the chain's RPC has no latest block")
        deadline_s = quantity(block.get("timestamp")) + PERMIT_LIFE_S
        fields = (amount_micro, words(nonce, 1)[0], deadline_s)
        struct = _PERMIT_TYPE + self.address.rjust(32, b"\0") + self._escrow.rjust(32, b"\0")
        struct += b"".join(number.to_bytes(32, "big") for number in fields)
        domain = words(separator, 1)[0].to_bytes(32, "big")
        digest = keccak256(b"\x19\x01" + domain + keccak256(struct))
        raw = PrivateKey(self._key).sign_recoverable(digest, hasher=None)
        return _Permit(
            amount_micro=amount_micro,
            nonce=fields[1],
            deadline_s=deadline_s,
            v=27 + raw[64],
            r=raw[:32],
            s=raw[32:64],
        )

    async def _allowance(self) -> int:
        call = self._read(
            self._token, None, "allowance(address,address)", self.address, self._escrow
        )
        (result,) = await self._rpc.batch((call,))
        return words(result, 1)[0]

    async def _call(self, kind: str, note: dict[str, Any], function: str, *args: Any) -> Outcome:
        wanted = await intent(
            kind, note, self._escrow, "Escrow", function, *args, aside=self._rpc.run_sync
        )
        return await self._transactor.transact(wanted)

    def _read(self, target: Address, block: int | None, signature: str, *args: bytes | int) -> Call:
        request = {"to": "0x" + target.hex(), "data": call_data(signature, *args)}
        return Call("eth_call", (request, "latest" if block is None else hex(block)))


def _done(outcome: Outcome) -> Done:
    return Done(
        tx_hash=outcome.tx_hash,
        block=outcome.transaction.block,
        fee_wei=outcome.transaction.fee_wei,
        resumed=outcome.resumed,
    )
