"""Importing what a command needs, in the time that it needs."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick() -> Iterator[None]:
    """For the imports of a command that somebody waits for, or that runs for long.

    They make a hundred thousand objects, all of which stay.  Looking for garbage among them, again
    and again while they are made, takes a seventh of the time; and later each full look a pause of
    20 ms in every answer that is being streamed, so they are never looked at again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        from node.app import logs

        logs.load()
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
