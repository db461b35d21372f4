"""The chain's JSON-RPC as one node sees it: the production readers and senders work on it.

It may fail, be away, answer late, answer from behind the head, and take a transaction without
saying so.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from node.adapters.chain.abi import selector
from node.adapters.chain.endpoint import EndpointFailure
from node.adapters.chain.rpc import Call, Check, Rpc, RpcFault
from node.errors import Unavailable
from node.roles.transactions import Log
from tests.sim.chain import Block, Chain, Receipt, Tx
from tests.sim.escrow import Reverted, SignerRow

AWAY_S = 10.0
"""How long a caller tries while no endpoint answers."""
GAS_USED = 60_000


@dataclass(slots=True)
class RpcFaults:
    """What goes wrong; the schedule of faults sets it."""

    error_share: float = 0.0
    lag_blocks: int = 0
    latency_s: float = 0.01
    away: bool = False


class SimRpc(Rpc):
    """`adapters.chain.rpc.Rpc` without a network."""

    def __init__(
        self,
        chain: Chain,
        *,
        faults: RpcFaults,
        rng: random.Random,
        alive: Callable[[], bool],
        boundary: Callable[[str], None],
    ) -> None:
        """
        Args:
            chain: The blocks.
            faults: What goes wrong at this node; may change.
            rng: When it does.
            alive: Whether the node that asks still runs.
            boundary: Told before and after a transaction is handed over.
        """
        super().__init__("http://simulated", chain_id=chain.domain.chain_id)
        self._chain = chain
        self._faults = faults
        self._rng = rng
        self._alive = alive
        self._boundary = boundary

    async def batch(self, calls: Sequence[Call], *, check: Check | None = None) -> list[Any]:
        await self._travel()
        return self.batch_sync(calls, check=check)

    async def run_sync(self, work: Callable[[], Any]) -> Any:
        await self._travel()
        return work()

    def batch_sync(
        self, calls: Sequence[Call], *, check: Check | None = None, faults: bool = False
    ) -> list[Any]:
        self._reach()
        top = max(0, self._chain.head.number - self._rng.randint(0, self._faults.lag_blocks))
        results = [self._result(call, top, faults) for call in calls]
        if check is not None:
            try:
                check(results)
            except EndpointFailure as error:
                raise Unavailable(str(error)) from error
        return results

    def broadcast_sync(self, raw: bytes) -> list[Any]:
        self._reach()
        self._boundary("before broadcast")
        if not self._alive():
            raise Unavailable("this node is dead")
        answer = self._chain.send(raw)
        self._boundary("after broadcast")
        self._reach()  # it may be there, and the answer lost
        return [answer]

    async def _travel(self) -> None:
        await trio.sleep(self._faults.latency_s * self._rng.uniform(0.5, 1.5))
        if self._faults.away:
            await trio.sleep(AWAY_S)

    def _reach(self) -> None:
        away = self._faults.away or self._rng.random() < self._faults.error_share
        if away or not self._alive():
            raise Unavailable("no RPC answers", hint="see node status")

    def _result(self, call: Call, top: int, faults: bool) -> Any:
        try:
            return getattr(self, f"_{call.method}")(top, *call.params)
        except RpcFault as fault:
            if faults or fault.reverted:
                return fault
            raise Unavailable(str(fault)) from fault

    # The methods that the adapters use, by their names.

    def _eth_blockNumber(self, top: int) -> str:  # noqa: N802
        return hex(top)

    def _eth_getBlockByNumber(self, top: int, tag: str, _full: bool) -> Any:  # noqa: N802
        number = top if tag == "latest" else int(tag, 16)
        if number > top:
            return None
        at = self._chain.at(number)
        return {
            "number": hex(number),
            "timestamp": hex(at.escrow.time_s),
            "gasLimit": hex(30_000_000),
        }

    def _eth_call(self, top: int, call: dict[str, str], tag: str) -> str:
        data = bytes.fromhex(call["data"][2:])
        if data[:4] in READS:
            return "0x" + b"".join(self._read(data, self._block(top, tag))).hex()
        self._try(call, data, top)
        return "0x"

    def _eth_estimateGas(self, top: int, call: dict[str, str], _tag: str) -> str:  # noqa: N802
        self._try(call, bytes.fromhex(call["data"][2:]), top)
        return hex(GAS_USED)

    def _eth_getLogs(self, top: int, query: dict[str, Any]) -> list[Any]:  # noqa: N802
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        wanted = set(query["topics"][1])
        return [
            found
            for number in range(first, min(last, top) + 1)
            for log in self._chain.at(number).logs
            if (found := _log(log))["topics"][1] in wanted
        ]

    def _eth_getTransactionCount(self, top: int, account: str, tag: str) -> str:  # noqa: N802
        address = bytes.fromhex(account[2:])
        block = self._block(top, tag if tag.startswith("0x") else hex(top))
        count = block.nonces.get(address, 0)
        if tag == "pending":
            waiting = {t.nonce for t in self._chain.pool.values() if t.sender == address}
            while count in waiting:
                count += 1
        return hex(count)

    def _eth_getTransactionReceipt(self, top: int, tx_hash: str) -> Any:  # noqa: N802
        found = self._chain.mined.get(bytes.fromhex(tx_hash[2:]))
        return None if found is None or found.block > top else _receipt(found)

    def _eth_getBalance(self, _top: int, _account: str, _tag: str) -> str:  # noqa: N802
        return hex(10**21)

    def _eth_feeHistory(self, _top: int, *_params: Any) -> Any:  # noqa: N802
        return {"baseFeePerGas": [hex(self._chain.base_fee_wei)] * 6, "reward": [["0x1"]] * 5}

    def _eth_maxPriorityFeePerGas(self, _top: int) -> str:  # noqa: N802
        return hex(10**6)

    def _block(self, top: int, tag: str) -> Block:
        number = int(tag, 16)
        if number > top:
            raise RpcFault(-32000, "header not found")
        return self._chain.at(number)

    def _try(self, call: dict[str, str], data: bytes, top: int) -> None:
        escrow = self._chain.at(top).escrow.copy()
        _, apply = self._chain.call(bytes.fromhex(call["from"][2:]), data)
        try:
            apply(escrow)
        except Reverted as error:
            raise RpcFault(3, f"execution reverted: Escrow_{error}") from error

    def _read(self, data: bytes, block: Block) -> list[bytes]:
        escrow, words = block.escrow, [data[at : at + 32] for at in range(4, len(data), 32)]
        name, args = READS[data[:4]], [word[12:] for word in words]
        values: tuple[int, ...]
        match name:
            case "accounts":
                funds = escrow.of(args[0])
                values = (funds.free, funds.locked, funds.exit_ready_s)
            case "lockOf":
                lock = escrow.lock_of(args[0], args[1])
                values = (lock.amount, lock.nonce, lock.expiry_s)
            case "signers":
                row = escrow.signers.get((args[0], args[1]), SignerRow())
                values = (row.expiry_s, row.cap, row.spent)
            case "tabPaid":
                values = (escrow.paid.get(words[0], 0),)
            case _:
                values = (escrow.credits.get(args[0], 0),)
        return [value.to_bytes(32, "big") for value in values]


READS = {
    selector(signature): signature.partition("(")[0]
    for signature in (
        "accounts(address)",
        "lockOf(address,address)",
        "signers(address,address)",
        "tabPaid(bytes32)",
        "credits(address)",
    )
}


def _log(log: Log) -> dict[str, Any]:
    return {
        "address": "0x" + log.contract.hex(),
        "topics": ["0x" + topic.hex() for topic in log.topics],
        "data": "0x" + log.data.hex(),
    }


def _receipt(receipt: Receipt) -> dict[str, Any]:
    tx: Tx = receipt.tx
    return {
        "transactionHash": "0x" + tx.hash.hex(),
        "blockNumber": hex(receipt.block),
        "status": hex(int(receipt.ok)),
        "gasUsed": hex(GAS_USED),
        "effectiveGasPrice": hex(receipt.price_wei),
        "logs": [_log(log) for log in receipt.logs],
    }
