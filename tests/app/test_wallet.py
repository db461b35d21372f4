"""The wallet's commands against a real chain and a real store."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters.chain import sender as sender_module
from node.adapters.store import open_stores
from node.app.wallet import Wallet, open_wallet
from node.config import ChainConfig, Config
from node.errors import ConfigError, WalletError
from node.protocol.signing import address_of_key, checksum
from tests.adapters.chain.world import FINALITY_BLOCKS, World

PAYEE = b"\x0a" * 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "POLL_S", (0.02, 0.1))


def config_of(world: World, path: Path) -> Config:
    chain = ChainConfig(
        rpc_url=world.chain.anvil.url,
        chain_id=world.chain.chain_id,
        escrow=world.chain.contracts.escrow,
        token=world.chain.contracts.token,
        finality_blocks=FINALITY_BLOCKS,
    )
    return Config(home=path, chain=chain)


@asynccontextmanager
async def wallet_of(world: World, key: bytes, path: Path) -> AsyncIterator[Wallet]:
    """As one command has it; the store is a file, so that the next one finds what it left."""
    async with (
        open_stores(path / "node.sqlite", domain=world.domain) as stores,
        open_wallet(config_of(world, path), key, stores) as wallet,
        world.blocks(0.01),
    ):
        yield wallet


@pytest.fixture
def same_time(world: World) -> Iterator[None]:
    """What a test does to the chain's clock is undone."""
    snapshot = world.chain.rpc("evm_snapshot")
    yield
    world.chain.rpc("evm_revert", snapshot)


async def test_mint_deposit_and_show(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True)
    async with wallet_of(world, key, tmp_path) as wallet:
        minted = await wallet.mint(5_000_000)
        assert minted.amount_micro == 5_000_000
        done = await wallet.deposit(3_000_000)
        assert done.message == "3.000000 deposited"
        assert done.fee_wei > 0
        figures = await wallet.figures()
    assert figures.address == checksum(address_of_key(key))
    assert (figures.token_micro, figures.free_micro) == (2_000_000, 3_000_000)
    assert (figures.locked_micro, figures.credit_micro) == (0, 0)
    assert (figures.promised_micro, figures.available_micro) == (0, 3_000_000)
    assert (figures.exit, figures.exit_wait_s) == ("none", 0)
    assert [line.kind for line in figures.transactions] == ["deposit", "mint"]
    assert {line.state for line in figures.transactions} == {"final"}
    assert figures.transactions[0].hash == done.transaction
    assert figures.rpc[0].failures == 0
    receipt = world.chain.web3.eth.get_transaction_receipt(done.transaction)  # type: ignore[arg-type]
    assert receipt["status"] == 1
    # A permit: there was no approval before, and nothing is left of it.
    assert world.call("TestToken", "allowance", address_of_key(key), world.escrow) == 0


async def test_a_second_deposit_adds(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True, token_micro=100)
    async with wallet_of(world, key, tmp_path) as wallet:
        await wallet.deposit(30)
        await wallet.deposit(30)
        assert (await wallet.figures()).free_micro == 60


async def test_deposits_that_cannot_be_are_refused_before_gas(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True, token_micro=100)
    async with wallet_of(world, key, tmp_path) as wallet:
        with pytest.raises(WalletError, match=r"0\.000100, less than that") as caught:
            await wallet.deposit(101)
        assert wallet.address.hex() in caught.value.hint.lower()
        with pytest.raises(WalletError, match="above zero"):
            await wallet.deposit(0)
        with pytest.raises(WalletError, match="takes only"):
            await wallet.deposit(10**15)
        assert (await wallet.figures()).transactions == ()


async def test_without_coins_for_gas(world: World, tmp_path: Path) -> None:
    key = world.key(token_micro=100)
    world.chain.rpc("anvil_setBalance", checksum(address_of_key(key)), "0x0")
    async with wallet_of(world, key, tmp_path) as wallet:
        with pytest.raises(WalletError, match="not enough coins for gas"):
            await wallet.deposit(100)


