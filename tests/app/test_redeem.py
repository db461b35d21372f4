"""From vouchers that a payee took, over its real store, to money: `node redeem`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters.chain import sender as sender_module
from node.adapters.store import open_stores
from node.app.redeem import open_till
from node.config import Config
from node.protocol import receipts_tree
from node.protocol.fields import Signed
from node.protocol.frames import Rise, VoucherFrame
from node.protocol.signing import address_of_key, digest, sign
from node.protocol.statements import Award, Split, Terms, Voucher
from node.protocol.tabs import splits_hash
from node.roles.payee import Payee
from node.roles.redeemer import RedeemReport
from node.roles.stores import Stores
from tests.adapters.chain.world import FINALITY_BLOCKS, World, until
from tests.app.test_wallet import config_of
from tests.roles.payment_world import award_of, terms_of

MODEL = b"m" * 32
SPLITS = (Split(payee=b"\x05" * 20, bps=1_500),)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "POLL_S", (0.02, 0.1))


class Seller:
    """A worker's home; its processes come and go."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.key = world.key(coins=True)
        self.address = address_of_key(self.key)
        self.config: Config = config_of(world, path)
        self.path = path
        self.jobs = 0
        self.cumulative: dict[bytes, int] = {}

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        async with open_stores(self.path / "node.sqlite", domain=self.world.domain) as stores:
            yield stores

    def terms(self) -> Terms:
        return replace(terms_of(self.address, model=MODEL), splits=SPLITS)

    async def redeem(self, stores: Stores) -> RedeemReport:
        """As the command does it."""
        async with open_till(self.config, self.key, stores) as till:
            return await till.redeemer.redeem_now()

    async def sell(self, payee: Payee, payer_key: bytes, amount: int) -> None:
        """One job, paid in full."""
        payer, terms = address_of_key(payer_key), self.terms()
        self.jobs += 1
        award = award_of(payer, terms, self.jobs, cap=amount)
        assert await payee.admit(award=award, terms=terms) is None
        self.cumulative[payer] = self.cumulative.get(payer, 0) + amount
        await payee.on_voucher(payer, self.frame(payer_key, award, amount))
        name = digest(award, self.world.domain)
        assert payee.paid_micro(name) == amount
        payee.ended(name, earned_micro=amount)

    def frame(self, payer_key: bytes, award: Award, amount: int) -> VoucherFrame:
        voucher = Voucher(
            payer=award.payer,
            payee=self.address,
            model=MODEL,
            splits=splits_hash(SPLITS),
            cumulative=self.cumulative[award.payer],
            receipts=receipts_tree.root(receipts_tree.EMPTY),
        )
        signed: Signed[Voucher] = sign(voucher, self.world.domain, payer_key)
        rise = Rise(job=award.job, attempt=award.attempt, amount=amount)
        return VoucherFrame(voucher=signed, rises=(rise,), receipts=())

    def credited(self) -> int:
        return sum(
            int(self.world.call("Escrow", "credits", who))
            for who in (self.address, SPLITS[0].payee)
        )


async def test_all_that_was_sold_arrives_in_one_transaction_to_the_micro(
    world: World, tmp_path: Path
) -> None:
    seller = Seller(world, tmp_path)
    before = seller.credited()
    buyers = [world.key(deposit_micro=10_000) for _ in range(5)]
    async with seller.stores() as stores:
        async with open_till(seller.config, seller.key, stores) as till:
            for number in range(20):
                await seller.sell(till.payee, buyers[number % 5], 7 + number)
        async with world.blocks(0.01):
            report = await seller.redeem(stores)
            again = await seller.redeem(stores)
    sold = sum(7 + number for number in range(20))
    assert report.amount_micro == sold == sum(seller.cumulative.values())
    assert (report.left_micro, again.transactions) == (0, ())
    (redemption,) = report.transactions
    assert (redemption.vouchers, redemption.skipped) == (5, ())
    logs = world.redeem_logs(seller.address)
    assert {bytes(log["transactionHash"]) for log in logs} == {redemption.tx_hash}
    assert seller.credited() - before == sold


@pytest.mark.parametrize("blocks", [0, FINALITY_BLOCKS + 2])
async def test_a_process_killed_in_the_middle_loses_and_doubles_nothing(
    world: World, tmp_path: Path, blocks: int
) -> None:
    seller, payer = Seller(world, tmp_path), world.key(deposit_micro=10_000)
    async with seller.stores() as stores:
        async with open_till(seller.config, seller.key, stores) as till:
            await seller.sell(till.payee, payer, 300)
        sent = world.chain.rpc("txpool_status")["pending"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seller.redeem, stores)
            await until(lambda: world.chain.rpc("txpool_status")["pending"] != sent)
            nursery.cancel_scope.cancel()
    if blocks:
        world.chain.mine(blocks)
    async with seller.stores() as stores, world.blocks(0.01):
        async with open_till(seller.config, seller.key, stores) as till:
            await seller.sell(till.payee, payer, 50)
        report = await seller.redeem(stores)
        transactions = await stores.chain.transactions(count_max=10)
    assert report.left_micro == 0
    assert [row.kind for row in transactions] == ["redeem", "redeem"]
    paid = [log["args"]["amount"] for log in world.redeem_logs(seller.address)]
    assert paid == [300, 50]
