"""Redemptions through an RPC that fails, lies and lags, on a chain that reorganises and gets dear.

Everything of ours is the real thing: payee, redeemer, settlement, sender, journal and store on
disk, on a real Anvil behind a proxy.  Whatever comes, each voucher is redeemed once, to the unit.
"""

import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from node.adapters.chain.fees import GWEI
from node.adapters.store import open_stores
from node.app.redeem import open_till
from node.errors import Unavailable, WalletError
from node.protocol.signing import checksum
from node.roles.stores import Stores
from node.roles.transactions import TxState
from tests.adapters.chain.proxy import faulty, forward
from tests.adapters.chain.world import FINALITY_BLOCKS, World
from tests.app.test_redeem import Seller

ERRORS = 0.3
"""Share of the RPC's answers that are none, or not true."""
FAULTS = ("overloaded", "cut", "garbage", "object", "short", "wrong ids", "stale", "lost", "slow")
SLOW_S = 0.3
LAG_BLOCKS = 3
ROUND_S = 90.0
BLOCK_S = 0.03
DEAR = 10
"""Times the usual base fee."""


class LyingRpc:
    """What a proxy answers instead of the chain; which fault comes when is drawn from a seed."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._rng = random.Random(seed)
        self.counts: dict[str, int] = dict.fromkeys(FAULTS, 0)

    def __call__(self, _number: int, calls: list[dict[str, Any]]) -> bytes | None:
        if self._rng.random() >= ERRORS:
            return None
        kind = self._rng.choice(FAULTS)
        self.counts[kind] += 1
        match kind:
            case "overloaded":
                return b"overloaded"
            case "cut":
                return b""
            case "garbage":
                return b"[not json"
            case "object":
                return b"{}"
            case "slow":
                time.sleep(SLOW_S)
                return None
        answer = forward(self._port, json.dumps(calls).encode())
        if kind == "lost":
            return b""  # it did what it was asked, and nobody hears of it
        results = json.loads(answer)
        if kind == "short":
            results = results[:-1]
        elif kind == "wrong ids":
            results = [each | {"id": each["id"] + 1} for each in results]
        else:
            results = [_stale(each, calls) for each in results]
        return json.dumps(results).encode()


def _stale(answer: dict[str, Any], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """As a node says it that has not seen the last blocks."""
    (call,) = [each for each in calls if each["id"] == answer["id"]]
    match call["method"], answer.get("result"):
        case "eth_blockNumber", str(number):
            return answer | {"result": hex(max(0, int(number, 16) - LAG_BLOCKS))}
        case "eth_getTransactionCount", str(count):
            return answer | {"result": hex(max(0, int(count, 16) - 1))}
        case "eth_getTransactionReceipt", _:
            return answer | {"result": None}
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What a storm came to."""

    vouchered_micro: int
    redeemed_micro: int
    payments: int
    """Events of the escrow that paid something."""
    transactions: int
    reorgs: int
    crashes: int
    faults: dict[str, int]
    wrong: tuple[str, ...]


async def storm(world: World, path: Path, *, seed: int, rounds: int) -> Storm:
    """Sell and redeem so often; crash in between, at any moment."""
    rng, seller = random.Random(seed), Seller(world, path)
    payers = [world.key(deposit_micro=10_000) for _ in range(2)]
    lying, weather = LyingRpc(world.chain.anvil.port, seed), Weather(world, rng)
    crashes = 0
    with faulty(world.chain.anvil.port, lying) as url:
        honest = seller.config
        sick = replace(honest, chain=replace(honest.chain, rpc_url=url))
        for _ in range(rounds):
            async with (
                weather.fair(),
                seller.stores() as stores,
                open_till(honest, seller.key, stores) as till,
            ):
                for payer in rng.sample(payers, rng.choice((1, 2))):
                    await seller.sell(till.payee, payer, rng.randint(1, 200))
            async with weather.foul():
                seller.config = sick
                crashes += await _redeem(seller, rng)
                seller.config = honest
        world.chain.mine(FINALITY_BLOCKS + 1)
    return await _figures(world, seller, weather, lying, crashes)


