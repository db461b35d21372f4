"""Tells clients which vouchers are saved here: on greeting, on a gap, and now and then."""

import math
from collections import OrderedDict

import trio

from node.protocol.fields import Address, Hash
from node.protocol.frames import Resume
from node.roles.payee_book import PayeeBook
from node.roles.ports import Clock, Session
from node.roles.resume import RESUME_MAX

SEND_WITHIN_S = 5.0
ASK_AGAIN_S = 2.0
"""Before the same gap is mentioned again."""
ASKED_MAX = 1_024
ACK_EVERY = 256
"""Vouchers of a tab after which the client is told, unasked: it need not keep them any longer."""
ACK_S = 5.0
"""At least this long between two times: a client bounds how often it is told."""


class Holdings:
    """What clients are told of their vouchers, and when they were."""

    def __init__(self, book: PayeeBook, *, clock: Clock) -> None:
        self._book = book
        self._clock = clock
        self._asked: OrderedDict[tuple[Address, Hash], tuple[int, float]] = OrderedDict()
        """By client and tab: which cumulative was held when it was last told of a gap, and when."""
        self._taken: dict[Hash, int] = {}
        """Vouchers by tab."""
        self._acked_s: dict[Address, float] = {}
        """When clients with tabs here were last told unasked."""

    async def tell(self, session: Session) -> None:
        """Say which vouchers of this client are held; with none, say that."""
        held = [
            voucher
            for tab, voucher in self._book.held.items()
            if self._book.state.tabs[tab].client == session.peer
        ]
        with trio.move_on_after(SEND_WITHIN_S):
            await session.send(Resume(vouchers=tuple(held[-RESUME_MAX:])))

    async def missing(self, session: Session, tab: Hash) -> None:
        """A voucher came whose predecessors did not: ask for them, once in a while for one gap."""
        known, now_s = self._book.state.tabs.get(tab), self._clock.monotonic_s()
        held, key = known.cumulative_micro if known else 0, (session.peer, tab)
        before = self._asked.get(key)
        if before is not None and before[0] == held and now_s - before[1] < ASK_AGAIN_S:
            return
        self._asked[key] = (held, now_s)
        while len(self._asked) > ASKED_MAX:
            self._asked.popitem(last=False)
        await self.tell(session)

    async def taken(self, session: Session, tab: Hash) -> None:
        """A voucher was taken."""
        count = self._taken[tab] = self._taken.get(tab, 0) + 1
        now_s = self._clock.monotonic_s()
        told_s = self._acked_s.get(session.peer, -math.inf)
        if count % ACK_EVERY == 0 and now_s - told_s >= ACK_S:
            self._acked_s[session.peer] = now_s
            await self.tell(session)
