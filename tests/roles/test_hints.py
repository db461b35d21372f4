"""Discovery: every source alone is enough, none is trusted, and all are bounded."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.lowlevel

from node.errors import SessionLost
from node.protocol.announcements import ANY_MODEL, MESH_FORMED, Drop
from node.protocol.fields import Signed
from node.protocol.frames import Announcements, AnnouncementsWanted
from node.protocol.statements import Announcement
from node.roles.announcer import Announcer, Description
from node.roles.dispatch import Dispatcher
from node.roles.hints import EXCHANGE_SPARSE_S, FOLLOWED_MAX, REPLIES, Hints
from tests.protocol.market_samples import FOREIGN, announced, worker_of
from tests.roles.fakes import DOMAIN, UNIX_MS_START, FakeSession, Gossip, Net
from tests.roles.market_world import MODEL, Node, World

NEWS_MS = UNIX_MS_START


def news(number: int, **changes: Any) -> Signed[Announcement]:
    """An announcement that is fresh at the start of a test."""
    return announced(number, issued_ms=NEWS_MS, model=MODEL, **changes)


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Hints]:
    """A node that knows things and sells nothing."""
    async with trio.open_nursery() as nursery:
        dispatcher = Dispatcher(node.transport, node.hints.handlers, greeters=(node.hints.greet,))
        nursery.start_soon(dispatcher.run)
        await nursery.start(node.hints.run)
        yield node.hints
        nursery.cancel_scope.cancel()


def peer_of(world: World, number: int) -> Node:
    return world.node(number, sells=True)


async def answer(session: FakeSession) -> Announcements:
    with trio.fail_after(2):
        frame = (await session.receive()).frame
    assert isinstance(frame, Announcements)
    return frame


def leads_of(node: Node) -> set[bytes | None]:
    return {lead.worker for lead in node.hints.leads(MODEL, count_max=64)}


async def test_exchange_with_one_bootstrap_peer_finds_all(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net())
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            await world.worker(nursery)
        await trio.sleep(1)
        client = world.node(1, bootstrap=world.workers[0].transport.addrs)
        async with running(client) as hints:
            hints.follow(MODEL)
            await trio.sleep(0.1)
            assert leads_of(client) == {each.address for each in world.workers}
            assert hints.searching(MODEL) == 0
            assert [name for name, _ in hints.models().values()] == ["tiny"]
        nursery.cancel_scope.cancel()


async def test_gossip_alone_is_enough(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net(), gossip=Gossip(find_s=1000))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            await world.worker(nursery, bootstrap=False)
        client = world.node(1)
        async with running(client) as hints:
            hints.follow(MODEL)
            await trio.sleep(12)
            assert leads_of(client) == {each.address for each in world.workers}
        nursery.cancel_scope.cancel()


async def test_the_dht_alone_is_enough(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net(), gossip=Gossip())
    assert world.gossip is not None
    world.gossip.providers[MODEL] = {"/ip4/10.0.0.9/tcp/1/p2p/x": None}
    client = world.node(1)
    async with running(client) as hints:
        hints.follow(MODEL)
        await trio.sleep(1)
        assert [lead.addrs for lead in hints.leads(MODEL, count_max=9)] == [
            ("/ip4/10.0.0.9/tcp/1/p2p/x",)
        ]


async def test_a_worker_provides_itself_in_the_dht(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net(), gossip=Gossip())
    async with trio.open_nursery() as nursery:
        node, _ = await world.worker(nursery)
        await trio.sleep(1)
        assert world.gossip is not None
        assert tuple(world.gossip.providers[MODEL]) == node.transport.addrs
        nursery.cancel_scope.cancel()


async def test_gossip_and_dht_that_fail_stop_neither_side(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net(), gossip=Gossip())
    assert world.gossip is not None
    async with trio.open_nursery() as nursery:
        node, _ = await world.worker(nursery)
        client = world.node(1, bootstrap=node.transport.addrs)
        for each in world.gossip.nodes:
            each.broken = True
        async with running(client) as hints:
            hints.follow(MODEL)
            await trio.sleep(200)
            assert leads_of(client) == {node.address}
            for each in world.gossip.nodes:
                each.broken = False
            await trio.sleep(200)
            assert node.discovery is not None
            assert node.discovery.published
            assert tuple(world.gossip.providers[MODEL]) == node.transport.addrs
        nursery.cancel_scope.cancel()


async def test_models_wanted_before_the_start_are_followed(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net())
    async with trio.open_nursery() as nursery:
        node, _ = await world.worker(nursery)
        client = world.node(1, bootstrap=node.transport.addrs)
        client.hints.follow(MODEL)
        async with running(client):
            await trio.sleep(1)
            assert leads_of(client) == {node.address}
        nursery.cancel_scope.cancel()


async def test_what_is_followed_is_bounded(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net())
    client = world.node(1)
    for number in range(FOLLOWED_MAX + 5):
        client.hints.follow(number.to_bytes(32, "big"))
    assert len(client.hints._followed) == FOLLOWED_MAX


async def test_bootstrap_is_tried_until_it_answers_and_again_after_a_loss(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net())
    far = peer_of(world, 9)
    world.net.down.update(far.transport.addrs)
    client = world.node(1, bootstrap=far.transport.addrs)
    async with running(far), running(client) as hints:
        assert hints.searching(MODEL) == 1
        await trio.sleep(5)
        assert not client.transport.sessions()
        assert hints.searching(MODEL) == 0
        world.net.down.clear()
        await trio.sleep(10)
        client.transport.sessions()[far.address].cut()
        await trio.sleep(5)
        assert far.address in client.transport.sessions()


async def test_a_node_does_not_dial_itself(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net())
    node = world.node(1)
    hints = Hints(
        transport=node.transport,
        discovery=None,
        clock=world.clock,
        domain=DOMAIN,
        rng=random.Random(1),
        bootstrap=node.transport.addrs,
    )
    assert hints.searching(MODEL) == 0


@pytest.mark.parametrize(
    "signed", [news(5, key=6), news(5, domain=FOREIGN)], ids=["forged", "foreign"]
)
async def test_who_passes_on_a_forgery_loses_its_session(
    signed: Signed[Announcement], autojump_clock: trio.abc.Clock
) -> None:
    world = World(Net())
    client, liar = world.node(1), world.node(2)
    async with running(client) as hints:
        session = await liar.transport.connect(client.transport.addrs)
        await session.send(Announcements(items=(news(4), signed)))
        with trio.fail_after(1):
            assert "forged" in await session.wait_lost()
        assert hints.book.dropped[Drop.FORGED] == 1
        assert leads_of(client) == {worker_of(4)}


async def test_forged_gossip_is_dropped_and_counted(autojump_clock: trio.abc.Clock) -> None:
    world = World(Net(), gossip=Gossip())
    client, liar = world.node(1), world.node(2)
    assert liar.discovery is not None
    async with running(client) as hints:
        hints.follow(MODEL)
        await trio.sleep(0.01)
        for signed in (news(5, key=6), news(5), news(5), announced(7, model=MODEL, issued_ms=1)):
            await liar.discovery.publish(signed)
        await trio.sleep(0.01)
        assert leads_of(client) == {worker_of(5)}
        dropped = {Drop.FORGED: 1, Drop.DUPLICATE: 1, Drop.EXPIRED: 1}
        assert hints.book.dropped == dropped


async def test_a_flood_of_gossip_is_checked_no_faster_than_the_quota(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net(), gossip=Gossip())
    client = world.node(1)
    assert client.discovery is not None
    async with running(client) as hints:
        hints.follow(MODEL)
        await trio.sleep(0.01)
        for number in range(300):
            client.discovery.hear(news(number + 1))
            await trio.lowlevel.checkpoint()
        await trio.sleep(0.01)
        assert len(hints.book) == 128
        assert hints.dropped() == {"unchecked": 300 - 128}


async def test_answers_are_rationed_and_who_does_not_stop_is_cut_off(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net())
    node, greedy = world.node(1), world.node(2)
    async with running(node) as hints:
        hints.take(news(5), source=worker_of(5))
        session = await greedy.transport.connect(node.transport.addrs)
        wanted = AnnouncementsWanted(model=ANY_MODEL, count_max=1)
        got: list[int] = []

        async def ask_on() -> None:
            for _ in range(200):
                await session.send(wanted)
                got.append(len((await answer(session)).items))

        with pytest.raises(SessionLost):
            await ask_on()
        full = int(REPLIES.burst)
        assert got[: full + 3] == [1] * full + [0, 0, 0]
        assert len(got) <= REPLIES.burst + REPLIES.overrun_max


async def test_a_new_peer_is_told_of_the_worker_unasked_and_of_others_when_it_asks(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net())
    async with trio.open_nursery() as nursery:
        one, _ = await world.worker(nursery)
        two, _ = await world.worker(nursery)
        await trio.sleep(1)
        session = await world.node(1).transport.connect(one.transport.addrs)
        pushed = await answer(session)
        assert [each.statement.worker for each in pushed.items] == [one.address]
        await session.send(AnnouncementsWanted(model=MODEL, count_max=64))
        frame = (await session.receive()).frame
        while not isinstance(frame, Announcements):  # the worker asks as well
            frame = (await session.receive()).frame
        assert [each.statement.worker for each in frame.items] == [two.address]
        nursery.cancel_scope.cancel()


async def test_a_pushed_announcement_does_not_end_the_search(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net())
    client = world.node(1)
    async with running(client) as hints:
        hints.follow(MODEL)
        pusher = world.node(5, sells=True)
        session = await pusher.transport.connect(client.transport.addrs)
        own = announced(5, key=5, issued_ms=NEWS_MS, model=MODEL, worker=pusher.address)
        await trio.sleep(0.01)
        await session.send(Announcements(items=(own,)))
        await trio.sleep(0.01)
        assert hints.searching(MODEL) == 1
        await session.send(Announcements(items=()))
        await trio.sleep(0.01)
        assert hints.searching(MODEL) == 0


async def test_a_question_that_nobody_answers_is_not_waited_for_long(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net())
    client, silent = world.node(1), world.node(2)
    async with running(client) as hints:
        await silent.transport.connect(client.transport.addrs)
        await trio.sleep(0.01)
        hints.follow(MODEL)
        assert hints.searching(MODEL) == 1
        await trio.sleep(1.01)
        assert hints.searching(MODEL) == 0


async def test_a_peer_that_leaves_while_others_are_asked(autojump_clock: trio.abc.Clock) -> None:
    """A worker was once ended by it."""
    world = World(Net())
    client = world.node(1)
    client.hints.follow(MODEL)
    async with running(client):
        for number in (2, 3, 4):
            await world.node(number).transport.connect(client.transport.addrs)
        await trio.sleep(0.01)
        sessions = list(client.transport.sessions().values())
        for session in sessions:
            session.deaf = True  # asking it takes its time
        await trio.sleep(EXCHANGE_SPARSE_S * 1.2 + 0.5)
        for session in sessions:
            session.close("gone")
        await trio.sleep(10)
        assert not client.transport.sessions()


def announcer_of(node: Node, world: World) -> Announcer:
    return Announcer(
        hints=node.hints,
        transport=node.transport,
        discovery=node.discovery,
        clock=world.clock,
        domain=DOMAIN,
        key=node.key,
        rng=random.Random(1),
        describe=lambda: Description(
            payee=node.address, models=announced(1, model=MODEL).statement.models, region="eu"
        ),
    )


async def test_announcements_are_frequent_at_first_and_rare_among_many(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net(), gossip=Gossip())
    node = world.node(1, sells=True)
    assert node.discovery is not None
    for number in range(2, 402):  # not through `take`: its quota would take minutes
        node.hints.book.take(
            announced(number, issued_ms=NEWS_MS, ttl_s=20 * 3600, model=MODEL), now_ms=NEWS_MS
        )
    async with running(node), trio.open_nursery() as nursery:
        nursery.start_soon(announcer_of(node, world).run)
        await trio.sleep(15_000)
        nursery.cancel_scope.cancel()
    times = [at_s for at_s, _ in node.discovery.published]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] < 2.3
    assert gaps[1] < 11.1
    assert len(gaps) > 5
    assert all(0.9 * 2_005 <= gap <= 1.1 * 2_005 for gap in gaps[2:])
    issued = [signed.statement.issued_ms for _, signed in node.discovery.published]
    assert issued == sorted(set(issued))
    assert all(
        signed.statement.ttl_s > 1.8 * gap
        for (_, signed), gap in zip(node.discovery.published, gaps, strict=False)
    )


async def test_with_a_mesh_one_repeat_is_enough(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net(), gossip=Gossip())
    node = world.node(1, sells=True)
    assert node.discovery is not None
    for number in range(2, 2 + MESH_FORMED):
        hearer = world.node(number).discovery
        assert hearer is not None
        await hearer.follow(MODEL)
    async with running(node), trio.open_nursery() as nursery:
        nursery.start_soon(announcer_of(node, world).run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    times = [at_s for at_s, _ in node.discovery.published]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) > 4
    assert gaps[0] < 2.3
    assert all(gap >= 9 for gap in gaps[1:])


async def test_a_clock_that_was_set_back_does_not_make_announcements_older(
    autojump_clock: trio.abc.Clock,
) -> None:
    world = World(Net(), gossip=Gossip())
    node = world.node(1, sells=True)
    assert node.discovery is not None
    async with running(node), trio.open_nursery() as nursery:
        nursery.start_soon(announcer_of(node, world).run)
        await trio.sleep(2)
        world.clock.skew_ms = -60_000
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    issued = [signed.statement.issued_ms for _, signed in node.discovery.published]
    assert len(issued) > 4
    assert issued == sorted(set(issued))
