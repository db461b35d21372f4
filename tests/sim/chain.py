"""A chain with one contract: blocks, a pool of transactions, finality, reorganisations.

Transactions are real ones, signed by the production code and decoded here; what account owners do
by hand (deposit, exit) is an operation that waits in the pool like they do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import node.adapters.chain.sane_recursion  # noqa: F401  # before what it is about

# isort: split
import rlp  # type: ignore[import-untyped]
from eth_account import Account

from node.adapters.chain.abi import selector
from node.adapters.chain.rpc import RpcFault
from node.errors import SignatureError
from node.protocol import signing
from node.protocol.fields import Address, Hash, Signed
from node.protocol.signing import Domain, keccak256
from node.protocol.statements import Lock, Split, Voucher
from node.protocol.tabs import splits_hash, unpack_splits
from node.roles.transactions import Log
from tests.sim.escrow import Escrow, Event, Reverted
from tests.sim.trace import Trace

GWEI: Final = 10**9
WORD: Final = 32
SHAPES: Final = {
    "Deposited": ("Deposited(address,address,uint256)", 2),
    "ExitRequested": ("ExitRequested(address,uint64)", 1),
    "ExitCancelled": ("ExitCancelled(address)", 1),
    "ExitCompleted": ("ExitCompleted(address,address,uint256,uint32)", 2),
    "LockUpdated": ("LockUpdated(address,address,uint128,uint64,uint64)", 2),
    "SignerSet": ("SignerSet(address,address,uint64,uint128)", 2),
    "SignerThawed": ("SignerThawed(address,address,uint64)", 2),
    "SignerSpent": ("SignerSpent(address,address,uint128,uint128)", 2),
    "VoucherRedeemed": (
        "VoucherRedeemed(address,address,bytes32,uint128,uint128,uint128,bytes32)",
        3,
    ),
    "VoucherSkipped": ("VoucherSkipped(address,address,uint256,uint8)", 2),
    "Credited": ("Credited(address,address,uint256)", 2),
    "Claimed": ("Claimed(address,address,uint256)", 2),
}
"""Signature and number of indexed arguments, which come first."""
Apply = Callable[[Escrow], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tx:
    """A transaction that waits, or is in a block."""

    hash: Hash
    sender: Address
    nonce: int
    """-1: of an owner, who has no nonces here."""
    fee_max_wei: int
    tip_wei: int
    name: str
    apply: Apply


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a transaction."""

    tx: Tx
    block: int
    ok: bool
    logs: tuple[Log, ...]
    price_wei: int


@dataclass(slots=True, kw_only=True)
class Block:
    """State after it, and what is in it."""

    number: int
    escrow: Escrow
    nonces: dict[Address, int]
    receipts: tuple[Receipt, ...] = ()

    @property
    def logs(self) -> tuple[Log, ...]:
        return tuple(log for receipt in self.receipts for log in receipt.logs)


