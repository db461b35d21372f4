"""The replay matrix before the real escrow: redeem, submitLock, submitLockRelease, permit."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from eth_account import Account
from eth_account.messages import encode_typed_data
from web3.exceptions import Web3Exception

from devnet.chain import CALL_GAS, DevChain, Funding
from node.adapters.chain.contracts import error_text
from node.adapters.chain.voucher_batch import pack
from node.protocol import signing
from node.protocol.fields import Address, Hash, Signed
from node.protocol.signing import Domain, address_of_key
from node.protocol.statements import Lock, LockRelease, Voucher
from node.protocol.tabs import splits_hash, tab_id, tab_of_voucher
from node.roles.redemption import Due
from tests.attack import replay_matrix as matrix
from tests.attack.replay_matrix import STRANGER, Cell, Sample, forged

PLACE: Final = "escrow"
DEPOSIT_MICRO: Final = 10_000
MODEL: Final = signing.keccak256(b"a model")
PAYER_KEY: Final = signing.keccak256(b"a payer of the matrix")
PAYEE_KEY: Final = signing.keccak256(b"a payee of the matrix")
PAYER: Final = address_of_key(PAYER_KEY)
PAYEE: Final = address_of_key(PAYEE_KEY)
DAY_S: Final = 86_400


class ChainMatrix:
    """Runs the cells in one run on one chain."""

    def __init__(self, chain: DevChain, *, every: int = 1) -> None:
        """
        Args:
            chain: With the contracts on it.
            every: One cell in so many is tried.
        """
        self._chain = chain
        self._wanted = Sample(every)
        self._escrow = chain.contract("Escrow", chain.contracts.escrow)
        self._token = chain.contract("TestToken", chain.contracts.token)
        escrow = bytes.fromhex(chain.contracts.escrow[2:])
        self.domain = Domain(chain.chain_id, escrow)
        self._sender = list(chain.web3.eth.accounts)[1]
        self._cells: list[Cell] = []

    def run(self) -> list[Cell]:
        """All of them; the accounts are funded first, and what is genuine is taken once."""
        self._chain.fund(
            [
                Funding(address=PAYER, deposit_micro=DEPOSIT_MICRO),
                Funding(address=STRANGER, deposit_micro=DEPOSIT_MICRO),
            ]
        )
        self._vouchers()
        self._locks()
        self._releases()
        self._permits()
        return self._cells

    # ------------------------------------------------------------------------------- vouchers

    def _vouchers(self) -> None:
        genuine = self._voucher(1_000)
        for name, bad in forged(genuine, domain=self.domain, key=PAYER_KEY).items():
            self._never_pays(name, ours(bad), PAYEE)
        before = self._figures(PAYEE)
        self._redeem(genuine)
        taken = self._figures(PAYEE)
        assert taken[0] - before[0] == genuine.statement.cumulative, "what is genuine is paid"
        self._never_pays(matrix.SAME_TWICE, genuine, PAYEE)
        self._never_pays(matrix.OLD_NONCE, self._voucher(400), PAYEE)

    def _voucher(self, cumulative: int) -> Signed[Voucher]:
        voucher = Voucher(
            payer=PAYER,
            payee=PAYEE,
            model=MODEL,
            splits=splits_hash(()),
            cumulative=cumulative,
            receipts=bytes(32),
        )
        return signing.sign(voucher, self.domain, PAYER_KEY)

    def _never_pays(self, variant: str, signed: Signed[Voucher], payee: Address) -> None:
        if not self._wanted():
            return
        before = self._figures(payee), self._figures(STRANGER)
        how = self._redeem(signed)
        after = self._figures(payee), self._figures(STRANGER)
        self._note("voucher", variant, how, refused=after == before)

    def _redeem(self, signed: Signed[Voucher]) -> str:
        batch = pack(((_due(signed),),))
        return self._send(self._escrow.functions.redeem(batch))

    def _figures(self, account: Address) -> tuple[int, int, int]:
        call = self._chain.web3.to_checksum_address
        credit = int(self._escrow.functions.credits(call(account)).call())
        free, locked, _ = self._escrow.functions.accounts(call(account)).call()
        _, nonce, _ = self._escrow.functions.lockOf(call(PAYER), call(PAYEE)).call()
        return credit, int(free) * 2**96 + int(locked), int(nonce)

    # ---------------------------------------------------------------------------------- locks

    def _locks(self) -> None:
        genuine = self._lock(total=2_000, nonce=5)
        for name, bad in forged(genuine, domain=self.domain, key=PAYER_KEY).items():
            self._never("lock", name, ours(bad), self._submit_lock)
        self._submit_lock(genuine)
        assert self._locked() == (2_000, 5), "what is genuine is taken"
        self._never("lock", matrix.SAME_TWICE, genuine, self._submit_lock)
        old = self._lock(total=3_000, nonce=4)
        self._never("lock", matrix.OLD_NONCE, old, self._submit_lock)
        weaker = self._lock(total=1_000, nonce=6)
        self._never("lock, signed lower", matrix.LOWER_AMOUNT, weaker, self._submit_lock)

    def _lock(self, *, total: int, nonce: int) -> Signed[Lock]:
        expiry_s = int(self._chain.web3.eth.get_block("latest")["timestamp"]) + DAY_S
        lock = Lock(payer=PAYER, payee=PAYEE, total=total, nonce=nonce, expiry=expiry_s)
        return signing.sign(lock, self.domain, PAYER_KEY)

    def _submit_lock(self, signed: Signed[Lock]) -> str:
        each = signed.statement
        fields = (each.payer, each.payee, each.total, each.nonce, each.expiry)
        return self._send(self._escrow.functions.submitLock(fields, signed.signature))

    def _locked(self) -> tuple[int, int]:
        call = self._chain.web3.to_checksum_address
        amount, nonce, _ = self._escrow.functions.lockOf(call(PAYER), call(PAYEE)).call()
        return int(amount), int(nonce)

    def _releases(self) -> None:
        genuine = self._release(total=500, nonce=7)
        for name, bad in forged(genuine, domain=self.domain, key=PAYEE_KEY).items():
            self._never("lock release", name, bad, self._submit_release)
        self._submit_release(genuine)
        assert self._locked() == (500, 7), "what is genuine is taken"
        self._never("lock release", matrix.SAME_TWICE, genuine, self._submit_release)
        old = self._release(total=100, nonce=6)
        self._never("lock release", matrix.OLD_NONCE, old, self._submit_release)

    def _release(self, *, total: int, nonce: int) -> Signed[LockRelease]:
        release = LockRelease(payer=PAYER, payee=PAYEE, total=total, nonce=nonce)
        return signing.sign(release, self.domain, PAYEE_KEY)

    def _submit_release(self, signed: Signed[LockRelease]) -> str:
        each = signed.statement
        fields = (each.payer, each.payee, each.total, each.nonce)
        return self._send(self._escrow.functions.submitLockRelease(fields, signed.signature))

    def _never(
        self, kind: str, variant: str, signed: Signed[Any], submit: Callable[[Any], str]
    ) -> None:
        if not self._wanted():
            return
        before = self._locked(), self._figures(PAYEE), self._figures(PAYER)
        how = submit(signed)
        after = self._locked(), self._figures(PAYEE), self._figures(PAYER)
        self._note(kind, variant, how, refused=after == before)

    # -------------------------------------------------------------------------------- permits

    def _permits(self) -> None:
        """An ERC-2612 permit is signed by whoever deposits; another may not deposit with it."""
        owner_key = PAYEE_KEY
        genuine = self._permit(owner_key)
        high = self._permit(owner_key)
        cases: dict[str, dict[str, Any]] = {
            matrix.OTHER_CHAIN: self._permit(owner_key, chain_id=self.domain.chain_id + 1),
            matrix.OTHER_CONTRACT: self._permit(owner_key, token=STRANGER),
            matrix.OTHER_PAYER: self._permit(owner_key, owner=STRANGER),
            matrix.OTHER_WORKER: self._permit(owner_key, spender=STRANGER),
            matrix.LOWER_AMOUNT: {**genuine, "value": genuine["value"] + 1},
            matrix.HIGH_S: {**high, "s": matrix._ORDER - high["s"], "v": 55 - high["v"]},
            matrix.FLIPPED_V: {**genuine, "v": 55 - genuine["v"]},
            matrix.OTHER_SIGNER: self._permit(matrix.STRANGER_KEY, owner=PAYEE),
            matrix.OLD_NONCE: self._permit(owner_key, nonce=1),
        }
        self._chain.fund([Funding(address=PAYEE, token_micro=DEPOSIT_MICRO)])
        for name, permit in cases.items():
            self._never_deposits(name, permit)
        self._deposit(genuine)
        assert self._allowance() == 0, "what is genuine is taken"
        self._never_deposits(matrix.SAME_TWICE, genuine)

    def _permit(
        self,
        key: bytes,
        *,
        chain_id: int | None = None,
        token: Address | None = None,
        owner: Address | None = None,
        spender: Address | None = None,
        nonce: int = 0,
        value: int = 1_000,
    ) -> dict[str, Any]:
        checksum = self._chain.web3.to_checksum_address
        name = self._token.functions.name().call()
        contract = checksum(token) if token else self._chain.contracts.token
        deadline = int(time.time()) + DAY_S
        message = encode_typed_data(
            domain_data={
                "name": name,
                "version": "1",
                "chainId": chain_id or self.domain.chain_id,
                "verifyingContract": contract,
            },
            message_types={
                "Permit": [
                    {"name": "owner", "type": "address"},
                    {"name": "spender", "type": "address"},
                    {"name": "value", "type": "uint256"},
                    {"name": "nonce", "type": "uint256"},
                    {"name": "deadline", "type": "uint256"},
                ]
            },
            message_data={
                "owner": checksum(owner or address_of_key(key)),
                "spender": checksum(spender or self.domain.escrow),
                "value": value,
                "nonce": nonce,
                "deadline": deadline,
            },
        )
        signed = Account.sign_message(message, key)
        return {
            "value": value,
            "deadline": deadline,
            "v": signed.v,
            "r": signed.r,
            "s": signed.s,
        }

    def _never_deposits(self, variant: str, permit: dict[str, Any]) -> None:
        if not self._wanted():
            return
        before = self._figures(PAYEE), self._tokens()
        how = self._deposit(permit)
        after = self._figures(PAYEE), self._tokens()
        self._note("permit", variant, how, refused=after == before)

    def _deposit(self, permit: dict[str, Any]) -> str:
        call = self._escrow.functions.depositWithPermit(
            self._chain.web3.to_checksum_address(PAYEE),
            permit["value"],
            permit["deadline"],
            permit["v"],
            permit["r"].to_bytes(32, "big"),
            permit["s"].to_bytes(32, "big"),
        )
        self._chain.rpc("anvil_impersonateAccount", self._chain.web3.to_checksum_address(PAYEE))
        return self._send(call, sender=self._chain.web3.to_checksum_address(PAYEE))

    def _tokens(self) -> int:
        payee = self._chain.web3.to_checksum_address(PAYEE)
        return int(self._token.functions.balanceOf(payee).call())

    def _allowance(self) -> int:
        payee = self._chain.web3.to_checksum_address(PAYEE)
        granted = self._token.functions.allowance(payee, self._chain.contracts.escrow).call()
        return int(granted)

    # --------------------------------------------------------------------------------- shared

    def _send(self, call: Any, *, sender: str = "") -> str:
        """One transaction in a block of its own, with a gas limit so that it is really tried."""
        fee = self._chain.web3.to_wei(10, "gwei")
        sent = call.transact(
            {
                "from": sender or self._sender,
                "gas": 2 * CALL_GAS,
                "maxFeePerGas": fee,
                "maxPriorityFeePerGas": fee,
            }
        )
        self._chain.mine()
        receipt = self._chain.web3.eth.get_transaction_receipt(sent)
        if receipt["status"]:
            return _skipped(self._escrow, receipt) or "taken"
        try:
            call.call({"from": sender or self._sender})
        except Web3Exception as error:
            return f"reverted: {error_text(getattr(error, 'data', '')) or type(error).__name__}"
        return "reverted"

    def _note(self, kind: str, variant: str, how: str, *, refused: bool) -> None:
        self._cells.append(Cell(place=PLACE, kind=kind, variant=variant, refused=refused, how=how))


def _skipped(escrow: Any, receipt: Any) -> str:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other events of the transaction
        events = escrow.events.VoucherSkipped().process_receipt(receipt)
    return f"skipped: reason {events[0]['args']['reason']}" if events else ""


def ours(signed: Signed[Any]) -> Signed[Any]:
    """What was signed for another payee, presented as if for ours: by itself it is genuine."""
    return Signed(replace(signed.statement, payee=PAYEE), signed.signature)


def _due(signed: Signed[Voucher]) -> Due:
    tab: Hash = tab_id(tab_of_voucher(signed.statement))
    return Due(tab=tab, voucher=signed, splits=(), paid_micro=0, signer=PAYER, since_ms=0)
