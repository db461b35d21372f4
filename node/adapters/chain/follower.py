"""The escrow's state about our counterparties, kept in memory by following its final logs.

So that a worker judges an award without a round trip, and knows how old what it judges by is.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import structlog
import trio

from node.adapters.chain.reader import Block, EscrowReader, Pair, has_block
from node.adapters.chain.rpc import Call, Rpc
from node.errors import ConfigError, Unavailable
from node.protocol.fields import Address, Hash
from node.roles.ports import ChainView, Clock

FRESH_S: Final = 5.0
"""An entry checked this recently answers without a read."""
REREAD_S: Final = 60.0
"""An entry is read again after this long whatever the logs say: an RPC may lose some."""
UNUSED_S: Final = 3600.0
ENTRIES_MAX: Final = 4096
LOG_BLOCKS_MAX: Final = 500
"""Further behind than this, everything is read again instead."""
PAYERS_PER_FILTER: Final = 100
POLL_S_MIN: Final = 0.5
POLL_S_MAX: Final = 12.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Entry:
    view: ChainView
    read_s: float
    """When it was read."""
    checked_s: float
    """When logs last showed that it still holds."""
    used_s: float


class CachedChain:
    """`ports.Chain` for a worker.  `run` follows the chain; without it, every `view` is a read."""

    def __init__(self, rpc: Rpc, reader: EscrowReader, *, escrow: Address, clock: Clock) -> None:
        self._rpc = rpc
        self._reader = reader
        self._escrow = "0x" + escrow.hex()
        self._clock = clock
        self._entries: OrderedDict[Pair, _Entry] = OrderedDict()
        self._synced: Block | None = None
        self._synced_s: float | None = None
        self._poll_s = POLL_S_MIN
        self._paid_block = 0
        """Newest block that `tabs_paid` was answered for."""

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        """From memory if checked within `FRESH_S`, else read.

        Never of an older block than what `tabs_paid` or this pair's last view was of: what a payer
        has, seen before a payment, and what it owes, seen after it, would not add up.

        Raises:
            Unavailable: No RPC answered; `known` may still have an older view.
        """
        pair = Pair(payer=payer, payee=payee, signer=signer)
        entry = self._entries.get(pair)
        now_s = self._clock.monotonic_s()
        if entry is not None and self._holds(entry, now_s):
            entry.used_s = now_s
            self._entries.move_to_end(pair)
            return entry.view
        return await self._read(pair)

    def known(
        self, *, payer: Address, payee: Address, signer: Address
    ) -> tuple[ChainView, float] | None:
        """The newest view in memory, and how many seconds ago it was known to hold."""
        entry = self._entries.get(Pair(payer=payer, payee=payee, signer=signer))
        if entry is None:
            return None
        return entry.view, self._clock.monotonic_s() - entry.checked_s

    async def tabs_paid(self, tabs: Sequence[Hash]) -> tuple[int, ...]:
        """Read, not cached.

        Raises:
            Unavailable: No RPC answered.
        """
        if not tabs:
            return ()
        # With the newest head: who just redeemed asks what that left of the payer's funds next.
        block = await self._reader.final_block(age_max_s=0)
        paid = await self._reader.tabs_paid_at(tabs, block=block)
        self._paid_block = max(self._paid_block, block)
        return paid

    @property
    def block(self) -> int | None:
        """Newest final block that was followed; None before the first."""
        return None if self._synced is None else self._synced.number

    @property
    def age_s(self) -> float | None:
        """Seconds since the chain was last followed; None if it never was."""
        return None if self._synced_s is None else self._clock.monotonic_s() - self._synced_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled.  An RPC that is away is tried again, and shows in `age_s`."""
        task_status.started()
        failing = False
        while True:
            try:
                await self.poll()
            except (Unavailable, ConfigError) as error:
                if not failing:
                    _log.warning("chain is not followed", reason=str(error))
                failing = True
            else:
                if failing:
                    _log.info("chain is followed again", block=self.block)
                failing = False
            await trio.sleep(self._poll_s)

    async def poll(self) -> None:
        """Bring every entry to the newest final block.

        Raises:
            Unavailable: No RPC answered; the entries are as they were.
        """
        started_s = self._clock.monotonic_s()
        final = await self._reader.final_block(age_max_s=0)
        self._forget_unused(started_s)
        before = self._synced
        pairs = tuple(self._entries)
        if before is None or not before.number <= final <= before.number + LOG_BLOCKS_MAX:
            dirty = {pair.payer for pair in pairs}
        elif final == before.number:
            dirty = set()
        else:
            dirty = await self._touched(before.number + 1, final, {p.payer for p in pairs})
        again = tuple(
            pair
            for pair in pairs
            if pair.payer in dirty or not self._followed(pair, before, started_s)
        )
        block = before
        if block is None or block.number != final or again:
            block, views = await self._reader.views(again, block=final)
            for pair, view in zip(again, views, strict=True):
                self._put(pair, view, started_s)
        self._confirm(before or block, block, started_s)
        self._pace(before, block)

    async def _read(self, pair: Pair) -> ChainView:
        started_s = self._clock.monotonic_s()
        _, (view,) = await self._reader.views((pair,))
        self._put(pair, view, started_s)
        return self._entries[pair].view

    def _holds(self, entry: _Entry, now_s: float) -> bool:
        return now_s - entry.checked_s <= FRESH_S and entry.view.block >= self._paid_block

    def _followed(self, pair: Pair, before: Block | None, now_s: float) -> bool:
        """Whether the logs since `before` are all that an entry needs."""
        entry = self._entries[pair]
        at_before = before is not None and entry.view.block == before.number
        return at_before and now_s - entry.read_s <= REREAD_S

    def _put(self, pair: Pair, view: ChainView, now_s: float) -> None:
        known = self._entries.get(pair)
        if known is None:
            while len(self._entries) >= ENTRIES_MAX:
                self._entries.popitem(last=False)
            self._entries[pair] = _Entry(view, now_s, now_s, now_s)
        elif known.view.block <= view.block:
            known.view, known.read_s, known.checked_s = view, now_s, now_s

    def _confirm(self, before: Block, block: Block, now_s: float) -> None:
        """What was at `before`, and neither touched nor read again, still holds at `block`."""
        for pair, entry in self._entries.items():
            if entry.view.block == before.number:
                if block.number != before.number:
                    entry.view = _moved(entry.view, pair, block)
                entry.checked_s = now_s
        self._synced, self._synced_s = block, now_s

    def _forget_unused(self, now_s: float) -> None:
        unused = [pair for pair, entry in self._entries.items() if now_s - entry.used_s > UNUSED_S]
        for pair in unused:
            del self._entries[pair]

    async def _touched(self, first: int, last: int, payers: set[Address]) -> set[Address]:
        """Payers that a log of the escrow in these blocks is about.

        Every event about an account has it as its first indexed argument.
        """
        ordered = sorted(payers)
        calls = [Call("eth_getBlockByNumber", (hex(last), False))]
        for start in range(0, len(ordered), PAYERS_PER_FILTER):
            some = ["0x" + p.rjust(32, b"\0").hex() for p in ordered[start:][:PAYERS_PER_FILTER]]
            query = {
                "address": self._escrow,
                "fromBlock": hex(first),
                "toBlock": hex(last),
                "topics": [None, some],
            }
            calls.append(Call("eth_getLogs", (query,)))
        results = await self._rpc.batch(calls, check=partial(has_block, last))
        return {payer for logs in results[1:] for payer in _accounts(logs)}

    def _pace(self, before: Block | None, now: Block) -> None:
        """Poll about once per block, whatever the chain's block time is."""
        if before is not None and now.number > before.number:
            block_s = (now.time_s - before.time_s) / (now.number - before.number)
            self._poll_s = min(POLL_S_MAX, max(POLL_S_MIN, block_s))


def _moved(view: ChainView, pair: Pair, block: Block) -> ChainView:
    """The same state at a later block: only a signer's authority can end without a log."""
    ended = pair.signer != pair.payer and view.signer_expiry_s <= block.time_s
    return replace(
        view,
        block=block.number,
        block_time_s=block.time_s,
        signer_expiry_s=0 if ended else view.signer_expiry_s,
        signer_left_micro=0 if ended else view.signer_left_micro,
    )


def _accounts(logs: Any) -> set[Address]:
    try:
        return {bytes.fromhex(log["topics"][1][2:])[12:] for log in logs}
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise Unavailable("the chain's RPC answered with something that is not logs") from error
