"""A peer that dies, freezes or vanishes is noticed in time, and what it delivered is kept."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.adapters.p2p import session as session_module
from node.adapters.p2p.channel import StreamChannel
from node.adapters.p2p.framing import WireStream
from node.adapters.p2p.greeting import greet
from node.adapters.p2p.session import StreamSession
from node.adapters.p2p.transport import SESSION_PROTOCOL, Libp2pTransport
from node.errors import PeerError, Unavailable
from node.protocol import codec, limits
from node.protocol.frames import ZERO_HASH, AnnouncementsWanted, Chunk, Frame
from tests.adapters.p2p.peers import (
    HELLO,
    first_session,
    host,
    pair,
    read_to_end,
    slow_proxy,
    transport,
    until,
    wanted,
)

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def other_process() -> AsyncIterator[tuple[trio.Process, str]]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.adapters.p2p.peer_process"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        with trio.fail_after(20):
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        addr = next(each for each in line.decode().splitlines() if each.startswith("/ip4"))
        yield process, addr
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def open_job(near: StreamSession) -> StreamChannel:
    channel = near.open_channel(os.urandom(16))
    await channel.send(wanted(channel.job))
    return channel


def assert_whole(frames: list[Frame]) -> None:
    """Every frame in order, none missing, some there."""
    positions = [frame.position for frame in frames if isinstance(frame, Chunk)]
    assert positions == list(range(len(frames)))
    assert frames


async def test_a_killed_peer_is_noticed_and_what_it_sent_is_kept() -> None:
    async with other_process() as (process, addr), transport() as mine:
        channel = await open_job(near := await mine.connect([addr]))
        first = await channel.receive()
        await trio.sleep(0.05)
        process.kill()
        started = trio.current_time()
        with trio.fail_after(5):
            reason = await near.wait_lost()
        assert trio.current_time() - started < 1
        assert "connection" in reason
        assert_whole([first, *await read_to_end(channel)])
        await until(lambda: not mine.sessions())


async def test_a_frozen_peer_is_noticed_in_five_seconds() -> None:
    async with other_process() as (process, addr), transport() as mine:
        channel = await open_job(near := await mine.connect([addr]))
        first = await channel.receive()
        process.send_signal(signal.SIGSTOP)
        started = trio.current_time()
        with trio.fail_after(5):
            assert await near.wait_lost() == "the peer stopped answering"
        assert trio.current_time() - started >= limits.PONG_WITHIN_S - 0.1
        assert_whole([first, *await read_to_end(channel)])
        with trio.fail_after(1):
            await near.wait_gone()
        # The connection is gone with it: nothing waits for the frozen process any more.
        [conn] = mine.host.get_network().get_connections()
        assert not conn.muxed_conn.is_established


async def test_a_peer_that_is_slow_but_alive_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(limits, "PONG_WITHIN_S", 0.3)
    async with pair() as p:
        await trio.sleep(1)
        assert max(p.near._ping_nonce, p.far._ping_nonce) > 2
        assert (p.near.lost, p.far.lost) == (None, None)


async def test_an_idle_dispatcher_here_is_not_a_frozen_peer_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(limits, "PONG_WITHIN_S", 0.3)
    monkeypatch.setattr(session_module, "INBOX_BYTES_MAX", 500)
    async with pair() as p:
        for _ in range(50):
            await p.near.send(AnnouncementsWanted(model=ZERO_HASH, count_max=1))
        # The far side reads nothing, so it answers no pings; it does not blame its peer for that.
        assert await p.near.wait_lost() == "the peer stopped answering"
        assert p.far.lost != "the peer stopped answering"


async def test_the_network_is_gone() -> None:
    """Between the two a proxy that keeps both connections open and passes nothing on."""
    async with transport() as right, transport() as left:
        port = int(right.addrs[0].split("/")[4])
        async with slow_proxy(port, 1400) as proxy:
            near = await left.connect([f"{proxy.addr}/p2p/{right.host.get_id()}"])
            far = await first_session(right)
            proxy.cut()
            with trio.fail_after(5):
                assert await near.wait_lost() == "the peer stopped answering"
                assert await far.wait_lost() == "the peer stopped answering"


async def test_a_dead_connection_is_not_used_again() -> None:
    """One that gossip had left, say, and that nobody pings."""
    async with transport() as right, transport() as left:
        port = int(right.addrs[0].split("/")[4])
        peer_id = right.host.get_id()
        async with slow_proxy(port, 1400) as proxy:
            await left.host.dial(proxy.addr, peer_id)
            proxy.cut()
            with trio.fail_after(4):
                assert (await left.connect(right.addrs)).peer == right.address
            assert len(left.host.get_network().live_connections(peer_id)) == 1


async def test_a_dial_ends_when_the_peer_comes_by_itself() -> None:
    async with transport() as a, transport() as b:
        [tarpit] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = tarpit.socket.getsockname()[1]
        got = []

        async def dial() -> None:
            got.append(await a.connect([f"/ip4/127.0.0.1/tcp/{port}/p2p/{b.host.get_id()}"]))

        async with tarpit, trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            await trio.sleep(0.1)
            with trio.fail_after(1):
                await b.connect(a.addrs)
                await until(lambda: got)
        assert a.sessions() == {b.address: got[0]}


async def test_only_silence_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PING_EVERY_S", 0.1)
    async with pair() as p:
        await trio.sleep(1)
        # One of the two pings, and hearing that the other need not.
        fewer, more = sorted((p.near._ping_nonce, p.far._ping_nonce))
        assert fewer <= 4
        assert more >= 6


async def test_a_peer_that_comes_back_replaces_its_session() -> None:
    """It lost its side of the session before we noticed ours: restarted, perhaps."""
    key = os.urandom(32)
    async with transport() as server, transport(key=key) as first:
        old = await first.connect(server.addrs)
        far_old = await first_session(server)
        async with transport(key=key) as again:
            new = await again.connect(server.addrs)
            far_new = await first_session(server)
            assert "replaced" in await far_old.wait_lost()
            assert server.sessions() == {again.address: far_new}
            assert new.lost is None
            with trio.fail_after(2):
                await old.wait_lost()


async def test_a_session_is_replaced_on_the_same_connection() -> None:
    async with pair() as p:
        [conn] = p.left.host.get_network().get_connections()
        stream = WireStream(await p.left.host.new_stream_on(conn, SESSION_PROTOCOL))
        await greet(stream, HELLO)
        assert "replaced" in await p.far.wait_lost()
        [newer] = p.right.sessions().values()
        await p.far.wait_gone()
        await stream.write(codec.encode_frame(AnnouncementsWanted(model=ZERO_HASH, count_max=1)))
        with trio.fail_after(1):
            await newer.receive()


async def test_both_dial_at_once() -> None:
    """Whatever the timing, both end with one and the same session, and it works."""
    for delay_ms in (0, 0, 0, 1, 2, 4, 6, 8, 10):
        async with transport() as a, transport() as b:
            got: dict[str, StreamSession] = {}

            async def dial(
                name: str, source: Libp2pTransport, target: Libp2pTransport, wait_s: float
            ) -> None:
                await trio.sleep(wait_s)
                got[name] = await source.connect(target.addrs)  # noqa: B023

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial, "a", a, b, 0)
                nursery.start_soon(dial, "b", b, a, delay_ms / 1000)
            assert a.sessions() == {b.address: got["a"]}
            assert b.sessions() == {a.address: got["b"]}
            for one, other in (("a", "b"), ("b", "a")):
                ask = AnnouncementsWanted(model=ZERO_HASH, count_max=1)
                await got[one].send(ask)
                with trio.fail_after(2):
                    assert (await got[other].receive()).frame == ask
            assert (got["a"].lost, got["b"].lost) == (None, None)


async def test_dialling_a_host_that_has_no_sessions() -> None:
    async with host() as other, transport() as mine:
        with pytest.raises((Unavailable, PeerError)):
            await mine.connect([str(other.get_addrs()[0])])


async def test_one_good_address_among_dead_ones() -> None:
    async with transport() as a, transport() as b:
        peer_id = b.addrs[0].rpartition("/")[2]
        dead = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id}" for port in (1, 2, 3)]
        with trio.fail_after(3):
            assert (await a.connect([*dead, *b.addrs])).peer == b.address


async def test_a_name_instead_of_an_address() -> None:
    async with transport() as a, transport() as b:
        addr = b.addrs[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
        assert (await a.connect([addr])).peer == b.address


async def test_a_session_without_jobs_is_kept_alive_at_its_ease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(session_module, "IDLE_AFTER_S", 0.2)
    async with pair() as p:
        await trio.sleep(0.5)
        before = p.near._ping_nonce + p.far._ping_nonce
        await trio.sleep(1)
        assert p.near._ping_nonce + p.far._ping_nonce == before
        channel = p.near.open_channel(bytes(31) + b"\1")
        await until(lambda: p.near._ping_nonce + p.far._ping_nonce > before + 2)
        channel.close()
