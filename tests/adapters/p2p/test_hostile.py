"""Peers that break the protocol lose their session, and nobody else notices."""

import os
import random
import resource
from contextlib import suppress

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from node.adapters.p2p import admission, swarm
from node.adapters.p2p import host as host_module
from node.adapters.p2p import session as session_module
from node.adapters.p2p.channel import StreamChannel
from node.adapters.p2p.discovery import open_discovery
from node.adapters.p2p.framing import WireStream
from node.adapters.p2p.session import INBOX_BYTES_MAX
from node.adapters.p2p.transport import SESSION_PROTOCOL
from node.config import NetworkConfig
from node.errors import PeerError, Unavailable
from node.protocol import codec, limits
from node.protocol.frames import (
    NO_JOB,
    ZERO_HASH,
    AnnouncementsWanted,
    Credit,
    ErrorFrame,
    Fault,
    Ping,
    Refusal,
)
from tests.adapters.p2p.peers import (
    HELLO,
    chunk,
    first_session,
    host,
    last_words,
    pair,
    rogue,
    slow_proxy,
    transport,
    until,
    wanted,
)


async def forever(stream: NetStream) -> None:
    await trio.sleep_forever()


def rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\xff\xff\xff\xff", "frame of 4294967295 bytes"),
        (b"\0\0\0\0", "frame of 0 bytes"),
        (codec.pack_length(3) + b"\x92\x02\xc1", "msgpack"),
        (codec.pack_length(2) + b"\x91\x63", "unknown kind"),
        (codec.encode_frame(HELLO), "second hello"),
        (codec.encode_frame(wanted(NO_JOB)), "without a name"),
    ],
)
async def test_garbage_ends_the_session_and_is_named(sent: bytes, said: str) -> None:
    async with transport() as victim, rogue(victim) as (stream, reader):
        session = await first_session(victim)
        await stream.write(sent)
        error = await last_words(reader)
        assert error is not None
        assert error.code == Fault.PROTOCOL
        assert said in error.detail
        assert session.lost is not None
        assert said in session.lost
        await until(lambda: not victim.sessions())


async def test_a_peers_words_are_made_safe_to_show() -> None:
    async with transport() as victim, rogue(victim) as (stream, _):
        session = await first_session(victim)
        nasty = ErrorFrame(job=NO_JOB, code=Fault.SHUTDOWN, detail="\x1b[2Jbye\n")
        await stream.write(codec.encode_frame(nasty))
        assert await session.wait_lost() == "the peer closed the session: ?[2Jbye?"


async def test_two_sides_that_wait_for_each_other_do_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "STALL_S", 0.3)
    monkeypatch.setattr(session_module, "INBOX_BYTES_MAX", 500)
    ask = AnnouncementsWanted(model=ZERO_HASH, count_max=1)
    async with pair() as p:
        for _ in range(50):
            await p.near.send(ask)
            await p.far.send(ask)
        with trio.fail_after(2):
            assert "fell behind" in await p.near.wait_lost()


async def test_garbage_on_the_port_and_on_every_protocol() -> None:
    rng = random.Random(11)
    config = NetworkConfig(listen=("/ip4/127.0.0.1/tcp/0",))
    async with (
        transport() as victim,
        open_discovery(victim, config, eager=True) as found,
        host(listen=False) as attacker,
    ):
        await until(lambda: "/meshsub/1.2.0" in victim.host.get_mux().get_protocols())
        await until(lambda: "/gpu-market/kad/1.0.0" in victim.host.get_mux().get_protocols())
        port = int(victim.addrs[0].split("/")[4])
        for size in (1, 20, 300, 70_000):
            raw = await trio.open_tcp_stream("127.0.0.1", port)
            await raw.send_all(rng.randbytes(size))
            await raw.aclose()
        conn = await attacker.dial(Multiaddr(victim.addrs[0]), victim.host.get_id())
        for protocol in ("/meshsub/1.2.0", "/gpu-market/kad/1.0.0", SESSION_PROTOCOL):
            for size in (1, 40, 400, 9000):
                stream = await attacker.new_stream_on(conn, protocol)
                body = rng.randbytes(size)
                with suppress(StreamError):
                    await stream.write(encode_uvarint(len(body)) + body)
                await stream.reset()
        async with transport() as friend:
            assert (await friend.connect(victim.addrs)).lost is None
        assert found._gossip is not None
        assert found._gossip._pubsub is not None
        assert found._dht is not None
        assert found._dht._dht is not None


