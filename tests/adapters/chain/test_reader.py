import json
import time
from typing import Any

import pytest

from node.adapters.chain.reader import FAR_FUTURE_S, EscrowReader
from node.errors import Unavailable
from node.protocol.signing import address_of_key
from node.units import MICRO_MAX
from tests.adapters.chain.proxy import faulty, forward
from tests.adapters.chain.world import FINALITY_BLOCKS, World

PAYEE = b"payee".ljust(20, b".")


def fresh(world: World) -> EscrowReader:
    """A reader that has no head in memory yet."""
    return world.reading(world.rpc)


def as_owner(world: World, key: bytes, call: Any) -> None:
    """Send a contract call from an account of the test, without its key."""
    sender = world.chain.web3.to_checksum_address(address_of_key(key))
    world.chain.rpc("anvil_impersonateAccount", sender)
    fee = 10**10
    sent = call.transact(
        {"from": sender, "gas": 300_000, "maxFeePerGas": fee, "maxPriorityFeePerGas": fee}
    )
    world.chain.mine()
    assert world.chain.web3.eth.get_transaction_receipt(sent)["status"] == 1


async def test_a_deposit_counts_at_the_finality_depth_and_not_before(world: World) -> None:
    key = world.key()
    payer = address_of_key(key)
    world.key(deposit_micro=7)  # somebody else's
    escrow = world.chain.contract("Escrow", world.chain.contracts.escrow)
    token = world.chain.contract("TestToken", world.chain.contracts.token)
    owner = world.chain.web3.eth.accounts[0]
    fee = {"from": owner, "gas": 300_000, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**10}
    token.functions.mint(owner, 500).transact(fee)
    token.functions.approve(world.chain.contracts.escrow, 500).transact(fee)
    escrow.functions.deposit(payer, 500).transact(fee)
    world.chain.mine()
    for _ in range(FINALITY_BLOCKS):
        view = await fresh(world).view(payer=payer, payee=PAYEE, signer=payer)
        assert view.account.free_micro == 0
        world.chain.mine()
    view = await fresh(world).view(payer=payer, payee=PAYEE, signer=payer)
    assert view.account.free_micro == 500
    assert view.block == world.chain.web3.eth.block_number - FINALITY_BLOCKS
    assert abs(view.block_time_s - time.time()) < 3600
    assert (view.signer_expiry_s, view.signer_left_micro) == (FAR_FUTURE_S, MICRO_MAX)


async def test_exit_lock_and_signer_are_read(world: World) -> None:
    key, signer_key = world.key(deposit_micro=10_000, coins=True), world.key()
    payer, signer = address_of_key(key), address_of_key(signer_key)
    escrow = world.chain.contract("Escrow", world.chain.contracts.escrow)
    expiry_s = int(time.time()) + 10_000
    before = await fresh(world).view(payer=payer, payee=PAYEE, signer=signer)
    assert (before.signer_expiry_s, before.signer_left_micro) == (0, 0)
    as_owner(world, key, escrow.functions.setSigner(signer, expiry_s, 4_000))
    as_owner(world, key, escrow.functions.requestExit())
    world.chain.mine(FINALITY_BLOCKS)
    view = await fresh(world).view(payer=payer, payee=PAYEE, signer=signer)
    assert (view.signer_expiry_s, view.signer_left_micro) == (expiry_s, 4_000)
    assert view.account.exit_ready_s == world.call("Escrow", "accounts", payer)[2] > 0
    assert view.lock.amount_micro == 0


async def test_all_of_a_view_is_of_one_block(world: World) -> None:
    blocks: set[str] = set()

    def watch(_number: int, calls: list[dict[str, Any]]) -> None:
        blocks.update(call["params"][1] for call in calls if call["method"] == "eth_call")
        blocks.update(c["params"][0] for c in calls if c["method"] == "eth_getBlockByNumber")

    payer = address_of_key(world.key(deposit_micro=5))
    with faulty(world.chain.anvil.port, watch) as url:
        rpc = world.connect(url)
        view = await world.reading(rpc).view(payer=payer, payee=PAYEE, signer=payer)
        rpc.close()
    assert blocks == {hex(view.block)}


async def test_tabs_that_nobody_paid_are_zero(world: World) -> None:
    assert await fresh(world).tabs_paid(()) == ()
    assert await fresh(world).tabs_paid([bytes([n]) * 32 for n in range(150)]) == (0,) * 150


async def test_an_address_without_the_contract_is_noticed(world: World) -> None:
    reader = EscrowReader(world.rpc, escrow=b"\x11" * 20, finality_blocks=1)
    with pytest.raises(Unavailable, match="no such contract"):
        await reader.view(payer=PAYEE, payee=PAYEE, signer=PAYEE)


async def test_an_rpc_that_lags_is_not_asked_further(world: World) -> None:
    def lag(_number: int, calls: list[dict[str, Any]]) -> bytes | None:
        answers = json.loads(forward(world.chain.anvil.port, json.dumps(calls).encode()))
        for call, answer in zip(calls, answers, strict=True):
            if call["method"] == "eth_getBlockByNumber":
                answer["result"] = None
        return json.dumps(answers).encode()

    payer = address_of_key(world.key(deposit_micro=9))
    with faulty(world.chain.anvil.port, lag) as url:
        rpc = world.connect(f"{url},{world.chain.anvil.url}")
        view = await world.reading(rpc).view(payer=payer, payee=PAYEE, signer=payer)
        assert view.account.free_micro == 9
        alone = world.connect(url)
        with pytest.raises(Unavailable, match="does not have block"):
            await world.reading(alone).view(payer=payer, payee=PAYEE, signer=payer)
        rpc.close()
        alone.close()
