from collections.abc import Iterator
from typing import Any

import pytest
import trio

from node.adapters.chain import follower
from node.adapters.chain.follower import FRESH_S, REREAD_S, CachedChain
from node.errors import Unavailable
from node.protocol.fields import Address
from node.protocol.signing import address_of_key
from node.roles.ports import ChainView
from tests.adapters.chain.proxy import faulty
from tests.adapters.chain.test_reader import as_owner
from tests.adapters.chain.world import FINALITY_BLOCKS, World, until

PAYEE = b"payee".ljust(20, b".")


class HandClock:
    """`ports.Clock` that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def unix_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class Following:
    """A follower behind an RPC whose requests are counted, and which can be cut off."""

    def __init__(self, world: World, url: str, requests: list[list[str]]) -> None:
        self.world = world
        self.requests = requests
        self.clock = HandClock()
        self.rpc = world.connect(url)
        self.chain = self.new()

    def new(self) -> CachedChain:
        # Its reader keeps a head for a second: too long for tests that make blocks by hand.
        reader = self.world.reading(self.rpc)
        return CachedChain(self.rpc, reader, escrow=self.world.escrow, clock=self.clock)

    async def view(self, payer: Address, signer: Address | None = None) -> ChainView:
        return await self.chain.view(payer=payer, payee=PAYEE, signer=signer or payer)

    def forget_head(self) -> None:
        """As if the second for which its reader keeps a head were over."""
        final = self.chain._reader._final
        if final is not None:
            self.chain._reader._final = (final[0], -1e9)

    async def poll(self) -> list[str]:
        """One poll; returns the methods that it asked for."""
        self.forget_head()
        before = len(self.requests)
        await self.chain.poll()
        return [method for request in self.requests[before:] for method in request]


@pytest.fixture
def following(world: World) -> Iterator[Following]:
    requests: list[list[str]] = []
    dead = False

    def watch(_number: int, calls: list[dict[str, Any]]) -> bytes | None:
        requests.append([call["method"] for call in calls])
        return b"" if getattr(world, "rpc_is_dead", dead) else None

    with faulty(world.chain.anvil.port, watch) as url:
        found = Following(world, url, requests)
        yield found
        found.rpc.close()


def request_exit(world: World, key: bytes) -> None:
    escrow = world.chain.contract("Escrow", world.chain.contracts.escrow)
    as_owner(world, key, escrow.functions.requestExit())


async def test_a_fresh_view_costs_no_request(world: World, following: Following) -> None:
    payer = address_of_key(world.key(deposit_micro=5))
    first = await following.view(payer)
    asked = len(following.requests)
    for _ in range(100):
        assert await following.view(payer) is first
    assert len(following.requests) == asked
    following.clock.now_s += FRESH_S + 1
    await following.view(payer)
    assert len(following.requests) > asked


async def test_following_keeps_it_fresh_and_reads_only_what_changed(
    world: World, following: Following
) -> None:
    leaver, stayer = world.key(deposit_micro=5, coins=True), world.key(deposit_micro=6)
    await following.view(address_of_key(leaver))
    await following.view(address_of_key(stayer))
    await following.poll()
    request_exit(world, leaver)
    world.chain.mine(FINALITY_BLOCKS)
    following.clock.now_s += FRESH_S - 1
    asked = await following.poll()
    # One payer's account, lock and signer; the other's had no log.
    assert asked.count("eth_call") == 3
    assert asked.count("eth_getLogs") == 1
    following.clock.now_s += FRESH_S - 1
    before = len(following.requests)
    left = await following.view(address_of_key(leaver))
    stays = await following.view(address_of_key(stayer))
    assert len(following.requests) == before, "both answered from memory"
    assert left.account.exit_ready_s > 0
    assert stays.account.exit_ready_s == 0
    assert left.block == stays.block == world.chain.web3.eth.block_number - FINALITY_BLOCKS


async def test_nothing_counts_before_it_is_final(world: World, following: Following) -> None:
    key = world.key(deposit_micro=5, coins=True)
    await following.view(address_of_key(key))
    await following.poll()
    request_exit(world, key)
    for _ in range(FINALITY_BLOCKS):
        await following.poll()
        assert (await following.view(address_of_key(key))).account.exit_ready_s == 0
        world.chain.mine()
    await following.poll()
    assert (await following.view(address_of_key(key))).account.exit_ready_s > 0


async def test_without_new_blocks_a_poll_is_one_call(world: World, following: Following) -> None:
    await following.view(address_of_key(world.key(deposit_micro=5)))
    await following.poll()
    assert await following.poll() == ["eth_blockNumber"]


async def test_a_view_from_before_the_last_poll_misses_no_log(
    world: World, following: Following
) -> None:
    """One that comes in late, read at an older block than what was followed: it is read again."""
    key = world.key(deposit_micro=5, coins=True)
    payer = address_of_key(key)
    await following.view(payer)  # its head stays in memory
    request_exit(world, key)
    world.chain.mine(FINALITY_BLOCKS)
    late = following.chain._entries.popitem()
    await following.poll()
    following.chain._entries[late[0]] = late[1]
    assert (await following.view(payer)).account.exit_ready_s == 0
    await following.poll()
    assert (await following.view(payer)).account.exit_ready_s > 0


async def test_with_the_rpc_away_ages_are_told_and_recovery_finds_all(
    world: World, following: Following
) -> None:
    key = world.key(deposit_micro=5, coins=True)
    payer = address_of_key(key)
    pair = {"payer": payer, "payee": PAYEE, "signer": payer}
    assert following.chain.known(**pair) is None
    await following.view(payer)
    await following.poll()
    world.rpc_is_dead = True  # type: ignore[attr-defined]
    request_exit(world, key)
    world.chain.mine(FINALITY_BLOCKS)
    following.clock.now_s += 25
    with pytest.raises(Unavailable):
        await following.poll()
    with pytest.raises(Unavailable):
        await following.view(payer)
    known = following.chain.known(**pair)
    assert known is not None
    assert known[0].account.exit_ready_s == 0
    assert known[1] == following.chain.age_s == 25
    world.rpc_is_dead = False  # type: ignore[attr-defined]
    await following.poll()
    assert (await following.view(payer)).account.exit_ready_s > 0
    assert following.chain.age_s == 0


async def test_what_logs_lost_is_read_again_within_a_minute(
    world: World, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.key(deposit_micro=5, coins=True)
    await following.view(address_of_key(key))
    await following.poll()
    monkeypatch.setattr(follower, "_accounts", lambda _logs: set())
    request_exit(world, key)
    world.chain.mine(FINALITY_BLOCKS)
    await following.poll()
    assert (await following.view(address_of_key(key))).account.exit_ready_s == 0
    following.clock.now_s += REREAD_S + 1
    world.chain.mine()
    await following.poll()
    assert (await following.view(address_of_key(key))).account.exit_ready_s > 0


async def test_a_view_is_never_older_than_what_was_paid(world: World, following: Following) -> None:
    payer = address_of_key(world.key(deposit_micro=5))
    before = await following.view(payer)
    world.chain.mine()
    following.forget_head()
    assert await following.chain.tabs_paid([b"\1" * 32]) == (0,)
    after = await following.view(payer)
    assert after.block == before.block + 1


async def test_blocks_never_go_back(world: World, following: Following) -> None:
    payer = address_of_key(world.key(deposit_micro=5))
    before = await following.view(payer)
    behind = following.chain._reader
    behind._finality_blocks += 2  # as an RPC that lags would make it
    following.forget_head()
    following.clock.now_s += FRESH_S + 1
    assert (await following.view(payer)).block == before.block


async def test_a_signer_ends_without_a_log(world: World, following: Following) -> None:
    key, signer = world.key(deposit_micro=5, coins=True), address_of_key(world.key())
    payer = address_of_key(key)
    escrow = world.chain.contract("Escrow", world.chain.contracts.escrow)
    end_s = world.chain.web3.eth.get_block("latest")["timestamp"] + 1000
    as_owner(world, key, escrow.functions.setSigner(signer, end_s, 4_000))
    world.chain.mine(FINALITY_BLOCKS)
    following.forget_head()
    assert (await following.view(payer, signer)).signer_expiry_s == end_s
    await following.poll()
    snapshot = world.chain.rpc("evm_snapshot")
    world.chain.rpc("evm_setNextBlockTimestamp", end_s)
    world.chain.mine(1 + FINALITY_BLOCKS)
    await following.poll()
    ended = await following.view(payer, signer)
    assert (ended.signer_expiry_s, ended.signer_left_micro) == (0, 0)
    world.chain.rpc("evm_revert", snapshot)


async def test_memory_is_bounded(
    world: World, following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "ENTRIES_MAX", 3)
    for number in range(1, 6):
        await following.view(bytes([number]) * 20)
    assert len(following.chain._entries) == 3
    following.clock.now_s += follower.UNUSED_S + 1
    await following.poll()
    assert not following.chain._entries


async def test_run_goes_on_through_an_outage(world: World, following: Following) -> None:
    async with trio.open_nursery() as nursery:
        world.rpc_is_dead = True  # type: ignore[attr-defined]
        await nursery.start(following.chain.run)
        await until(lambda: len(following.requests) >= 3)
        assert following.chain.block is None
        world.rpc_is_dead = False  # type: ignore[attr-defined]
        await until(lambda: following.chain.block is not None)
        nursery.cancel_scope.cancel()
