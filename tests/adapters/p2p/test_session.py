"""Sessions between real hosts on loopback."""

import os

import pytest
import trio
import trio.testing

from node.adapters.p2p.channel import StreamChannel
from node.config import NetworkConfig
from node.errors import PeerError, SessionLost, Unavailable
from node.protocol.frames import ZERO_HASH, AnnouncementsWanted
from tests.adapters.p2p.peers import chunk, first_session, pair, read_to_end, transport, wanted


async def test_hello_and_frames_both_ways() -> None:
    async with pair(agent="other") as p:
        assert p.near.peer == p.right.address
        assert p.far.peer == p.left.address
        assert p.near.hello.agent == "other"
        assert p.left.sessions() == {p.right.address: p.near}
        for sender, receiver in ((p.near, p.far), (p.far, p.near)):
            await sender.send(AnnouncementsWanted(model=ZERO_HASH, count_max=3))
            inbound = await receiver.receive()
            assert inbound.frame == AnnouncementsWanted(model=ZERO_HASH, count_max=3)
            assert inbound.channel is None
            assert inbound.arrived_s <= trio.current_time()


async def test_an_opener_brings_its_channel() -> None:
    async with pair() as p:
        job = os.urandom(16)
        mine = p.near.open_channel(job)
        await mine.send(wanted(job))
        inbound = await p.far.receive()
        assert inbound.frame == wanted(job)
        theirs = inbound.channel
        assert isinstance(theirs, StreamChannel)
        assert theirs.job == job
        for position in range(3):
            await theirs.send(chunk(job, position))
        got = [await mine.receive() for _ in range(3)]
        assert got == [chunk(job, position) for position in range(3)]


async def test_what_falls_due_in_one_turn_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as p:
        channels = []
        for _ in range(40):
            channel = p.near.open_channel(os.urandom(16))
            await channel.send(wanted(channel.job))
            await p.far.receive()
            channels.append(channel)
        writes = []
        write = p.near._stream.write

        async def counted(data: bytes) -> None:
            writes.append(len(data))
            await write(data)

        monkeypatch.setattr(p.near._stream, "write", counted)
        async with trio.open_nursery() as nursery:
            for channel in channels:
                nursery.start_soon(channel.send, chunk(channel.job, 0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(writes) <= 2


async def test_a_full_outbox_forgets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for room is woken, though others wait for it too."""
    count, size, channels = 6, 15_000, 40
    async with pair() as p:
        write, slow, done = p.near._stream.write, trio.Event(), 0

        async def written(data: bytes) -> None:
            await slow.wait()  # a peer that takes nothing for a while
            await write(data)

        async def converse(mine: StreamChannel, theirs: StreamChannel) -> None:
            nonlocal done
            async with trio.open_nursery() as nursery:
                for position in range(count):  # its own order is its own matter
                    nursery.start_soon(mine.send, chunk(mine.job, position, size))
                for _ in range(count):
                    await theirs.receive()
            done += 1

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                pairs = []
                for _ in range(channels):
                    mine = p.near.open_channel(os.urandom(16))
                    await mine.send(wanted(mine.job))
                    pairs.append((mine, (await p.far.receive()).channel))
                monkeypatch.setattr(p.near._stream, "write", written)
                for mine, theirs in pairs:
                    assert isinstance(theirs, StreamChannel)
                    nursery.start_soon(converse, mine, theirs)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert p.near.full
                slow.set()
        assert done == channels


async def test_close_sends_what_is_queued_and_says_why() -> None:
    async with pair() as p:
        job = os.urandom(16)
        mine = p.near.open_channel(job)
        await mine.send(wanted(job))
        for position in range(100):
            await mine.send(chunk(job, position))
        started = trio.current_time()
        p.near.close("that was all")
        channel = (await p.far.receive()).channel
        assert channel is not None
        got = await read_to_end(channel)
        assert got == [chunk(job, position) for position in range(100)]
        with pytest.raises(SessionLost, match="that was all"):
            await p.far.receive()
        with pytest.raises(SessionLost, match="that was all"):
            await mine.send(chunk(job, 0))
        await p.near.wait_gone()
        assert trio.current_time() - started < 1.0
        assert not p.left.sessions()


async def test_a_goodbye_right_after_hello_is_heard() -> None:
    async with transport() as server:
        async with transport() as visitor:
            await visitor.connect(server.addrs)
            far = await first_session(server)
        with trio.fail_after(2):
            assert await far.wait_lost() == "the peer closed the session: shutting down"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"chain_id": 1}, "chain 1, this node on 31337"),
        ({"escrow": b"\x01" * 20}, "escrow 0x0101"),
        ({"job_window": 100_000}, "job window of 100000 bytes is too small"),
        ({"version_min": 2, "version_max": 3}, "versions 2-3, this node 1-1"),
    ],
)
async def test_what_differs_is_named(changed: dict[str, object], named: str) -> None:
    with pytest.raises(PeerError, match=named):
        async with pair(**changed):
            pass


async def test_concurrent_connects_share_a_dial() -> None:
    async with transport() as a, transport() as b:
        sessions = []

        async def connect() -> None:
            sessions.append(await a.connect(b.addrs))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(connect)
        assert len(set(map(id, sessions))) == 1
        await first_session(b)
        with trio.move_on_after(0.1) as scope:
            await first_session(b)
        assert scope.cancelled_caught


async def test_nobody_there() -> None:
    async with transport() as a:
        async with transport() as b:
            gone = b.addrs
        started = trio.current_time()
        with pytest.raises(Unavailable, match="can't be reached"):
            await a.connect(gone)
        assert trio.current_time() - started < 1


async def test_bad_addresses() -> None:
    async with transport() as a:
        for addrs in (["/ip4/127.0.0.1/tcp/1"], ["x"], [], ["/ip4/127.0.0.1/udp/1/quic-v1"]):
            with pytest.raises(PeerError):
                await a.connect(addrs)
        with pytest.raises(PeerError, match="itself"):
            await a.connect(a.addrs)


async def test_wildcards_stand_for_the_addresses_of_this_machine() -> None:
    config = NetworkConfig(listen=("/ip4/0.0.0.0/tcp/0",))
    async with transport(config=config) as a, transport() as b:
        assert a.addrs
        assert not [addr for addr in a.addrs if "/0.0.0.0/" in addr]
        assert "/ip4/127.0.0.1/" in a.addrs[-1]
        assert (await b.connect(a.addrs[-1:])).peer == a.address


async def test_addresses_to_advertise_replace_the_real_ones() -> None:
    config = NetworkConfig(
        listen=("/ip4/127.0.0.1/tcp/0",), advertise=("/dns4/worker.example/tcp/4321",)
    )
    async with transport(config=config) as a:
        assert a.addrs == (f"/dns4/worker.example/tcp/4321/p2p/{a.host.get_id()}",)


async def test_a_session_that_was_lost_is_no_live_one_while_it_parts() -> None:
    async with pair() as p:
        p.near.close("done")
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        # Whoever looks for lost sessions among the live ones would find it again and again.
        assert p.left.sessions() == {}
        assert await p.left.connect(p.right.addrs) is not p.near