@pytest.mark.usefixtures("same_time")
async def test_withdrawing_takes_two_steps_and_a_delay(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True, deposit_micro=700)
    async with wallet_of(world, key, tmp_path) as wallet:
        asked = await wallet.withdraw()
        assert (asked.state, asked.amount_micro) == ("requested", 700)
        assert 3_500 < asked.wait_s <= 3_600
        assert "can be withdrawn in 1 h 0 min" in asked.message
        waiting = await wallet.withdraw()
        assert (waiting.state, waiting.transaction) == ("waiting", "")
        assert waiting.ready_at_s == asked.ready_at_s
        assert (await wallet.figures()).exit == "waiting"
        with pytest.raises(WalletError, match="an exit is under way"):
            await wallet.deposit(5)
    world.chain.rpc("evm_increaseTime", 3_700)
    world.chain.mine(1 + FINALITY_BLOCKS)
    async with wallet_of(world, key, tmp_path) as wallet:
        assert (await wallet.figures()).exit == "ready"
        paid = await wallet.withdraw(to=PAYEE)
        assert (paid.state, paid.amount_micro) == ("paid", 700)
        with pytest.raises(WalletError, match="nothing in the escrow"):
            await wallet.withdraw()
    assert world.call("TestToken", "balanceOf", PAYEE) == 700


async def test_an_exit_can_be_cancelled(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True, deposit_micro=700)
    async with wallet_of(world, key, tmp_path) as wallet:
        with pytest.raises(WalletError, match="no exit was requested"):
            await wallet.stay()
        await wallet.withdraw()
        await wallet.stay()
        assert (await wallet.figures()).exit == "none"


async def test_a_lock_is_signed_by_the_ledger_and_set(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True, deposit_micro=700)
    expiry_s = int(time.time()) + 50_000
    async with wallet_of(world, key, tmp_path) as wallet:
        done = await wallet.lock(payee=PAYEE, total_micro=400, expiry_s=expiry_s)
        assert done.message == f"0.000400 locked for {checksum(PAYEE)}"
        figures = await wallet.figures()
        assert (figures.free_micro, figures.locked_micro) == (300, 400)
        with pytest.raises(WalletError):
            await wallet.lock(payee=PAYEE, total_micro=701, expiry_s=expiry_s)
        raised = await wallet.lock(payee=PAYEE, total_micro=500, expiry_s=expiry_s)
        assert raised.amount_micro == 500
    assert world.call("Escrow", "lockOf", address_of_key(key), PAYEE)[:2] == [500, 2]


async def test_earnings_are_claimed(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True)
    due = world.due(world.key(deposit_micro=90), address_of_key(key), 80)
    async with wallet_of(world, key, tmp_path) as wallet:
        with pytest.raises(WalletError, match="nothing to claim"):
            await wallet.claim()
        await wallet._settlement.redeem([due])
        assert (await wallet.figures()).credit_micro == 80
        assert (await wallet.claim()).message == "0.000080 claimed"
        assert (await wallet.figures()).token_micro == 80


async def test_only_a_devnets_tokens_are_minted(world: World, tmp_path: Path) -> None:
    key = world.key(coins=True)
    async with wallet_of(world, key, tmp_path) as wallet:
        wallet._rpc.chain_id = 1
        with pytest.raises(WalletError, match="only a devnet"):
            await wallet.mint(5)


async def test_a_missing_token_is_a_setting_to_make(world: World, tmp_path: Path) -> None:
    config = config_of(world, tmp_path)
    config = replace(config, chain=replace(config.chain, token=""))
    async with open_stores(None, domain=world.domain) as stores:
        with pytest.raises(ConfigError, match=r"chain\.token"):
            async with open_wallet(config, world.key(), stores):
                pass
