"""What only the chain can say about a transcript: whose key it was, and what was redeemed."""

from typing import Protocol

from node.errors import ConfigError, PeerError
from node.protocol import signing, tabs
from node.protocol.fields import Address, Hash
from node.protocol.signing import Domain, checksum
from node.protocol.statements import Voucher
from node.protocol.transcript import Payment, Transcript
from node.protocol.transcript_verify import Check
from node.roles.ports import ChainView
from node.units import format_micro


class Escrow(Protocol):
    """The contract that a transcript names, read at the finality depth."""

    async def separator(self) -> Hash:
        """Its EIP-712 domain separator.

        Raises:
            PeerError: The chain is another one, or has no such contract.
            Unavailable: The RPC does not answer.
        """
        ...

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        """Account, lock and authority.

        Raises:
            Unavailable: The RPC does not answer.
        """
        ...

    async def tab_paid(self, tab: Hash) -> int:
        """Micro redeemed so far on a tab.

        Raises:
            Unavailable: The RPC does not answer.
        """
        ...


class EscrowAtRpc:
    """`Escrow` over JSON-RPC; no web3."""

    def __init__(self, urls: str, *, domain: Domain, finality_blocks: int) -> None:
        """
        Args:
            urls: One or more URLs, separated by commas.
            domain: Chain and contract that the transcript names.
            finality_blocks: Blocks on top of one before what it says is believed.

        Raises:
            ConfigError: Not http(s) URLs.
        """
        from node.adapters.chain.reader import EscrowReader
        from node.adapters.chain.rpc import Rpc

        self._domain = domain
        self._rpc = Rpc(urls, chain_id=domain.chain_id)
        self._reader = EscrowReader(
            self._rpc, escrow=domain.escrow, finality_blocks=finality_blocks
        )

    async def separator(self) -> Hash:
        """See `Escrow`."""
        from node.adapters.chain.abi import call_data
        from node.adapters.chain.rpc import Call

        target = {"to": "0x" + self._domain.escrow.hex(), "data": call_data("domainSeparator()")}
        try:
            block = await self._reader.final_block()
            (result,) = await self._rpc.batch((Call("eth_call", (target, hex(block))),))
        except ConfigError as error:
            raise PeerError(str(error)) from error
        if not isinstance(result, str) or len(result) != 66:
            raise PeerError(f"there is no escrow at {checksum(self._domain.escrow)}")
        return bytes.fromhex(result[2:])

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        """See `Escrow`."""
        return await self._reader.view(payer=payer, payee=payee, signer=signer)

    async def tab_paid(self, tab: Hash) -> int:
        """See `Escrow`."""
        (paid_micro,) = await self._reader.tabs_paid((tab,))
        return paid_micro


async def chain_checks(job: Transcript, escrow: Escrow) -> tuple[Check, ...]:
    """Check a transcript that passed offline against the escrow that it names.

    Raises:
        Unavailable: The RPC does not answer.
    """
    try:
        separator = await escrow.separator()
    except PeerError as error:
        return (Check(name="chain", passed=False, detail=str(error)),)
    if separator != job.domain.separator:
        detail = "the contract is not the escrow that the statements are bound to"
        return (Check(name="chain", passed=False, detail=detail),)
    checks = [Check(name="chain", passed=True, detail=f"the escrow is on chain {job.chain_id}")]
    for payment in _last_of_each_tab(job):
        checks += await _tab_checks(job, payment, escrow)
    return tuple(checks)


def _last_of_each_tab(job: Transcript) -> tuple[Payment, ...]:
    best: dict[tabs.Tab, Payment] = {}
    for segment in job.segments:
        if segment.payment is None:
            continue
        tab = tabs.tab_of_voucher(segment.payment.voucher.statement)
        known = best.get(tab)
        cumulative = segment.payment.voucher.statement.cumulative
        if known is None or cumulative >= known.voucher.statement.cumulative:
            best[tab] = segment.payment
    return tuple(best.values())


async def _tab_checks(job: Transcript, payment: Payment, escrow: Escrow) -> list[Check]:
    voucher = payment.voucher.statement
    signer = signing.recover(payment.voucher, job.domain)
    paid_micro = await escrow.tab_paid(tabs.tab_id(tabs.tab_of_voucher(voucher)))
    open_micro = max(0, voucher.cumulative - paid_micro)
    if open_micro == 0:
        # What the signer may do now is past: the escrow has paid this and asks for nothing more.
        detail = f"the tab's {format_micro(voucher.cumulative)} were redeemed"
        return [Check(name="redemption", passed=True, detail=detail)]
    view = await escrow.view(payer=voucher.payer, payee=voucher.payee, signer=signer)
    return [_authority(voucher, signer, view), _cover(voucher, open_micro, view)]


def _authority(voucher: Voucher, signer: Address, view: ChainView) -> Check:
    passed = view.signer_expiry_s > view.block_time_s
    said = "the escrow lets" if passed else "the escrow does not let"
    detail = f"{said} {checksum(signer)} sign for {checksum(voucher.payer)}"
    return Check(name="authority", passed=passed, detail=detail)


def _cover(voucher: Voucher, open_micro: int, view: ChainView) -> Check:
    """Whether the voucher would be paid now.  Free funds are shared with other payees' vouchers."""
    lock_micro = view.lock.amount_micro if view.lock.expiry_s > view.block_time_s else 0
    # A signer's cap bounds what it takes out of free funds (IEscrow.sol, SignerSet).
    covered_micro = lock_micro + min(view.account.free_micro, view.signer_left_micro)
    detail = (
        f"{format_micro(open_micro)} of the tab's {format_micro(voucher.cumulative)} are not "
        f"redeemed; up to {format_micro(covered_micro)} would be paid now"
    )
    return Check(name="redemption", passed=covered_micro >= open_micro, detail=detail)
