"""Saves side by side: what a store is asked for at the same time shares a commit."""

from collections.abc import Awaitable, Callable

import trio

from node.errors import NodeError

Save = Callable[[], Awaitable[None]]


async def together(*saves: Save) -> None:
    """Return once all have ended.

    Raises:
        NodeError: Of the saves that failed the first one's, in no group.
    """
    errors: dict[int, NodeError] = {}

    async def run(number: int, save: Save) -> None:
        try:
            await save()
        except NodeError as error:
            errors[number] = error

    async with trio.open_nursery() as nursery:
        for number, save in enumerate(saves):
            nursery.start_soon(run, number, save)
    if errors:
        raise errors[min(errors)]
