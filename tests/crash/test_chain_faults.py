"""A chain and an RPC that do what they like: each voucher is redeemed exactly once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from node.adapters.chain import sender as sender_module
from node.app.redeem import open_till
from node.roles.transactions import TxState
from tests.adapters.chain.world import FINALITY_BLOCKS, World, until
from tests.app.test_redeem import Seller
from tests.crash.storm import storm

STEPS = ("saved", "sent", "mined", *(f"{depth} deep" for depth in range(1, FINALITY_BLOCKS)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "POLL_S", (0.02, 0.1))
    monkeypatch.setattr(sender_module, "RESEND_S", 0.5)


@pytest.fixture
def same_chain(world: World) -> Iterator[World]:
    """Fees and blocks of a storm are not the next test's."""
    snapshot = world.chain.rpc("evm_snapshot")
    yield world
    world.chain.rpc("evm_revert", snapshot)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm(same_chain: World, tmp_path: Path, seed: int) -> None:
    done = await storm(same_chain, tmp_path, seed=seed, rounds=3)
    assert done.wrong == ()
    assert done.redeemed_micro == done.vouchered_micro > 0


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_reorg_at_each_step_of_a_redemption(
    same_chain: World, tmp_path: Path, step: str, forgotten: bool
) -> None:
    """The blocks go; the transaction is in the nodes' pools again, or nobody knows it any more."""
    world, chain = same_chain, same_chain.chain
    seller, payer = Seller(world, tmp_path), world.key(deposit_micro=1_000)
    async with seller.stores() as stores:
        async with open_till(seller.config, seller.key, stores) as till:
            await seller.sell(till.payee, payer, 300)

        async def reorg() -> None:
            await until(lambda: pending(world, seller) == 1)
            mined = STEPS.index(step) - 1
            if mined > 0:
                raw = raw_pending(world, seller)
                chain.mine(mined)
                await trio.sleep(0.2)  # it sees that
                chain.rpc("anvil_reorg", mined, [])
                if not forgotten and not pending(world, seller):
                    chain.rpc("eth_sendRawTransaction", raw)
            if forgotten:
                chain.rpc("anvil_dropAllTransactions")
            async with world.blocks(0.03):
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reorg)
            with trio.fail_after(60):
                report = await seller.redeem(stores)
            nursery.cancel_scope.cancel()
        (row,) = await stores.chain.transactions(count_max=10)
    assert report.left_micro == 0
    assert row.state is TxState.FINAL
    assert [log["args"]["amount"] for log in world.redeem_logs(seller.address)] == [300]


def pending(world: World, seller: Seller) -> int:
    found = world.chain.rpc("txpool_content")["pending"]
    return len(found.get("0x" + seller.address.hex(), {}))


def raw_pending(world: World, seller: Seller) -> str:
    found = world.chain.rpc("txpool_content")["pending"]["0x" + seller.address.hex()]
    (transaction,) = found.values()
    raw: str = world.chain.rpc("eth_getRawTransactionByHash", transaction["hash"])
    return raw
