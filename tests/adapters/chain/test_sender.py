"""Transactions, each of which mints test tokens: the balance counts how often it happened."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio

from node.adapters.chain.contracts import encode_call
from node.adapters.chain.fees import GWEI
from node.adapters.chain.rpc import Rpc
from node.adapters.chain.sender import BUMP_BLOCKS, REPLACED_LOOKS
from node.errors import Unavailable, WalletError
from node.protocol.signing import address_of_key, checksum
from node.roles.transactions import Intent, Outcome, Transaction, TxState
from tests.adapters.chain.proxy import every, faulty, forward
from tests.adapters.chain.world import FINALITY_BLOCKS, MemoryJournal, World, until

AMOUNT = 1_000


class Account:
    """A funded key with a journal that outlives its senders."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.key = world.key(coins=True)
        self.address = address_of_key(self.key)
        self.journal = MemoryJournal()

    def sender(self, rpc: Rpc | None = None, *, gwei: int = 200) -> Any:
        return self.world.sender(self.key, self.journal, rpc=rpc, gwei=gwei)

    def mint(self, note: str = "") -> Intent:
        data = encode_call("TestToken", "mint", self.address, AMOUNT)
        return Intent(kind="mint", note=note, to=self.world.token, data=data)

    @property
    def minted(self) -> int:
        """How often it happened."""
        balance = self.world.call("TestToken", "balanceOf", self.address)
        assert balance % AMOUNT == 0
        return int(balance // AMOUNT)

    @property
    def only(self) -> Transaction:
        (row,) = self.journal.rows.values()
        return row

    @property
    def state(self) -> TxState:
        """Of the first transaction."""
        return next(iter(self.journal.rows.values())).state

    def pending(self) -> int:
        """Transactions of ours that wait for a block."""
        found = self.world.chain.rpc("txpool_content")["pending"]
        return len(found.get("0x" + self.address.hex(), {}))


@pytest.fixture
def account(world: World) -> Account:
    return Account(world)


async def test_it_is_saved_then_sent_and_counts_when_final(world: World, account: Account) -> None:
    saved_when_sent = []

    def watch(_number: int, calls: list[dict[str, Any]]) -> None:
        for call in calls:
            if call["method"] == "eth_sendRawTransaction":
                raws = [a.raw for row in account.journal.rows.values() for a in row.attempts]
                saved_when_sent.append(bytes.fromhex(call["params"][0][2:]) in raws)

    done: list[Outcome] = []
    with faulty(world.chain.anvil.port, watch) as url:
        rpc = world.connect(url)
        async with trio.open_nursery() as nursery:

            async def transact() -> None:
                done.append(await account.sender(rpc).transact(account.mint()))

            nursery.start_soon(transact)
            await until(lambda: account.pending() == 1)
            for _ in range(FINALITY_BLOCKS):
                world.chain.mine()
                await trio.sleep(0.1)
                assert not done
                assert account.state is TxState.SENT
            world.chain.mine()
        rpc.close()
    assert saved_when_sent
    assert all(saved_when_sent)
    (outcome,) = done
    assert account.minted == 1
    assert account.only == replace(outcome.transaction, closed_ms=account.only.closed_ms)
    assert account.state is TxState.FINAL
    receipt = world.chain.web3.eth.get_transaction_receipt("0x" + outcome.tx_hash.hex())  # type: ignore[arg-type]
    assert account.only.gas_used == receipt["gasUsed"]
    assert account.only.fee_wei == receipt["gasUsed"] * receipt["effectiveGasPrice"]
    assert account.only.block == receipt["blockNumber"]


async def test_one_at_a_time_and_each_once(world: World, account: Account) -> None:
    sender = account.sender()
    async with world.blocks(), trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(sender.transact, account.mint(str(number)))
        while len(account.journal.rows) < 3:
            open_rows = [r for r in account.journal.rows.values() if r.state is TxState.SENT]
            assert len(open_rows) <= 1
            await trio.sleep(0.02)
    assert account.minted == 3
    assert sorted(nonce for _, nonce in account.journal.rows) == [0, 1, 2]


async def test_what_would_revert_is_not_signed(world: World, account: Account) -> None:
    data = encode_call("Escrow", "claim", account.address)
    with pytest.raises(WalletError, match="Escrow_AmountZero"):
        await account.sender().transact(Intent(kind="claim", note="", to=world.escrow, data=data))
    explicit = Intent(kind="claim", note="", to=world.escrow, data=data, gas=100_000)
    with pytest.raises(WalletError, match="Escrow_AmountZero"):
        await account.sender().transact(explicit)
    assert not account.journal.rows


async def test_without_coins_it_says_where_to_send_some(world: World, account: Account) -> None:
    world.chain.rpc("anvil_setBalance", checksum(account.address), "0x1")
    with pytest.raises(WalletError, match="not enough coins") as caught:
        await account.sender().transact(account.mint())
    assert checksum(account.address) in caught.value.hint
    assert not account.journal.rows


async def test_gas_above_the_cap_is_waited_out(world: World, account: Account) -> None:
    world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
    world.chain.mine()
    with pytest.raises(Unavailable, match=r"chain\.fee_max_gwei"):
        await account.sender(gwei=10).transact(account.mint())
    assert not account.journal.rows
    world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    world.chain.mine()


class Crash(BaseException):
    """The process is gone, in the middle of something."""


class CrashingJournal(MemoryJournal):
    """Saves, and then the process dies."""

    async def begin_transaction(self, transaction: Transaction) -> None:
        await super().begin_transaction(transaction)
        raise Crash


async def test_a_crash_before_sending_sends_the_saved_bytes(world: World, account: Account) -> None:
    crashing = CrashingJournal()
    with pytest.raises(Crash):
        await world.sender(account.key, crashing).transact(account.mint())
    account.journal.rows = crashing.rows
    assert account.pending() == 0
    raw = account.only.attempts[0].raw
    async with world.blocks():
        outcome = await account.sender().settle()
    assert outcome is not None
    assert outcome.resumed
    assert account.only.attempts[0].raw == raw
    assert account.minted == 1
    assert await account.sender().settle() is None


@pytest.mark.parametrize("blocks", [0, 1, FINALITY_BLOCKS + 3])
async def test_a_crash_after_sending_is_seen_through(
    world: World, account: Account, blocks: int
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.sender().transact, account.mint("the same"))
        await until(lambda: account.pending() == 1)
        nursery.cancel_scope.cancel()
    for _ in range(blocks):
        world.chain.mine()
    # The user asks again for what is in flight: that is the one it means.
    async with world.blocks():
        outcome = await account.sender().transact(account.mint("the same"))
        assert outcome.resumed
        assert account.minted == 1
        outcome = await account.sender().transact(account.mint("another"))
    assert not outcome.resumed
    assert account.minted == 2


async def test_a_reorg_throws_it_out_and_it_is_sent_again(world: World, account: Account) -> None:
    done: list[Outcome] = []

    async def transact() -> None:
        done.append(await account.sender().transact(account.mint()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transact)
        await until(lambda: account.pending() == 1)
        world.chain.mine(FINALITY_BLOCKS)
        assert account.minted == 1
        await trio.sleep(0.2)  # it sees itself mined
        world.chain.rpc("anvil_reorg", FINALITY_BLOCKS, [])
        world.chain.rpc("anvil_dropAllTransactions")
        assert account.minted == 0
        assert account.pending() == 0
        await until(lambda: account.pending() == 1)
        assert not done
        world.chain.mine(1 + FINALITY_BLOCKS)
    assert account.minted == 1
    assert len(account.only.attempts) == 1, "the same bytes"


async def test_a_base_fee_times_ten_is_outbid(world: World, account: Account) -> None:
    sender = account.sender()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.transact, account.mint())
        await until(lambda: account.pending() == 1)
        first = account.only.attempts[0]
        world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(10 * first.fee_max_wei))
        world.chain.mine()
        assert account.minted == 0
        async with world.blocks():
            await until(lambda: account.state is TxState.FINAL)
    attempts = account.only.attempts
    assert len(attempts) >= 2
    for old, new in pairwise(attempts):
        assert new.fee_max_wei * 100 >= old.fee_max_wei * 111
        assert new.tip_wei * 100 >= old.tip_wei * 111
        assert new.fee_max_wei <= 200 * GWEI
    assert account.minted == 1


