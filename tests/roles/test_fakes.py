"""The fake network keeps the promises of `ports` that the roles' tests rely on."""

import pytest
import trio

from node.errors import PeerError, SessionLost, Unavailable
from node.protocol import limits
from node.protocol.frames import Chunk, FileWanted, OffersWanted
from node.protocol.signing import Domain
from tests.roles.fakes import FakeSession, Net, key_of

JOB = b"j" * 16
WANTED = OffersWanted(models=(b"m" * 32,))


async def joined(net: Net) -> tuple[FakeSession, FakeSession]:
    one, two = net.transport(key_of(1)), net.transport(key_of(2), sells=True)
    ours = await one.connect(two.addrs)
    async for theirs in two.inbound():
        return ours, theirs
    raise AssertionError


async def test_frames_arrive_in_order_after_the_delay(autojump_clock: trio.abc.Clock) -> None:
    ours, theirs = await joined(Net(delay_s=0.5))
    start_s = trio.current_time()
    await ours.send(WANTED)
    await ours.send(OffersWanted(models=()))
    first, second = await theirs.receive(), await theirs.receive()
    assert (first.frame, second.frame) == (WANTED, OffersWanted(models=()))
    assert first.arrived_s == trio.current_time() == start_s + 0.5


async def test_an_opener_brings_its_channel_and_credit_stalls_a_writer(
    autojump_clock: trio.abc.Clock,
) -> None:
    ours, theirs = await joined(Net())
    mine = ours.open_channel(JOB)
    await mine.send(FileWanted(job=JOB, sha256=bytes(32)))
    channel = (await theirs.receive()).channel
    assert channel is not None
    piece = Chunk(job=JOB, position=0, data=bytes(limits.DATA_BYTES_MAX), logprobs=b"")
    sent = 0
    with trio.move_on_after(1):
        while True:
            await channel.send(piece)
            sent += 1
    assert sent == limits.JOB_WINDOW_BYTES // limits.DATA_BYTES_MAX - 1
    await mine.receive()
    with trio.fail_after(1):
        await channel.send(piece)


async def test_what_arrived_is_still_read_after_a_loss(autojump_clock: trio.abc.Clock) -> None:
    ours, theirs = await joined(Net())
    await ours.send(WANTED)
    ours.cut("unplugged")
    assert (await theirs.receive()).frame == WANTED
    with pytest.raises(SessionLost, match="unplugged"):
        await theirs.receive()
    with pytest.raises(SessionLost, match="unplugged"):
        await ours.send(WANTED)
    assert await theirs.wait_lost() == "unplugged"


async def test_frames_of_a_closed_channel_are_dropped(autojump_clock: trio.abc.Clock) -> None:
    ours, theirs = await joined(Net())
    channel = ours.open_channel(JOB)
    await channel.send(FileWanted(job=JOB, sha256=bytes(32)))
    answer = (await theirs.receive()).channel
    assert answer is not None
    channel.close()
    await answer.send(Chunk(job=JOB, position=0, data=b"", logprobs=b""))
    assert ours.dropped == 1


async def test_connect_gives_the_live_session_again_or_says_why_not(
    autojump_clock: trio.abc.Clock,
) -> None:
    net = Net()
    one, two = net.transport(key_of(1)), net.transport(key_of(2))
    assert await one.connect(two.addrs) is await one.connect(two.addrs)
    net.down.update(two.addrs)
    with pytest.raises(Unavailable):
        await net.transport(key_of(3)).connect(two.addrs)
    foreign = net.transport(key_of(4))
    net.domain = Domain(1, bytes(20))
    with pytest.raises(PeerError):
        await net.transport(key_of(5)).connect(foreign.addrs)