async def _redeem(seller: Seller, rng: random.Random) -> int:
    """Until nothing is owed any more; returns how often the process died on the way."""
    crashes = 0
    with trio.fail_after(ROUND_S):
        while True:
            life_s = rng.choice((0.05, 0.2, 0.5, 1.0, 60.0))
            with trio.move_on_after(life_s) as life:
                async with seller.stores() as stores:
                    if await _nothing_left(seller, stores):
                        return crashes
            crashes += life.cancelled_caught


async def _nothing_left(seller: Seller, stores: Stores) -> bool:
    """One `node redeem`; that the chain is away is no more than that."""
    try:
        return not (await seller.redeem(stores)).left_micro
    except (Unavailable, WalletError):
        return False
    except BaseExceptionGroup as group:  # from inside of the till's nursery
        _, other = group.split((Unavailable, WalletError))
        if other is not None:
            raise other from None
        return False


class Weather:
    """Blocks, as they come."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.reorgs = 0

    @asynccontextmanager
    async def fair(self) -> AsyncIterator[None]:
        """One block after the other."""
        async with self._world.blocks(BLOCK_S):
            yield

    @asynccontextmanager
    async def foul(self) -> AsyncIterator[None]:
        """Reorganisations above finality, pauses, and base fees that jump."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._blow)
            yield
            nursery.cancel_scope.cancel()

    async def _blow(self) -> None:
        chain = self._world.chain
        while True:
            await trio.to_thread.run_sync(chain.mine)
            match self._rng.randrange(12):
                case 0:
                    depth = self._rng.randint(1, FINALITY_BLOCKS)
                    await trio.to_thread.run_sync(chain.rpc, "anvil_reorg", depth, [])
                    if self._rng.random() < 0.5:
                        await trio.to_thread.run_sync(chain.rpc, "anvil_dropAllTransactions")
                    self.reorgs += 1
                case 1:
                    fee = hex(DEAR * GWEI * self._rng.randint(1, 3))
                    await trio.to_thread.run_sync(chain.rpc, "anvil_setNextBlockBaseFeePerGas", fee)
                case 2:
                    await trio.sleep(0.3)
            await trio.sleep(BLOCK_S)


async def _figures(
    world: World, seller: Seller, weather: Weather, lying: LyingRpc, crashes: int
) -> Storm:
    logs = world.redeem_logs(seller.address)
    paid = [int(log["args"]["amount"]) for log in logs]
    owed = sum(seller.cumulative.values())
    async with open_stores(seller.path / "node.sqlite", domain=world.domain) as stores:
        rows = await stores.chain.transactions(count_max=10_000)
    wrong = []
    if sum(paid) != owed:
        wrong.append(f"{owed} micro vouchered, {sum(paid)} paid")
    if 0 in paid:
        wrong.append("a payment of nothing")
    count = world.chain.web3.eth.get_transaction_count(checksum(seller.address))  # type: ignore[arg-type]
    if sorted(row.nonce for row in rows) != list(range(count)):
        wrong.append(f"{count} transactions on chain, nonces in the journal: {len(rows)}")
    for row in rows:
        hashes = {attempt.hash for attempt in row.attempts}
        if row.state is not TxState.FINAL:
            wrong.append(f"nonce {row.nonce} ended as {row.state}")
        elif not any(_mined(world, tx_hash, row.block) for tx_hash in hashes):
            wrong.append(f"nonce {row.nonce} is not in block {row.block}")
    if {bytes(log["transactionHash"]) for log in logs} - {a.hash for r in rows for a in r.attempts}:
        wrong.append("a payment by a transaction that the journal does not know")
    return Storm(
        vouchered_micro=owed,
        redeemed_micro=sum(paid),
        payments=len(paid),
        transactions=len(rows),
        reorgs=weather.reorgs,
        crashes=crashes,
        faults=lying.counts,
        wrong=tuple(wrong),
    )


def _mined(world: World, tx_hash: bytes, block: int) -> bool:
    receipt: Any = world.chain.web3.provider.make_request(
        "eth_getTransactionReceipt",  # type: ignore[arg-type]
        ["0x" + tx_hash.hex()],
    ).get("result")
    return receipt is not None and int(receipt["blockNumber"], 16) == block
