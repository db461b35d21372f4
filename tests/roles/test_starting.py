"""Of a thousand jobs at once a few are begun at a time, and none is held up for good."""

import trio
from trio.testing import MockClock

from node.roles.starting import START_S, STARTS_MAX, Starts

MODEL = bytes(32)


async def test_a_few_are_begun_at_a_time(autojump_clock: MockClock) -> None:
    starts, now, most = Starts(), 0, 0

    async def job(nursery: trio.Nursery) -> None:
        nonlocal now, most
        start = await starts.take(MODEL, nursery)
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
            await starts.take(MODEL, nursery)
        began_s = trio.current_time()
        await starts.take(MODEL, nursery)
        assert trio.current_time() - began_s <= START_S
        nursery.cancel_scope.cancel()


async def test_whoever_leaves_the_queue_takes_no_place(autojump_clock: MockClock) -> None:
    starts = Starts()
    async with trio.open_nursery() as nursery:
        held = [await starts.take(MODEL, nursery) for _ in range(STARTS_MAX)]
        with trio.move_on_after(1):
            await starts.take(MODEL, nursery)
        for each in held:
            each.done()
        with trio.fail_after(0.1):
            for _ in range(STARTS_MAX):
                await starts.take(MODEL, nursery)
        nursery.cancel_scope.cancel()


async def test_a_model_that_nobody_sells_holds_up_no_other(autojump_clock: MockClock) -> None:
    starts = Starts()
    async with trio.open_nursery() as nursery:
        for _ in range(STARTS_MAX):
            await starts.take(MODEL, nursery)
        began_s = trio.current_time()
        other = await starts.take(b"o" * 32, nursery)
        assert trio.current_time() == began_s
        other.done()
        nursery.cancel_scope.cancel()
    assert not starts._places


async def test_a_place_is_free_again_when_its_job_is_cancelled(autojump_clock: MockClock) -> None:
    starts = Starts()
    async with trio.open_nursery() as nursery:
        for _ in range(STARTS_MAX):
            await starts.take(MODEL, nursery)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        with trio.fail_after(0.1):
            await starts.take(MODEL, nursery)
        nursery.cancel_scope.cancel()
