"""Redemption of vouchers that our own signing made, by the real contract."""

import time

import pytest
import trio

from node.adapters.chain.sender import Sender
from node.adapters.chain.settlement import EscrowSettlement
from node.adapters.chain.voucher_batch import gas_limit, in_order, pack
from node.errors import WalletError
from node.protocol.fields import Signed
from node.protocol.signing import address_of_key, sign
from node.protocol.statements import Lock, Split
from node.roles.redeemer import Redemption
from tests.adapters.chain.test_reader import as_owner
from tests.adapters.chain.world import FINALITY_BLOCKS, MemoryJournal, World, until

CURATOR, TREASURY = b"\x01" * 20, b"\x02" * 20
SPLITS = (Split(payee=CURATOR, bps=1_000), Split(payee=TREASURY, bps=250))


class Worker:
    """A funded selling account."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.key = world.key(coins=True)
        self.address = address_of_key(self.key)
        self.journal = MemoryJournal()
        self.sender: Sender = world.sender(self.key, self.journal)
        self.settlement: EscrowSettlement = world.settlement(self.sender)

    def credit(self, address: bytes | None = None) -> int:
        return int(self.world.call("Escrow", "credits", address or self.address))


@pytest.fixture
def worker(world: World) -> Worker:
    return Worker(world)


def lock(
    world: World, payer_key: bytes, payee: bytes, total: int, *, nonce: int, life_s: int = 10_000
) -> Signed[Lock]:
    statement = Lock(
        payer=address_of_key(payer_key),
        payee=payee,
        total=total,
        nonce=nonce,
        expiry=int(time.time()) + life_s,
    )
    return sign(statement, world.domain, payer_key)


async def test_many_vouchers_with_and_without_splits_in_one_transaction(
    world: World, worker: Worker
) -> None:
    payers = [world.key(deposit_micro=100_000) for _ in range(6)]
    other_model = b"\x77" * 32
    dues = [
        *(world.due(key, worker.address, 10_001, splits=SPLITS) for key in payers),
        world.due(payers[0], worker.address, 500),
        world.due(payers[1], worker.address, 70, model=other_model),
    ]
    (batch,) = await worker.settlement.batches(dues)
    async with world.blocks():
        redemption = await worker.settlement.redeem(batch)
    assert redemption.vouchers == 8
    assert redemption.amount_micro == 6 * 10_001 + 570
    assert redemption.skipped == ()
    assert len({log["transactionHash"] for log in world.redeem_logs(worker.address)}) == 1
    assert len(worker.journal.rows) == 1
    total = 6 * 10_001
    parts = total * 1_000 // 10_000, total * 250 // 10_000
    assert worker.credit() == total - sum(parts) + 570
    assert worker.credit(CURATOR) == parts[0]
    assert worker.credit(TREASURY) == parts[1]
    assert redemption.paid == {due.tab: due.voucher.statement.cumulative for due in dues}
    assert await world.reading(world.rpc).tabs_paid([due.tab for due in dues]) == tuple(
        due.voucher.statement.cumulative for due in dues
    )


async def test_a_bad_voucher_is_skipped_and_the_others_are_paid(
    world: World, worker: Worker
) -> None:
    good, poor, forged = (world.key(deposit_micro=n) for n in (1_000, 30, 1_000))
    penniless = world.key()
    bad = world.due(forged, worker.address, 400, signer_key=world.key())
    dues = [
        bad,
        world.due(good, worker.address, 400),
        world.due(poor, worker.address, 400),
        world.due(penniless, worker.address, 400),
    ]
    async with world.blocks():
        redemption = await worker.settlement.redeem(dues)
    assert redemption.paid == {dues[1].tab: 400, dues[2].tab: 30}
    assert {(skip.payer, skip.reason) for skip in redemption.skipped} == {
        (bad.payer, "bad signature"),
        (dues[3].payer, "the payer has no funds"),
    }
    assert worker.credit() == redemption.amount_micro == 430


async def test_the_gas_limit_holds_for_the_dearest_batch(world: World, worker: Worker) -> None:
    """New tabs, locks drawn in part, delegated signers, eight new beneficiaries."""
    splits = tuple(Split(payee=bytes([0x30 + n]) * 20, bps=600) for n in range(8))
    signer_key = world.key()
    escrow = world.chain.contract("Escrow", world.chain.contracts.escrow)
    dues = []
    for number in range(4):
        payer = world.key(deposit_micro=1_000, coins=True)
        end_s = int(time.time()) + 10_000
        as_owner(world, payer, escrow.functions.setSigner(address_of_key(signer_key), end_s, 900))
        signed = lock(world, payer, worker.address, 300, nonce=1)
        as_owner(
            world,
            payer,
            escrow.functions.submitLock(_fields(signed.statement), signed.signature),
        )
        dues.append(
            world.due(payer, worker.address, 700 + number, splits=splits, signer_key=signer_key)
        )
    async with world.blocks():
        redemption = await worker.settlement.redeem(dues)
    assert redemption.vouchers == 4
    assert redemption.gas_used < 0.8 * gas_limit(in_order(dues))
    print("gas used", redemption.gas_used, "of", gas_limit(in_order(dues)))


def _fields(each: Lock) -> tuple[bytes, bytes, int, int, int]:
    return each.payer, each.payee, each.total, each.nonce, each.expiry


async def test_more_than_a_block_takes_are_several_batches(world: World, worker: Worker) -> None:
    template = world.due(world.key(), worker.address, 5)
    dues = [template] * 450
    batches = await worker.settlement.batches(dues)
    assert sum(len(batch) for batch in batches) == 450
    assert all(gas_limit(in_order(batch)) <= 15_000_000 for batch in batches)
    assert len(batches) == 3
    assert await worker.settlement.batches([]) == ()


async def test_packing_is_what_the_contract_reads(world: World, worker: Worker) -> None:
    due = world.due(world.key(), worker.address, 0x0102, splits=SPLITS)
    packed = pack(in_order([due]))
    assert len(packed) == 55 + 2 * 22 + 132
    assert packed[52:55] == bytes([2, 0, 1])
    assert packed[55:77] == CURATOR + (1_000).to_bytes(2, "big")
    assert packed[99 + 20 : 99 + 36] == (0x0102).to_bytes(16, "big")


async def test_a_lock_is_submitted_and_a_stale_one_refused(world: World, worker: Worker) -> None:
    payer = world.key(deposit_micro=1_000)
    signed = lock(world, payer, worker.address, 600, nonce=1)
    async with world.blocks():
        await worker.settlement.submit_lock(signed)
    view = await world.reading(world.rpc).view(
        payer=address_of_key(payer), payee=worker.address, signer=address_of_key(payer)
    )
    assert (view.lock.amount_micro, view.account.free_micro) == (600, 400)
    with pytest.raises(WalletError, match="Escrow_NonceStale"):
        await worker.settlement.submit_lock(lock(world, payer, worker.address, 700, nonce=1))
    with pytest.raises(WalletError, match="Escrow_FreeFundsTooLow"):
        await worker.settlement.submit_lock(lock(world, payer, worker.address, 1_001, nonce=2))


async def test_a_credit_is_claimed_once(world: World, worker: Worker) -> None:
    home = b"\x0f" * 20
    assert await worker.settlement.claim(home) is None
    before = world.call("TestToken", "balanceOf", home)
    async with world.blocks():
        await worker.settlement.redeem([world.due(world.key(deposit_micro=90), worker.address, 80)])
        world.reader = world.reading(world.rpc)
        claimed = await world.settlement(worker.sender).claim(home)
    assert claimed is not None
    assert (claimed.to, claimed.amount_micro) == (home, 80)
    assert world.call("TestToken", "balanceOf", home) - before == 80
    assert worker.credit() == 0
    world.chain.mine(FINALITY_BLOCKS)
    assert await world.settlement(worker.sender).claim(home) is None


@pytest.mark.parametrize("blocks", [0, 1, FINALITY_BLOCKS + 2])
async def test_a_restart_in_the_middle_redeems_exactly_once(
    world: World, worker: Worker, blocks: int
) -> None:
    due = world.due(world.key(deposit_micro=1_000), worker.address, 700)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.settlement.redeem, [due])
        await until(lambda: bool(worker.journal.rows))
        nursery.cancel_scope.cancel()
    for _ in range(blocks):
        world.chain.mine()
    again = world.settlement(world.sender(worker.key, worker.journal))
    found: list[Redemption | None] = []
    async with world.blocks():
        found.append(await again.settle())
    assert found[0] is not None
    assert found[0].paid == {due.tab: 700}
    assert [log["args"]["amount"] for log in world.redeem_logs(worker.address)] == [700]
    assert worker.credit() == 700
    assert await again.settle() is None