async def test_a_bump_stays_below_the_cap(world: World, account: Account) -> None:
    sender = account.sender(gwei=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.transact, account.mint())
        await until(lambda: account.pending() == 1)
        for _ in range(12):
            world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
            world.chain.mine()
            await trio.sleep(0.1)
        assert "chain.fee_max_gwei" in sender.problem
        assert account.state is TxState.SENT
        world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        async with world.blocks():
            await until(lambda: account.state is TxState.FINAL)
    assert max(attempt.fee_max_wei for attempt in account.only.attempts) <= 30 * GWEI
    assert sender.problem == ""
    assert account.minted == 1


async def test_without_blocks_nothing_is_paid_more(world: World, account: Account) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.sender().transact, account.mint())
        await until(lambda: account.pending() == 1)
        await trio.sleep(1)
        assert len(account.only.attempts) == 1
        world.chain.mine(1 + FINALITY_BLOCKS)
    assert account.minted == 1


async def test_a_nonce_used_elsewhere_ends_it_for_good(world: World, account: Account) -> None:
    web3 = world.chain.web3
    caught: list[WalletError] = []

    async def transact() -> None:
        try:
            await account.sender().transact(account.mint())
        except WalletError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transact)
        await until(lambda: account.pending() == 1)
        fee = 100 * GWEI
        fields = {"to": checksum(account.address), "value": 0, "gas": 21_000, "nonce": 0}
        fees = {"maxFeePerGas": fee, "maxPriorityFeePerGas": fee, "chainId": 31337}
        foreign = web3.eth.account.sign_transaction({**fields, **fees}, account.key)
        web3.eth.send_raw_transaction(foreign.raw_transaction)
        world.chain.mine()
        await trio.sleep(0.2)
        assert not caught, "a reorg could still undo it"
        world.chain.mine(FINALITY_BLOCKS)
    assert "nonce 0" in str(caught[0])
    assert account.state is TxState.REPLACED
    async with world.blocks():
        await account.sender().transact(account.mint())
    assert account.minted == 1


