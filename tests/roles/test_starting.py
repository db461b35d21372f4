"""Of a thousand jobs at once a few are begun at a time, and none is held up for good."""

import trio
from trio.testing import MockClock

from node.roles.starting import START_S, STARTS_MAX, Starts


async def test_a_few_are_begun_at_a_time(autojump_clock: MockClock) -> None:
    starts, now, most = Starts(), 0, 0

    async def job(nursery: trio.Nursery) -> None:
        nonlocal now, most
        start = await starts.take(nursery)
        now += 1
        most = max(most, now)
        await trio.sleep(0.1)
        now -= 1
        start.done()
        start.done()

    async with trio.open_nursery() as nursery:
        for _ in range(10 * STARTS_MAX):
            nursery.start_soon(job, nursery)
    assert most == STARTS_MAX


async def test_whoever_never_begins_holds_up_no_other(autojump_clock: MockClock) -> None:
    starts = Starts()
    async with trio.open_nursery() as nursery:
        for _ in range(STARTS_MAX):
            await starts.take(nursery)
        began_s = trio.current_time()
        await starts.take(nursery)
        assert trio.current_time() - began_s <= START_S
        nursery.cancel_scope.cancel()


async def test_whoever_leaves_the_queue_takes_no_place(autojump_clock: MockClock) -> None:
    starts = Starts()
    async with trio.open_nursery() as nursery:
        held = [await starts.take(nursery) for _ in range(STARTS_MAX)]
        with trio.move_on_after(1):
            await starts.take(nursery)
        for each in held:
            each.done()
        with trio.fail_after(0.1):
            for _ in range(STARTS_MAX):
                await starts.take(nursery)
        nursery.cancel_scope.cancel()