@dataclass(slots=True)
class Chain:
    """The canonical chain and its pool."""

    domain: Domain
    trace: Trace
    time_s: int
    """Unix time of the first block."""
    base_fee_wei: int = GWEI
    blocks: list[Block] = field(default_factory=list)
    pool: dict[Hash, Tx] = field(default_factory=dict)
    mined: dict[Hash, Receipt] = field(default_factory=dict)
    changed: list[Callable[[], None]] = field(default_factory=list)
    """Called after every change of the head."""
    _owners: int = 0

    def __post_init__(self) -> None:
        self.blocks.append(Block(number=0, escrow=Escrow(time_s=self.time_s), nonces={}))

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def at(self, number: int) -> Block:
        """A block that is there."""
        return self.blocks[number]

    # -------------------------------------------------------------------------- into the pool

    def do(self, name: str, apply: Apply) -> None:
        """An owner's own transaction: into the pool."""
        self._owners += 1
        tx_hash = keccak256(f"owner {self._owners}".encode())
        tx = Tx(
            hash=tx_hash,
            sender=b"\0" * 20,
            nonce=-1,
            fee_max_wei=10**18,
            tip_wei=0,
            name=name,
            apply=apply,
        )
        self.pool[tx_hash] = tx

    def send(self, raw: bytes) -> str | RpcFault:
        """What `eth_sendRawTransaction` answers."""
        tx = self.decode(raw)
        if tx.hash in self.pool or tx.hash in self.mined:
            return RpcFault(-32000, "already known")
        if tx.nonce < self.head.nonces.get(tx.sender, 0):
            return RpcFault(-32000, "nonce too low")
        rival = next(
            (t for t in self.pool.values() if (t.sender, t.nonce) == (tx.sender, tx.nonce)), None
        )
        if rival is not None:
            if tx.fee_max_wei * 10 < rival.fee_max_wei * 11:
                return RpcFault(-32000, "replacement transaction underpriced")
            del self.pool[rival.hash]
        self.pool[tx.hash] = tx
        self.trace.note("chain", "pool", f"{tx.name} nonce {tx.nonce}", tx.hash)
        return "0x" + tx.hash.hex()

    def decode(self, raw: bytes) -> Tx:
        """A signed transaction."""
        assert raw[0] == 2, "an EIP-1559 transaction"
        fields = rlp.decode(raw[1:])
        sender = bytes.fromhex(Account.recover_transaction(raw)[2:])
        name, apply = self.call(sender, fields[7])
        return Tx(
            hash=keccak256(raw),
            sender=sender,
            nonce=int.from_bytes(fields[1], "big"),
            tip_wei=int.from_bytes(fields[2], "big"),
            fee_max_wei=int.from_bytes(fields[3], "big"),
            name=name,
            apply=apply,
        )

    def call(self, sender: Address, data: bytes) -> tuple[str, Apply]:
        """What calldata of the escrow does."""
        head, args = data[:4], data[4:]
        if head == selector("redeem(bytes)"):
            size = _int(args[WORD : 2 * WORD])
            batch = args[2 * WORD : 2 * WORD + size]
            return "redeem", lambda escrow: self._redeem(escrow, sender, batch)
        if head == selector("submitLock((address,address,uint128,uint64,uint64),bytes)"):
            words = [args[at : at + WORD] for at in range(0, 5 * WORD, WORD)]
            lock = Lock(
                payer=words[0][12:],
                payee=words[1][12:],
                total=_int(words[2]),
                nonce=_int(words[3]),
                expiry=_int(words[4]),
            )
            signer = self._signer(lock, args[7 * WORD : 9 * WORD])
            return "lock", lambda escrow: escrow.submit_lock(lock, signer=signer, caller=sender)
        if head == selector("claim(address)"):
            to = args[12:WORD]
            return "claim", lambda escrow: _drop(escrow.claim(sender, to))
        raise AssertionError(f"no such call here: {data[:4].hex()}")

    # ------------------------------------------------------------------------------- blocks

    def mine(self, *, seconds: int = 1) -> None:
        """A block with all that can be in it, the better paid first."""
        escrow, nonces = self.head.escrow.copy(), dict(self.head.nonces)
        escrow.time_s += seconds
        number = self.head.number + 1
        receipts = []
        for tx in sorted(self.pool.values(), key=lambda tx: tx.nonce):
            price_wei = min(tx.fee_max_wei, self.base_fee_wei + tx.tip_wei)
            if tx.fee_max_wei < self.base_fee_wei:
                continue
            if tx.nonce >= 0 and tx.nonce != nonces.get(tx.sender, 0):
                continue
            del self.pool[tx.hash]
            if tx.nonce >= 0:
                nonces[tx.sender] = tx.nonce + 1
            ok, escrow = _applied(escrow, tx.apply)
            logs = tuple(log_of(self.domain.escrow, event) for event in escrow.events)
            escrow.events.clear()
            receipt = Receipt(tx=tx, block=number, ok=ok, logs=logs, price_wei=price_wei)
            receipts.append(receipt)
            self.mined[tx.hash] = receipt
            self.trace.note("chain", "mined", f"{tx.name} {'ok' if ok else 'reverted'} in {number}")
        block = Block(number=number, escrow=escrow, nonces=nonces, receipts=tuple(receipts))
        self.blocks.append(block)
        if receipts:
            self._tell()

    def reorg(self, depth: int, *, vanish: Callable[[Tx], bool]) -> None:
        """Throw the newest blocks away, and put as many others in their place.

        Args:
            depth: How many.
            vanish: Whether a transaction is forgotten; else it waits in the pool again.
        """
        depth = min(depth, len(self.blocks) - 1)
        gone, self.blocks = self.blocks[-depth:], self.blocks[:-depth]
        self.trace.note("chain", "reorg", f"{depth} blocks from {gone[0].number}")
        for block in gone:
            for receipt in block.receipts:
                del self.mined[receipt.tx.hash]
                if receipt.tx.nonce < 0 or not vanish(receipt.tx):
                    self.pool[receipt.tx.hash] = receipt.tx
        waiting, self.pool = self.pool, {}
        for index, block in enumerate(gone):
            if index == depth - 1:
                self.pool = waiting
            self.mine(seconds=block.escrow.time_s - self.head.escrow.time_s)
        self._tell()

    def _tell(self) -> None:
        for listener in self.changed:
            listener()

    # ------------------------------------------------------------------------------ internals

    def _signer(self, statement: Voucher | Lock, signature: bytes) -> Address | None:
        try:
            return signing.recover(Signed(statement, signature), self.domain)
        except SignatureError:
            return None

    def _redeem(self, escrow: Escrow, sender: Address, batch: bytes) -> None:
        offset = index = 0
        while offset < len(batch):
            payee, model = batch[offset : offset + 20], batch[offset + 20 : offset + 52]
            split_count = batch[offset + 52]
            records = _int(batch[offset + 53 : offset + 55])
            offset += 55
            splits: tuple[Split, ...] = unpack_splits(batch[offset : offset + 22 * split_count])
            offset += 22 * split_count
            vouchers = []
            for _ in range(records):
                record = batch[offset : offset + 132]
                offset += 132
                voucher = Voucher(
                    payer=record[:20],
                    payee=payee,
                    model=model,
                    splits=splits_hash(splits),
                    cumulative=_int(record[20:36]),
                    receipts=record[36:68],
                )
                vouchers.append((voucher, self._signer(voucher, record[68:])))
            escrow.redeem(sender, vouchers, splits=splits, index=index)
            index += records


def log_of(contract: Address, event: Event) -> Log:
    """An event as the contract logs it."""
    signature, indexed = SHAPES[event.name]
    words = [_word(arg) for arg in event.args]
    return Log(
        contract=contract,
        topics=(keccak256(signature.encode()), *words[:indexed]),
        data=b"".join(words[indexed:]),
    )


def _applied(escrow: Escrow, apply: Apply) -> tuple[bool, Escrow]:
    """The state after a transaction; of one that reverts nothing stays."""
    tried = escrow.copy()
    try:
        apply(tried)
    except Reverted:
        return False, escrow
    return True, tried


def _word(arg: bytes | int) -> bytes:
    return arg.to_bytes(WORD, "big") if isinstance(arg, int) else arg.rjust(WORD, b"\0")


def _int(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _drop(_amount: int) -> None:
    return
