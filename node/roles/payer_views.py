"""What the chain says about payers, read when needed and kept for a while."""

import math
from collections import OrderedDict
from collections.abc import Collection

import structlog
import trio

from node.errors import Unavailable
from node.protocol.fields import Address
from node.protocol.payee_state import ChainSeen, PayerSeen
from node.roles.payee_book import PayeeBook
from node.roles.ports import Chain, ChainView, Clock

log = structlog.get_logger("payee")

READ_WITHIN_S = 5.0
REFRESH_S = 10.0
OWING_S = 60.0
"""For payers that run nothing: their locks still count in the credit for all newcomers."""
KEPT_MAX = 4_096
READS_MAX = 8
"""At the same time."""

Pair = tuple[Address, Address]
"""Payer and signer."""


class PayerViews:
    """Views of payers by signer, each with the time at which it was asked for."""

    def __init__(self, chain: Chain, book: PayeeBook, *, account: Address, clock: Clock) -> None:
        self._chain = chain
        self._book = book
        self._account = account
        self._clock = clock
        self._views: OrderedDict[Pair, tuple[ChainView, float]] = OrderedDict()
        self._reads: dict[Pair, trio.Event] = {}
        self._limit = trio.CapacityLimiter(READS_MAX)

    def age_s(self, pair: Pair) -> float | None:
        """How long ago the kept view was asked for."""
        found = self._views.get(pair)
        return None if found is None else self._clock.monotonic_s() - found[1]

    async def get(self, pair: Pair, *, age_max_s: float) -> ChainView | None:
        """A view of at most that age; an older one, or none, if the chain does not answer."""
        age_s = self.age_s(pair)
        if age_s is None or age_s > age_max_s:
            try:
                await self._read_once(pair)
            except Unavailable as error:
                log.warning("chain not read", reason=str(error))
        found = self._views.get(pair)
        return found[0] if found is not None else None

    def forget(self, payers: Collection[Address]) -> None:
        """Read these payers anew before anything of theirs is admitted, if the chain answers."""
        for pair, (view, _) in self._views.items():
            if pair[0] in payers:
                self._views[pair] = (view, -math.inf)

    async def run(self) -> None:
        """Keep the views of payers that run segments, or owe something, until cancelled."""
        while True:
            await trio.sleep(REFRESH_S)
            try:
                for pair, age_max_s in self._wanted().items():
                    age_s = self.age_s(pair)
                    if age_s is None or age_s >= age_max_s:
                        await self._read_once(pair)
            except Unavailable as error:
                log.warning("chain not read", reason=str(error))

    def _wanted(self) -> dict[Pair, float]:
        """Pairs to keep, and how old a view of each may get."""
        state = self._book.state
        owing = {(t.tab.payer, t.client): OWING_S for t in state.tabs.values() if t.owed_micro}
        running = {
            (s.payer, s.client): REFRESH_S for s in state.segments.values() if s.ended_s is None
        }
        return {**owing, **running}

    async def _read_once(self, pair: Pair) -> None:
        """Read a pair; who asks while it is read waits for the same answer."""
        running = self._reads.get(pair)
        if running is not None:
            await running.wait()
            return
        done = self._reads[pair] = trio.Event()
        try:
            with trio.fail_after(READ_WITHIN_S):
                async with self._limit:
                    await self._read(pair)
        except trio.TooSlowError:
            raise Unavailable("the chain did not answer in time") from None
        finally:
            del self._reads[pair]
            done.set()

    async def _read(self, pair: Pair) -> None:
        payer, signer = pair
        seen_s = self._clock.monotonic_s()
        tabs = [
            tab.id
            for tab in self._book.state.tabs.values()
            if tab.tab.payer == payer and tab.owed_micro
        ]
        # Paid first: a redemption in between then only makes the payer seem to owe more.
        paid = await self._chain.tabs_paid(tabs) if tabs else ()
        view = await self._chain.view(payer=payer, payee=self._account, signer=signer)
        self._book.block_seen(view.block_time_s, seen_s=seen_s)
        with trio.CancelScope(shield=True):  # a save is not given up half-way
            await self._book.redeemed(dict(zip(tabs, paid, strict=True)))
        self._book.step(ChainSeen(payer=payer, seen=_seen(view, seen_s)))
        self._views[pair] = (view, seen_s)
        self._views.move_to_end(pair)
        while len(self._views) > KEPT_MAX:
            self._views.popitem(last=False)


def _seen(view: ChainView, seen_s: float) -> PayerSeen:
    return PayerSeen(
        seen_s=seen_s,
        free_micro=view.account.free_micro,
        exit_ready_s=view.account.exit_ready_s,
        lock_micro=view.lock.amount_micro,
        lock_expiry_s=view.lock.expiry_s,
    )
