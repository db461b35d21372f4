"""What the gateway can rely on about its API keys."""

from dataclasses import replace

import pytest

from node.errors import CorruptState
from node.roles.stores import Duplicate, KeyRow, Stores

KEY = KeyRow(
    id="k1",
    name="laptop",
    hash=b"h" * 32,
    spend_max_micro=500,
    spent_micro=0,
    created_ms=10,
    revoked_ms=0,
)


async def test_keys_are_kept_in_the_order_of_their_making(stores: Stores) -> None:
    second = replace(KEY, id="k0", hash=b"i" * 32, spend_max_micro=None, created_ms=11)
    await stores.keys.add_key(second)
    await stores.keys.add_key(KEY)
    assert await stores.keys.keys() == (KEY, second)


@pytest.mark.parametrize("change", [{"hash": b"i" * 32}, {"id": "k2"}])
async def test_a_key_is_made_once(stores: Stores, change: dict[str, object]) -> None:
    await stores.keys.add_key(KEY)
    with pytest.raises(Duplicate):
        await stores.keys.add_key(replace(KEY, **change))  # type: ignore[arg-type]


async def test_what_was_spent_is_kept(stores: Stores) -> None:
    await stores.keys.add_key(KEY)
    await stores.keys.save_spent("k1", 77)
    [row] = await stores.keys.keys()
    assert row.spent_micro == 77
    with pytest.raises(CorruptState):
        await stores.keys.save_spent("k2", 1)


async def test_a_key_is_revoked_once(stores: Stores) -> None:
    await stores.keys.add_key(KEY)
    assert await stores.keys.revoke_key("k1", at_ms=20)
    assert not await stores.keys.revoke_key("k1", at_ms=21)
    assert not await stores.keys.revoke_key("k2", at_ms=21)
    [row] = await stores.keys.keys()
    assert row.revoked_ms == 20
