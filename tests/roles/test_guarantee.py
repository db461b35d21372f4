"""How long a lock is waited for."""

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from node.protocol.statements import Lock
from node.roles.guarantee import LANDS_WITHIN_S, LOOK_EVERY_S, await_lock

LOCK = Lock(payer=bytes(20), payee=bytes(20), total=5, nonce=1, expiry=2**40)


class Unlocked:
    """A payer whose lock never lands."""

    def locked_micro(self, _payee: bytes) -> int:
        return 0

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_lock_is_not_waited_for_once_its_worker_has_left(
    autojump_clock: MockClock,
) -> None:
    """Nobody else sends it in: jobs waited for a minute (seeds 4683 and 6245)."""
    session: Any = SimpleNamespace(lost=None)
    payer: Any = Unlocked()

    async def leave() -> None:
        await trio.sleep(3)
        session.lost = "the connection was lost"

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        assert not await await_lock(payer, LOCK, session)
    assert trio.current_time() - began_s <= 3 + LOOK_EVERY_S


async def test_a_lock_that_never_lands_is_given_up(autojump_clock: MockClock) -> None:
    session: Any = SimpleNamespace(lost=None)
    payer: Any = Unlocked()
    began_s = trio.current_time()
    assert not await await_lock(payer, LOCK, session)
    assert trio.current_time() - began_s <= LANDS_WITHIN_S