@pytest.mark.parametrize("answer", [b"\xff\xfe\xfd\n", b"na\n", b"/other/1\n", b""])
async def test_a_peer_that_negotiates_nonsense(answer: bytes) -> None:
    async def nonsense(stream: NetStream) -> None:
        await stream.write(b"\x13/multistream/1.0.0\n" + bytes([len(answer)]) + answer)
        await stream.close()

    async with host() as other, transport() as mine:
        other.get_network().set_stream_handler(nonsense)  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await mine.connect([str(other.get_addrs()[0])])
        async with transport() as friend:
            assert (await mine.connect(friend.addrs)).lost is None


async def test_connections_without_streams_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "SWEEP_S", 0.05)
    monkeypatch.setattr(host_module, "IDLE_S", 0.1)
    async with transport() as a, transport() as b, host(listen=False) as idler:
        session = await a.connect(b.addrs)
        await idler.dial(Multiaddr(b.addrs[0]), b.host.get_id())
        network = b.host.get_network()
        await until(lambda: network.get_connections(idler.get_id()))
        await until(lambda: not network.get_connections(idler.get_id()))
        assert network.get_connections(a.host.get_id())
        assert session.lost is None


async def test_connections_of_one_peer_are_limited() -> None:
    async with host() as b, host(listen=False) as a:
        for _ in range(swarm.CONNECTIONS_PER_PEER_MAX + 3):
            await a.dial(b.get_addrs()[0], b.get_id())
        limit = swarm.CONNECTIONS_PER_PEER_MAX
        await until(lambda: len(b.get_network().live_connections(a.get_id())) == limit)
        await until(lambda: b.get_network().admission._by_ip.total() == limit)


async def test_frames_before_garbage_are_delivered() -> None:
    async with transport() as victim, rogue(victim) as (stream, _):
        session = await first_session(victim)
        ask = AnnouncementsWanted(model=ZERO_HASH, count_max=1)
        await stream.write(codec.encode_frame(ask) + b"\xff\xff\xff\xff")
        await session.wait_lost()
        assert (await session.receive()).frame == ask


async def test_ten_thousand_malformed_frames() -> None:
    rng = random.Random(7)
    honest = codec.encode_frame(chunk(b"j" * 16, 1, 300))
    async with transport() as victim, host(listen=False) as attacker:
        before = rss_mb()
        addr = Multiaddr(victim.addrs[0])
        for _ in range(40):
            conn = await attacker.dial(addr, victim.host.get_id())
            stream = WireStream(await attacker.new_stream_on(conn, SESSION_PROTOCOL))
            frames = []
            for _ in range(250):
                bad = bytearray(honest)
                for _ in range(rng.randrange(1, 8)):
                    bad[rng.randrange(len(bad))] = rng.randrange(256)
                frames.append(bytes(bad))
            await stream.write(b"".join(frames)[:16384])
            stream.abort()
        assert rss_mb() - before < 20
        async with transport() as friend:
            assert (await friend.connect(victim.addrs)).lost is None


