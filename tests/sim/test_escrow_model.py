"""The model of the escrow beside the contract: the same operations, the same state after each."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from web3.types import TxParams

from devnet.chain import Anvil, DevChain
from node.adapters.chain.abi import call_data, words
from node.adapters.chain.rpc import Call, Rpc
from node.adapters.chain.voucher_batch import in_order, pack
from node.protocol import signing
from node.protocol.fields import Address, Hash, Signed
from node.protocol.signing import Domain, address_of_key
from node.protocol.statements import Lock, LockRelease, Split, Voucher
from node.protocol.tabs import splits_hash, tab_id, tab_of_voucher
from node.roles.redemption import Due
from tests.roles.fakes import key_of
from tests.sim.chain import log_of
from tests.sim.escrow import Escrow, Reverted, SignerRow

STEPS = 120
EXIT_DELAY_S = 3600
DEPOSIT_CAP_MICRO = 5_000
PAYERS = [key_of(number) for number in (101, 102)]
PAYEES = [key_of(number) for number in (201, 202)]
SIGNERS = [key_of(number) for number in (301, 302)]
STRANGER = key_of(401)
KEYS = {address_of_key(key): key for key in (*PAYERS, *PAYEES, *SIGNERS, STRANGER)}
SPLITS = (Split(payee=b"\x77" * 20, bps=1_500), Split(payee=b"\x99" * 20, bps=333))
MODELS = [b"m" * 32, b"n" * 32]
GAS = 1_000_000

Model = Callable[[Escrow], object]


@dataclass
class Pair:
    """The contract on Anvil and its model, at the same time of the same chain."""

    chain: DevChain
    model: Escrow
    domain: Domain
    rng: random.Random
    rpc: Rpc
    tabs: set[Hash] = field(default_factory=set)
    done: dict[str, list[int]] = field(default_factory=dict)
    """How often each operation went through, and how often it was refused."""
    _contract: Any = None

    @property
    def contract(self) -> Any:
        if self._contract is None:
            self._contract = self.chain.contract("Escrow", self.chain.contracts.escrow).functions
        return self._contract

    def both(self, name: str, caller: Address, call: Any, model: Model) -> None:
        """Do it on both sides; they must agree on whether it is refused."""
        self.model.time_s += self.rng.choice((1, 1, 60, 1_000))
        self.chain.rpc("evm_setNextBlockTimestamp", self.model.time_s)
        account = self.chain.web3.to_checksum_address(caller)
        fee = self.chain.web3.to_wei(50, "gwei")
        params: TxParams = {
            "from": account, "gas": GAS, "maxFeePerGas": fee, "maxPriorityFeePerGas": fee
        }  # fmt: skip
        sent = call.transact(params)
        self.chain.mine()
        receipt = self.chain.web3.eth.get_transaction_receipt(sent)
        tried, refused = self.model.copy(), ""
        try:
            model(tried)
        except Reverted as error:
            refused = str(error)
        assert bool(refused) != bool(receipt["status"]), f"{name}: the model says {refused!r}"
        self.done.setdefault(name, [0, 0])[bool(refused)] += 1
        if not refused:
            own = [log for log in receipt["logs"] if self.is_own(log)]
            assert [bytes(log["topics"][0]) for log in own] == [
                log_of(self.domain.escrow, event).topics[0] for event in tried.events
            ]
            tried.events.clear()
            self.model = tried

    def is_own(self, log: Any) -> bool:
        """Whether the escrow told it, and not the token."""
        return bool(log["address"].lower() == self.chain.contracts.escrow.lower())

    def compare(self) -> None:
        """All that can be read is equal."""
        model, calls, wanted = self.model, [], []

        def add(signature: str, args: tuple[bytes, ...], *values: int) -> None:
            target = {"to": self.chain.contracts.escrow, "data": call_data(signature, *args)}
            calls.append(Call("eth_call", (target, "latest")))
            wanted.append(list(values))

        for account in KEYS:
            funds = model.of(account)
            add("accounts(address)", (account,), funds.free, funds.locked, funds.exit_ready_s)
            add("credits(address)", (account,), model.credits.get(account, 0))
        for split in SPLITS:
            add("credits(address)", (split.payee,), model.credits.get(split.payee, 0))
        for payer in map(address_of_key, PAYERS):
            for payee in map(address_of_key, PAYEES):
                lock = model.lock_of(payer, payee)
                pair = (payer, payee)
                add("lockOf(address,address)", pair, lock.amount, lock.nonce, lock.expiry_s)
            for signer in map(address_of_key, SIGNERS):
                row = model.signers.get((payer, signer), SignerRow())
                pair = (payer, signer)
                add("signers(address,address)", pair, row.expiry_s, row.cap, row.spent)
        for tab in sorted(self.tabs):
            add("tabPaid(bytes32)", (tab,), model.paid.get(tab, 0))
        found = self.rpc.batch_sync(calls)
        assert [words(result, len(each)) for result, each in zip(found, wanted, strict=True)] == (
            wanted
        )
        assert model.conserved()

    def compare_tokens(self) -> None:
        """The contract holds what the model says."""
        token = self.chain.contract("TestToken", self.chain.contracts.token).functions
        assert token.balanceOf(self.chain.contracts.escrow).call() == self.model.held

    # -------------------------------------------------------------------------- operations

    def step(self) -> None:
        self.rng.choice(OPERATIONS)(self)

    def payer(self) -> Address:
        return address_of_key(self.rng.choice(PAYERS))

    def payee(self) -> Address:
        return address_of_key(self.rng.choice(PAYEES))

    def amount(self, most: int = 2_000) -> int:
        return self.rng.choice((0, 1, self.rng.randrange(most), most))

    def locked(self) -> tuple[Address, Address]:
        """A pair with a lock, if there is one."""
        pairs = [pair for pair in self.model.locks if self.model.lock_of(*pair).amount]
        return self.rng.choice(pairs) if pairs else (self.payer(), self.payee())

    def signing_key(self, payer: Address) -> bytes:
        return self.rng.choice((KEYS[payer],) * 5 + (*SIGNERS, STRANGER))

    def deposit(self) -> None:
        payer, amount = self.payer(), self.amount()
        owner = bytes.fromhex(self.chain.web3.eth.accounts[0][2:])
        self.both(
            "deposit",
            owner,
            self.contract.deposit(payer, amount),
            lambda escrow: escrow.deposit(payer, amount),
        )

    def exits(self) -> None:
        payer = self.payer()
        asked = self.model.of(payer).exit_ready_s
        wise = ("cancelExit", "exit", "exit") if asked else ("requestExit",)
        name = self.rng.choice((*wise, *wise, "requestExit", "cancelExit", "exit"))
        if name == "exit" and self.rng.random() < 0.7:
            self.model.time_s += EXIT_DELAY_S
        args = (payer,) if name == "exit" else ()
        models: dict[str, Model] = {
            "requestExit": lambda escrow: escrow.request_exit(payer),
            "cancelExit": lambda escrow: escrow.cancel_exit(payer),
            "exit": lambda escrow: escrow.exit(payer, payer),
        }
        self.both(name, payer, getattr(self.contract, name)(*args), models[name])

    def lock(self) -> None:
        payer, payee = self.payer(), self.payee()
        now = self.model.lock_of(payer, payee)
        lock = Lock(
            payer=payer,
            payee=payee,
            total=self.amount(400),
            nonce=now.nonce + self.rng.choice((0, 1, 1, 1, 1, 5)),
            expiry=self.model.time_s + self.rng.choice((0, 5_000, 100_000, 100_000)),
        )
        signer = self.signing_key(payer)
        signed = signing.sign(lock, self.domain, signer)
        caller = self.rng.choice((payer, payee, address_of_key(STRANGER)))
        fields = (lock.payer, lock.payee, lock.total, lock.nonce, lock.expiry)
        self.both(
            "submitLock",
            caller,
            self.contract.submitLock(fields, signed.signature),
            lambda escrow: escrow.submit_lock(lock, signer=address_of_key(signer), caller=caller),
        )

    def lower(self) -> None:
        (payer, payee), total = self.locked(), self.amount(100)
        self.both(
            "lowerLock",
            payee,
            self.contract.lowerLock(payer, total),
            lambda escrow: escrow.lower_lock(payee, payer, total),
        )

    def release(self) -> None:
        payer, payee = self.locked()
        release = LockRelease(
            payer=payer,
            payee=payee,
            total=self.amount(100),
            nonce=self.model.lock_of(payer, payee).nonce + self.rng.choice((0, 1, 1)),
        )
        signer = self.rng.choice((KEYS[payee], KEYS[payee], STRANGER))
        signed = signing.sign(release, self.domain, signer)
        fields = (release.payer, release.payee, release.total, release.nonce)
        self.both(
            "submitLockRelease",
            payer,
            self.contract.submitLockRelease(fields, signed.signature),
            lambda escrow: escrow.submit_lock_release(release, signer=address_of_key(signer)),
        )

    def expire(self) -> None:
        payer, payee = self.locked()
        expiry_s = self.model.lock_of(payer, payee).expiry_s
        if self.rng.random() < 0.5:
            self.model.time_s = max(self.model.time_s, expiry_s)
        self.both(
            "expireLock",
            payer,
            self.contract.expireLock(payer, payee),
            lambda escrow: escrow.expire_lock(payer, payee),
        )

    def authorise(self) -> None:
        payer, signer = self.payer(), address_of_key(self.rng.choice(SIGNERS))
        if self.rng.random() < 0.2:
            self.both(
                "thawSigner",
                payer,
                self.contract.thawSigner(signer),
                lambda escrow: escrow.thaw_signer(payer, signer),
            )
            return
        expiry_s, cap = self.model.time_s + self.amount(50_000), self.amount()
        self.both(
            "setSigner",
            payer,
            self.contract.setSigner(signer, expiry_s, cap),
            lambda escrow: escrow.set_signer(payer, signer, expiry_s=expiry_s, cap=cap),
        )

    def redeem(self) -> None:
        payee, splits = self.payee(), self.rng.choice(((), (), SPLITS))
        model, dues = self.rng.choice(MODELS), []
        for _ in range(self.rng.randrange(1, 4)):
            payer = self.payer()
            voucher = Voucher(
                payer=payer,
                payee=payee,
                model=model,
                splits=splits_hash(splits),
                cumulative=self.amount(6_000),
                receipts=self.rng.randbytes(32),
            )
            self.tabs.add(tab_id(tab_of_voucher(voucher)))
            key = self.signing_key(payer)
            dues.append((signing.sign(voucher, self.domain, key), address_of_key(key)))
        caller = self.rng.choice((payee, address_of_key(STRANGER)))
        batch = pack(in_order([_due(signed, splits) for signed, _ in dues]))
        vouchers = [(signed.statement, signer) for signed, signer in dues]
        self.both(
            "redeem",
            caller,
            self.contract.redeem(batch),
            lambda escrow: escrow.redeem(caller, vouchers, splits=splits),
        )

    def claim(self) -> None:
        payee = self.payee()
        self.both(
            "claim",
            payee,
            self.contract.claim(payee),
            lambda escrow: escrow.claim(payee, payee),
        )


OPERATIONS: list[Callable[[Pair], None]] = [
    Pair.deposit, Pair.deposit, Pair.deposit, Pair.exits, Pair.lock, Pair.lock, Pair.lock,
    Pair.lock, Pair.lower, Pair.release, Pair.expire, Pair.authorise, Pair.authorise, Pair.redeem,
    Pair.redeem, Pair.redeem, Pair.claim,
]  # fmt: skip


def _due(signed: Signed[Voucher], splits: tuple[Split, ...]) -> Due:
    return Due(
        tab=tab_id(tab_of_voucher(signed.statement)),
        voucher=signed,
        splits=splits,
        paid_micro=0,
        signer=signed.statement.payer,
        since_ms=0,
    )


@pytest.fixture
def pair() -> Iterator[Pair]:
    anvil = Anvil.start()
    try:
        chain = DevChain(anvil)
        made = chain.deploy(exit_delay_s=EXIT_DELAY_S, deposit_cap_micro=DEPOSIT_CAP_MICRO)
        owner = chain.web3.eth.accounts[0]
        token = chain.contract("TestToken", made.token).functions
        for call in (token.mint(owner, 10**12), token.approve(made.escrow, 10**12)):
            call.transact({"from": owner, "gas": GAS})
        for account in KEYS:
            chain.rpc("anvil_setBalance", chain.web3.to_checksum_address(account), hex(10**20))
            chain.rpc("anvil_impersonateAccount", chain.web3.to_checksum_address(account))
        chain.mine()
        now_s = chain.web3.eth.get_block("latest")["timestamp"]
        model = Escrow(time_s=now_s, exit_delay_s=EXIT_DELAY_S, deposit_cap_micro=DEPOSIT_CAP_MICRO)
        domain = Domain(chain.chain_id, bytes.fromhex(made.escrow[2:]))
        rpc = Rpc(anvil.url, chain_id=chain.chain_id)
        yield Pair(chain, model, domain, random.Random(30), rpc)
        rpc.close()
    finally:
        anvil.stop()


@pytest.mark.devnet
@pytest.mark.timeout(600)
def test_the_model_agrees_with_the_contract(pair: Pair) -> None:
    for _ in range(STEPS):
        pair.step()
        pair.compare()
    pair.compare_tokens()
    assert all(went for went, _ in pair.done.values()), pair.done
    assert sum(refused for _, refused in pair.done.values()) > STEPS // 10, pair.done