async def test_a_node_that_lags_does_not_make_ours_a_foreign_one(
    world: World, account: Account
) -> None:
    """Behind one URL are many nodes: the nonce comes from one, the receipt from another."""
    lies = iter(range(REPLACED_LOOKS - 1))

    def lagging(_number: int, calls: list[dict[str, Any]]) -> bytes | None:
        asked = any(call["method"] == "eth_getTransactionReceipt" for call in calls)
        if not asked or account.minted == 0 or next(lies, None) is None:
            return None
        answers = json.loads(forward(world.chain.anvil.port, json.dumps(calls).encode()))
        nulls = {c["id"] for c in calls if c["method"] == "eth_getTransactionReceipt"}
        return json.dumps(
            [a | {"result": None} if a["id"] in nulls else a for a in answers]
        ).encode()

    with faulty(world.chain.anvil.port, lagging) as url:
        rpc = world.connect(url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(account.sender(rpc).transact, account.mint())
            await until(lambda: account.pending() == 1)
            world.chain.mine(1 + FINALITY_BLOCKS)
        rpc.close()
    assert next(lies, None) is None
    assert account.minted == 1
    assert account.state is TxState.FINAL


async def test_a_raised_fee_whose_sending_was_not_heard_of_is_ours(
    world: World, account: Account
) -> None:
    """It was saved, it was mined, and nobody looked for it: that nonce counted as another's."""
    sent = 0

    def unheard(_number: int, calls: list[dict[str, Any]]) -> bytes | None:
        nonlocal sent
        if not any(call["method"] == "eth_sendRawTransaction" for call in calls):
            return None
        sent += 1
        if sent == 1:
            return None
        forward(world.chain.anvil.port, json.dumps(calls).encode())
        return b""  # it did what it was asked, and nobody hears of it

    with faulty(world.chain.anvil.port, unheard) as url:
        rpc = world.connect(url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(account.sender(rpc).transact, account.mint())
            await until(lambda: account.pending() == 1)
            for _ in range(2 * BUMP_BLOCKS):
                world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
                world.chain.mine()
                await trio.sleep(0.1)
            await until(lambda: sent > 1)
            world.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
            world.chain.mine(1 + FINALITY_BLOCKS)
            await until(lambda: account.state is not TxState.SENT)
        rpc.close()
    assert account.state is TxState.FINAL
    assert account.minted == 1


async def test_behind_a_foreign_transaction_it_waits_without_paying_more(
    world: World, account: Account
) -> None:
    """Whatever was pending before stays; at its price."""
    web3 = world.chain.web3
    fields = {"to": checksum(account.address), "value": 0, "gas": 21_000, "nonce": 1}
    fees = {"maxFeePerGas": 50 * GWEI, "maxPriorityFeePerGas": GWEI, "chainId": 31337}
    later = web3.eth.account.sign_transaction({**fields, **fees}, account.key)
    first = web3.eth.account.sign_transaction({**fields, **fees, "nonce": 0}, account.key)
    web3.eth.send_raw_transaction(first.raw_transaction)
    web3.eth.send_raw_transaction(later.raw_transaction)
    sender = account.sender()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.transact, account.mint())
        await until(lambda: account.pending() == 3)
        assert account.only.nonce == 2
        await until(lambda: "earlier transaction" in sender.problem)
        world.chain.mine(1 + FINALITY_BLOCKS)
    assert account.minted == 1
    assert len(account.only.attempts) == 1


async def test_a_lost_answer_does_not_send_it_twice(world: World, account: Account) -> None:
    def lose(_number: int, calls: list[dict[str, Any]]) -> bytes | None:
        if any(call["method"] == "eth_sendRawTransaction" for call in calls):
            forward(world.chain.anvil.port, json.dumps(calls).encode())
            return b""
        return None

    with faulty(world.chain.anvil.port, lose) as url:
        rpc = world.connect(url)
        async with world.blocks():
            await account.sender(rpc).transact(account.mint())
        rpc.close()
    assert account.minted == 1


async def test_thirty_percent_errors_and_a_restart_after_each(
    world: World, account: Account
) -> None:
    with faulty(world.chain.anvil.port, every(10, 3)) as url:
        async with world.blocks():
            for number in range(4):
                rpc = world.connect(url)
                await account.sender(rpc).transact(account.mint(str(number)))
                rpc.close()
    assert account.minted == 4
    assert [row.state for row in account.journal.rows.values()] == [TxState.FINAL] * 4


async def test_an_rpc_that_is_away_is_waited_for(world: World, account: Account) -> None:
    away = False

    def cut(_number: int, _calls: list[dict[str, Any]]) -> bytes | None:
        return b"" if away else None

    with faulty(world.chain.anvil.port, cut) as url:
        rpc = world.connect(url)
        sender = account.sender(rpc)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.transact, account.mint())
            await until(lambda: account.pending() == 1)
            away = True
            await until(lambda: "does not answer" in sender.problem)
            world.chain.mine(1 + FINALITY_BLOCKS)
            away = False
        assert sender.problem == ""
        away = True
        with pytest.raises(Unavailable):
            await sender.transact(account.mint("never signed"))
        rpc.close()
    assert account.minted == 1
    assert len(account.journal.rows) == 1
