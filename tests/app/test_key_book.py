"""API keys: who is let in, and limits that hold whatever happens at once."""

from collections.abc import AsyncIterator

import pytest
import trio

from node.adapters.clock import SystemClock
from node.adapters.store import open_stores
from node.app.key_book import KeyBook
from node.errors import UsageError
from node.roles.stores import Stores
from tests.roles.fakes import DOMAIN


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    async with open_stores(None, domain=DOMAIN) as opened:
        yield opened


async def book_of(stores: Stores) -> KeyBook:
    book = KeyBook(stores.keys, SystemClock())
    await book.load()
    return book


async def test_a_key_opens_until_it_is_revoked(stores: Stores) -> None:
    book = await book_of(stores)
    assert not book.any_in_use
    made = await book.create("laptop", spend_max_micro=None)
    other = await book.create("", spend_max_micro=None)
    for each in (book, await book_of(stores)):
        found = each.find(made.secret)
        assert found is not None
        assert found.key_id == made.row.id
    await book.revoke(made.row.id)
    assert book.find(made.secret) is None
    assert book.find(other.secret) is not None
    with pytest.raises(UsageError):
        await book.revoke(made.row.id)
    assert (await book_of(stores)).find(made.secret) is None


async def test_what_is_no_key_opens_nothing(stores: Stores) -> None:
    book = await book_of(stores)
    made = await book.create("", spend_max_micro=None)
    other = await book.create("", spend_max_micro=None)
    tail = other.secret.rpartition("-")[2]
    for wrong in (
        "",
        made.row.id,
        made.secret[:-1],
        made.secret + "x",
        made.secret.upper(),
        f"gpn-{made.row.id}-",
        f"gpn-{made.row.id}-{tail}",
        "gpn-\udcff-x",
    ):
        assert book.find(wrong) is None, wrong


async def test_the_key_itself_is_kept_nowhere(stores: Stores) -> None:
    book = await book_of(stores)
    made = await book.create("", spend_max_micro=None)
    assert made.secret not in repr(await stores.keys.keys())


async def test_a_limit_holds_over_jobs_at_once(stores: Stores) -> None:
    book = await book_of(stores)
    key = (await book.create("", spend_max_micro=1000)).row.id
    spent: list[int] = []

    async def job(cost_micro: int) -> None:
        left = book.left_micro(key)
        assert left is not None
        held = min(left, 300)
        await book.hold(key, held)
        await trio.lowlevel.checkpoint()
        spent.append(min(cost_micro, held))
        await book.settle(key, held_micro=held, spent_micro=spent[-1])

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for cost_micro in (300, 120, 7, 300, 300):
                nursery.start_soon(job, cost_micro)
    assert sum(spent) <= 1000
    assert book.left_micro(key) == 1000 - sum(spent)
    [row] = (await book_of(stores)).rows
    assert row.spent_micro == sum(spent)


async def test_what_a_dead_process_held_counts_as_spent(stores: Stores) -> None:
    book = await book_of(stores)
    key = (await book.create("", spend_max_micro=1000)).row.id
    await book.hold(key, 400)
    assert (await book_of(stores)).left_micro(key) == 600


async def test_a_key_without_a_limit_counts_what_is_spent(stores: Stores) -> None:
    book = await book_of(stores)
    key = (await book.create("", spend_max_micro=None)).row.id
    assert book.left_micro(key) is None
    await book.hold(key, 0)
    await book.settle(key, held_micro=0, spent_micro=50)
    assert (await book_of(stores)).rows[0].spent_micro == 50


@pytest.mark.parametrize("name", ["x" * 65, "a\nb", "\x1b[2J"])
async def test_names_are_for_lists(stores: Stores, name: str) -> None:
    with pytest.raises(UsageError):
        await (await book_of(stores)).create(name, spend_max_micro=None)


async def test_each_key_has_a_scope_that_says_nothing_of_it(stores: Stores) -> None:
    book, again = await book_of(stores), await book_of(stores)
    assert book.scope("") == b""
    assert book.scope("one") == book.scope("one") != book.scope("two")
    assert b"one" not in book.scope("one")
    assert again.scope("one") != book.scope("one")