async def test_overrunning_credit_ends_the_session() -> None:
    async with transport() as victim, rogue(victim) as (stream, reader):
        session = await first_session(victim)
        job = os.urandom(16)
        await stream.write(codec.encode_frame(wanted(job)))
        frame = codec.encode_frame(chunk(job, 0, limits.DATA_BYTES_MAX))
        for _ in range(limits.JOB_WINDOW_BYTES // len(frame) + 1):
            await stream.write(frame)
        assert "credit" in await session.wait_lost()
        error = await last_words(reader)
        assert error is not None
        assert error.code == Fault.PROTOCOL


async def test_a_stalled_job_stalls_itself_alone() -> None:
    async with pair() as p:
        stalled_job, live_job = os.urandom(16), os.urandom(16)
        stalled, live = p.near.open_channel(stalled_job), p.near.open_channel(live_job)
        for channel in (stalled, live):
            await channel.send(wanted(channel.job))
        their_stalled = (await p.far.receive()).channel
        their_live = (await p.far.receive()).channel
        assert their_stalled is not None
        assert their_live is not None
        sent = 0
        with trio.move_on_after(0.3) as scope:
            while True:
                await their_stalled.send(chunk(stalled_job, sent, 8192))
                sent += 1
        assert scope.cancelled_caught
        assert sent * 8192 < limits.JOB_WINDOW_BYTES
        total = 2 * limits.JOB_WINDOW_BYTES // 8192

        async def send_all() -> None:
            for position in range(total):
                await their_live.send(chunk(live_job, position, 8192))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            with trio.fail_after(5):
                for position in range(total):
                    assert await live.receive() == chunk(live_job, position, 8192)
        for position in range(sent):
            assert await stalled.receive() == chunk(stalled_job, position, 8192)
        with trio.fail_after(1):
            await their_stalled.send(chunk(stalled_job, sent, 8192))


async def test_a_peer_that_never_reads_blocks_its_own_jobs_only() -> None:
    """What is queued for it is bounded, and its session ends by the deadlines."""
    async with transport() as victim, transport() as friend, rogue(victim) as (stream, _):
        session = await first_session(victim)
        job = os.urandom(16)
        await stream.write(codec.encode_frame(wanted(job)))
        channel = (await session.receive()).channel
        assert isinstance(channel, StreamChannel)
        with trio.move_on_after(0.3):
            while True:
                await channel.send(chunk(job, 0, 8192))
        with trio.move_on_after(0.3):
            while True:
                await session.send(AnnouncementsWanted(model=ZERO_HASH, count_max=1))
        assert session._outbox_bytes < 300_000
        other = await friend.connect(victim.addrs)
        await other.send(AnnouncementsWanted(model=ZERO_HASH, count_max=1))
        with trio.fail_after(1):
            await (await first_session(victim)).receive()


async def test_pings_are_answered_once_however_many_come() -> None:
    async with transport() as victim, rogue(victim) as (stream, reader):
        session = await first_session(victim)
        await stream.write(b"".join(codec.encode_frame(Ping(nonce=n)) for n in range(1500)))
        with trio.fail_after(2):
            answered: list[int] = []
            while not answered or answered[-1] != 1499:
                frame, _ = await reader.frame()
                answered.append(frame.nonce)  # type: ignore[union-attr]
        assert len(answered) < 100
        assert session.lost is None


async def test_a_flood_waits_for_the_dispatcher() -> None:
    """Frames that nobody reads fill a bounded inbox, then the peer waits."""
    frame = Refusal(job=NO_JOB, subject=ZERO_HASH, code=1, detail="", offer=None, lock_total=0)
    flood = codec.encode_frame(frame) * 200
    async with transport() as victim, rogue(victim) as (stream, _):
        session = await first_session(victim)
        sent = 0
        waits = False  # for longer than a busy machine takes for one write
        while sent < 4 * INBOX_BYTES_MAX and not waits:
            with trio.move_on_after(1.5) as patience:
                await stream.write(flood)
                sent += len(flood)
            waits = patience.cancelled_caught
        assert INBOX_BYTES_MAX < sent < 4 * INBOX_BYTES_MAX
        assert session._inbox_bytes <= INBOX_BYTES_MAX + len(flood)
        assert session.lost is None
        for _ in range(2 * INBOX_BYTES_MAX // len(flood) * 100):
            assert (await session.receive()).frame == frame


@pytest.mark.parametrize("segment", [64, 536])
async def test_a_job_completes_over_small_segments(segment: int) -> None:
    async with transport() as right, transport() as left:
        port = int(right.addrs[0].split("/")[4])
        async with slow_proxy(port, segment) as proxy:
            near = await left.connect([f"{proxy.addr}/p2p/{right.host.get_id()}"])
            job = os.urandom(16)
            mine = near.open_channel(job)
            await mine.send(wanted(job))
            theirs = (await (await first_session(right)).receive()).channel
            assert theirs is not None
            with trio.fail_after(20):
                for position in range(12):
                    await theirs.send(chunk(job, position, limits.DATA_BYTES_MAX))
                for position in range(12):
                    assert await mine.receive() == chunk(job, position, limits.DATA_BYTES_MAX)


async def test_a_refusal_goes_to_the_open_channel() -> None:
    async with pair() as p:
        job = os.urandom(16)
        channel = p.near.open_channel(job)
        await channel.send(wanted(job))
        await p.far.receive()
        refusal = Refusal(job=job, subject=ZERO_HASH, code=1, detail="", offer=None, lock_total=0)
        await p.far.send(refusal)
        assert await channel.receive() == refusal
        channel.close()
        await p.far.send(refusal)
        await p.far.send(AnnouncementsWanted(model=ZERO_HASH, count_max=1))
        assert isinstance((await p.near.receive()).frame, AnnouncementsWanted)
        assert p.near.link.stray_frames == 1


async def test_too_many_jobs_are_refused_one_by_one() -> None:
    async with transport() as victim, rogue(victim) as (stream, reader):
        session = await first_session(victim)
        for index in range(1, limits.JOBS_PER_SESSION_MAX + 2):
            await stream.write(codec.encode_frame(wanted(index.to_bytes(16, "big"))))
        late = (limits.JOBS_PER_SESSION_MAX + 1).to_bytes(16, "big")
        got = [(await reader.frame())[0] for _ in range(3)]  # with the ping that comes first
        refused = ErrorFrame(job=late, code=Fault.LIMIT, detail="too many jobs are open")
        assert refused in got
        assert Credit(job=late, size=len(codec.encode_frame(wanted(late)))) in got
        assert session.lost is None


async def test_open_channel_is_bounded_here_too() -> None:
    async with pair() as p:
        for index in range(1, limits.JOBS_PER_SESSION_MAX + 1):
            p.near.open_channel(index.to_bytes(16, "big"))
        with pytest.raises(Unavailable, match="too many jobs"):
            p.near.open_channel(os.urandom(16))


async def test_keys_that_are_no_ethereum_keys_get_no_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = create_new_key_pair()
    async with transport() as victim:
        with monkeypatch.context() as patched:
            patched.setattr(host_module, "create_new_key_pair", lambda key: keys)
            async with host() as stranger:
                conn = await stranger.dial(Multiaddr(victim.addrs[0]), victim.host.get_id())
                stream = WireStream(await stranger.new_stream_on(conn, SESSION_PROTOCOL))
                assert b"not secp256k1" in await stream.read()
                addr = str(stranger.get_addrs()[0])
                with pytest.raises(PeerError, match="not secp256k1"):
                    await victim.connect([addr])
    assert ID.from_pubkey(keys.public_key).to_bytes()


async def test_sessions_are_limited() -> None:
    config = NetworkConfig(listen=("/ip4/127.0.0.1/tcp/0",), sessions_max=1)
    async with transport(config=config) as victim, transport() as a, transport() as b:
        await a.connect(victim.addrs)
        with pytest.raises(PeerError, match="too many sessions"):
            await b.connect(victim.addrs)
        with pytest.raises(Unavailable, match="too many sessions"):
            await victim.connect(b.addrs)


async def test_half_open_handshakes_do_not_shut_anybody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swarm, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(admission, "PENDING_PER_IP_MAX", 20)
    async with transport() as victim, transport() as friend:
        port = int(Multiaddr(victim.addrs[0]).value_for_protocol("tcp") or 0)
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(100)]
        started = trio.current_time()
        await friend.connect(victim.addrs)
        assert trio.current_time() - started < 1
        pending = victim.host.get_network().admission._pending
        assert len(pending) <= 20
        await until(lambda: not pending, within_s=3)
        for stream in silent:
            with trio.fail_after(1):
                while await stream.receive_some():
                    pass
            await stream.aclose()


async def test_connections_that_ended_make_room() -> None:
    """The library keeps a slot for each until it exits."""
    async with host() as b, host(listen=False) as a:
        b.set_stream_handler("/test/any/1", forever)
        for _ in range(20):
            conn = await a.dial(b.get_addrs()[0], b.get_id())
            await until(lambda: b.get_network().admission._by_ip.total() == 1)
            WireStream(await a.new_stream_on(conn, "/test/any/1")).abort()
            await until(lambda: b.get_network().admission._by_ip.total() == 0)
        await until(lambda: not b.get_network().connections)
