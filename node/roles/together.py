"""Tasks side by side whose errors come out as they are, in no group."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from node.errors import NodeError

T = TypeVar("T")
Save = Callable[[], Awaitable[None]]


async def together(*saves: Save) -> None:
    """Return once all have ended: what a store is asked for at the same time shares a commit.

    Raises:
        NodeError: Of the saves that failed the first one's.
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


async def watched(work: Callable[[], Awaitable[T]], *watchers: Save) -> T:
    """Do some work while others run beside it; they are cancelled when it ends.

    Raises:
        NodeError: The work's.
    """
    done: list[T] = []
    failure: NodeError | None = None
    async with trio.open_nursery() as nursery:
        for each in watchers:
            nursery.start_soon(each)
        try:
            done.append(await work())
        except NodeError as error:
            failure = error
        nursery.cancel_scope.cancel()
    try:
        if failure is not None:
            raise failure
    finally:
        del failure  # it holds its frames, and what is in them
    return done[0]
