"""The redeemer over the real contract: everything owed arrives, once, in as few transactions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from devnet.chain import Funding
from node.adapters.chain import follower
from node.adapters.chain.follower import CachedChain
from node.adapters.chain.rpc import Rpc
from node.config import ChainConfig, WorkerConfig
from node.errors import Unavailable
from node.protocol.fields import Address, Hash, Signed
from node.protocol.signing import address_of_key
from node.protocol.statements import Lock
from node.roles import redeemer as redeemer_module
from node.roles import redemption as redemption_module
from node.roles.redeemer import Redeemer
from node.roles.redemption import Due
from tests.adapters.chain.proxy import every, faulty
from tests.adapters.chain.test_reader import as_owner
from tests.adapters.chain.test_settlement import lock
from tests.adapters.chain.world import FINALITY_BLOCKS, MemoryJournal, World, until


class Vouchers:
    """`Claims` in memory: what a payee was given, and what it knows to be paid."""

    def __init__(self) -> None:
        self.dues: dict[Hash, Due] = {}
        self.locks: list[Signed[Lock]] = []

    def give(self, due: Due) -> Due:
        """A voucher arrives; a later one of its tab replaces it."""
        known = self.dues.get(due.tab)
        self.dues[due.tab] = replace(due, paid_micro=known.paid_micro if known else 0)
        return due

    def vouchers_to_redeem(self) -> Sequence[Due]:
        return tuple(due for due in self.dues.values() if due.owed_micro)

    async def redeemed(self, paid: Mapping[Hash, int]) -> None:
        for tab, micro in paid.items():
            due = self.dues[tab]
            self.dues[tab] = replace(due, paid_micro=max(due.paid_micro, micro))

    def locks_to_submit(self) -> Sequence[Signed[Lock]]:
        return tuple(self.locks)

    async def drop_lock(self, *, payer: Address, nonce: int) -> None:
        self.locks = [s for s in self.locks if s.statement.payer != payer]


class Worker:
    """A selling account whose processes come and go."""

    def __init__(self, world: World, *, coins: bool = True) -> None:
        self.world = world
        self.key = world.key(coins=coins)
        self.address = address_of_key(self.key)
        self.journal = MemoryJournal()
        self.vouchers = Vouchers()

    def redeemer(self, rpc: Rpc | None = None, **settings: Any) -> Redeemer:
        """As a new process has it."""
        world, rpc = self.world, rpc or self.world.rpc
        reader = world.reading(rpc)
        sender = world.sender(self.key, self.journal, rpc=rpc)
        return Redeemer(
            claims=self.vouchers,
            chain=CachedChain(rpc, reader, escrow=world.escrow, clock=world.clock),
            settlement=world.settlement(sender, rpc=rpc),
            clock=world.clock,
            chain_config=ChainConfig(**settings),
            worker_config=WorkerConfig(credit_micro=1_000, credit_new_micro=10_000),
        )

    @property
    def payments(self) -> list[int]:
        """Every amount that the escrow ever paid this worker."""
        return sorted(log["args"]["amount"] for log in self.world.redeem_logs(self.address))


@pytest.fixture
def worker(world: World, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(redeemer_module, "PASS_S", 0.05)
    monkeypatch.setattr(follower, "FRESH_S", 0.2)  # nothing follows the chain here
    return Worker(world)


async def test_redeem_now_takes_everything_in_one_transaction(world: World, worker: Worker) -> None:
    for number in range(5):
        payer = world.key(deposit_micro=1_000)
        worker.vouchers.give(world.due(payer, worker.address, 100 + number))
    poor = worker.vouchers.give(world.due(world.key(deposit_micro=30), worker.address, 100))
    worker.vouchers.give(world.due(world.key(), worker.address, 77))
    redeemer = worker.redeemer()
    async with world.blocks():
        report = await redeemer.redeem_now()
        again = await redeemer.redeem_now()
    assert len(report.transactions) == 1
    assert report.amount_micro == 510 + 30
    assert report.left_micro == 70 + 77
    assert report.transactions[0].skipped == ()
    assert worker.payments == [30, 100, 101, 102, 103, 104]
    assert worker.vouchers.dues[poor.tab].paid_micro == 30
    assert (again.transactions, again.why) == ((), "")
    status = redeemer.status()
    assert (status.owed_micro, status.tabs) == (147, 2)
    assert (status.redeemed_micro, status.transactions) == (540, 1)
    assert status.problem == ""


async def test_redeem_now_can_pay_the_credit_out(world: World, worker: Worker) -> None:
    worker.vouchers.give(world.due(world.key(deposit_micro=90), worker.address, 80))
    async with world.blocks():
        report = await worker.redeemer().redeem_now(claim_to=worker.address)
    assert report.claimed is not None
    assert report.claimed.amount_micro == 80
    assert world.call("TestToken", "balanceOf", worker.address) == 80


async def test_a_higher_voucher_of_the_same_tab_brings_the_difference(
    world: World, worker: Worker
) -> None:
    payer = world.key(deposit_micro=1_000)
    redeemer = worker.redeemer()
    async with world.blocks():
        for cumulative in (100, 350, 351):
            worker.vouchers.give(world.due(payer, worker.address, cumulative))
            report = await redeemer.redeem_now()
            assert report.left_micro == 0
    assert worker.payments == [1, 100, 250]


async def test_a_leaving_payer_is_redeemed_by_itself(world: World, worker: Worker) -> None:
    payer = world.key(deposit_micro=1_000, coins=True)
    worker.vouchers.give(world.due(payer, worker.address, 40))
    redeemer = worker.redeemer()
    async with world.blocks(), trio.open_nursery() as nursery:
        await nursery.start(redeemer.run)
        await trio.sleep(0.5)
        assert not worker.journal.rows, "neither old, nor much, nor urgent"
        escrow = world.chain.contract("Escrow", world.chain.contracts.escrow)
        as_owner(world, payer, escrow.functions.requestExit())
        await until(lambda: redeemer.status().redeemed_micro == 40, within_s=15)
        nursery.cancel_scope.cancel()
    assert worker.payments == [40]


async def test_half_of_the_credit_is_redeemed_by_itself(world: World, worker: Worker) -> None:
    payer = world.key(deposit_micro=1_000)
    worker.vouchers.give(world.due(payer, worker.address, 500))
    redeemer = worker.redeemer()
    async with world.blocks(), trio.open_nursery() as nursery:
        await nursery.start(redeemer.run)
        await until(lambda: redeemer.status().redeemed_micro == 500)
        nursery.cancel_scope.cancel()
    assert worker.payments == [500]


async def test_no_gas_is_spent_twice_on_what_the_escrow_skips(
    world: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redemption_module, "GAP_S", 0)
    payer = world.key(deposit_micro=5_000)
    forged = world.due(payer, worker.address, 900, signer_key=world.key())
    worker.vouchers.give(replace(forged, signer=forged.payer))
    redeemer = worker.redeemer()
    async with world.blocks(), trio.open_nursery() as nursery:
        await nursery.start(redeemer.run)
        await until(lambda: redeemer.status().transactions == 1)
        await trio.sleep(1)
        assert redeemer.status().transactions == 1
        worker.vouchers.give(world.due(payer, worker.address, 950))
        await until(lambda: redeemer.status().redeemed_micro == 950)
        nursery.cancel_scope.cancel()
    assert len(worker.journal.rows) == 2


@pytest.mark.parametrize("blocks", [0, 1, FINALITY_BLOCKS + 2])
async def test_a_crash_in_the_middle_redeems_once_and_is_recorded(
    world: World, worker: Worker, blocks: int
) -> None:
    due = worker.vouchers.give(world.due(world.key(deposit_micro=1_000), worker.address, 700))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.redeemer().redeem_now)
        await until(lambda: bool(worker.journal.rows))
        nursery.cancel_scope.cancel()
    for _ in range(blocks):
        world.chain.mine()
    assert worker.vouchers.dues[due.tab].paid_micro == 0
    async with world.blocks():
        report = await worker.redeemer().redeem_now()
    assert report.transactions == ()
    assert report.left_micro == 0
    assert worker.vouchers.dues[due.tab].paid_micro == 700
    assert worker.payments == [700]


async def test_what_somebody_else_redeemed_is_learned_from_the_chain(
    world: World, worker: Worker
) -> None:
    due = worker.vouchers.give(world.due(world.key(deposit_micro=1_000), worker.address, 60))
    friend = world.key(coins=True)
    settlement = world.settlement(world.sender(friend, MemoryJournal()))
    async with world.blocks():
        await settlement.redeem([due])
        report = await worker.redeemer().redeem_now()
    assert report.transactions == ()
    assert worker.vouchers.dues[due.tab].paid_micro == 60
    assert not worker.journal.rows


async def test_thirty_percent_errors_and_restarts_redeem_exactly_once(
    world: World, worker: Worker
) -> None:
    payer = world.key(deposit_micro=10_000)
    with faulty(world.chain.anvil.port, every(10, 3)) as url:
        async with world.blocks():
            for cumulative in (10, 30, 60):
                worker.vouchers.give(world.due(payer, worker.address, cumulative))
                rpc = world.connect(url)
                with trio.move_on_after(0.4):  # cut at another point each time
                    await worker.redeemer(rpc).redeem_now()
                await worker.redeemer(rpc).redeem_now()
                rpc.close()
    assert worker.payments == [10, 20, 30]


async def test_a_dead_rpc_is_waited_out_and_shown(world: World, worker: Worker) -> None:
    dead = True

    def cut(_number: int, _calls: list[dict[str, Any]]) -> bytes | None:
        return b"" if dead else None

    worker.vouchers.give(world.due(world.key(deposit_micro=1_000), worker.address, 800))
    with faulty(world.chain.anvil.port, cut) as url:
        rpc = world.connect(url)
        redeemer = worker.redeemer(rpc)
        with pytest.raises(Unavailable):
            await redeemer.redeem_now()
        async with world.blocks(), trio.open_nursery() as nursery:
            await nursery.start(redeemer.run)
            await until(lambda: "does not answer" in redeemer.status().problem)
            assert redeemer.status().owed_micro == 800
            dead = False
            await until(lambda: redeemer.status().redeemed_micro == 800)
            await until(lambda: redeemer.status().problem == "")
            nursery.cancel_scope.cancel()
        rpc.close()
    assert worker.payments == [800]


async def test_locks_are_brought_to_the_chain_and_bad_ones_dropped(
    world: World, worker: Worker
) -> None:
    payer, poor, stale = (world.key(deposit_micro=n) for n in (1_000, 10, 1_000))
    worker.vouchers.locks = [
        lock(world, payer, worker.address, 600, nonce=1),
        lock(world, poor, worker.address, 600, nonce=1),
        lock(world, stale, worker.address, 600, nonce=1, life_s=-10),
    ]
    async with world.blocks(), trio.open_nursery() as nursery:
        await nursery.start(worker.redeemer().run)
        await until(lambda: not worker.vouchers.locks)
        nursery.cancel_scope.cancel()
    assert world.call("Escrow", "lockOf", address_of_key(payer), worker.address)[0] == 600
    assert len(worker.journal.rows) == 1


async def test_gas_for_lock_after_lock_is_not_ours_to_pay(world: World, worker: Worker) -> None:
    payer = world.key(deposit_micro=10**9)
    redeemer = worker.redeemer(native_price_micro=10**11)
    steps = [(600, True), (601, False), (5 * 10**8, True)]
    async with world.blocks(), trio.open_nursery() as nursery:
        await nursery.start(redeemer.run)
        for nonce, (total, taken) in enumerate(steps, 1):
            worker.vouchers.locks = [lock(world, payer, worker.address, total, nonce=nonce)]
            with trio.move_on_after(10 if taken else 1):
                while worker.vouchers.locks:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert bool(worker.vouchers.locks) is not taken
        nursery.cancel_scope.cancel()
    assert world.call("Escrow", "lockOf", address_of_key(payer), worker.address)[0] == 5 * 10**8
    assert len(worker.journal.rows) == 2


async def test_what_holds_it_up_is_shown_until_it_has_been_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeemer_module, "PASS_S", 0.02)
    poor = Worker(world, coins=False)
    poor.vouchers.give(world.due(world.key(deposit_micro=1_000), poor.address, 800))
    redeemer = poor.redeemer()
    async with world.blocks(), trio.open_nursery() as nursery:
        await nursery.start(redeemer.run)
        await until(lambda: "coins for gas" in redeemer.status().problem)
        world.clock.ahead_s += 1
        for _ in range(20):  # passes that come too soon after the last redemption
            assert "coins for gas" in redeemer.status().problem
            await trio.sleep(0.02)
        world.chain.fund([Funding(address=poor.address)])
        world.clock.ahead_s += 3600
        await until(lambda: redeemer.status().redeemed_micro == 800)
        await until(lambda: redeemer.status().problem == "")
        nursery.cancel_scope.cancel()
