"""Keeps the library's services from taking the node with them."""

from collections.abc import Awaitable, Callable

import structlog
import trio

log = structlog.get_logger()

RESTART_S = (1.0, 60.0)
"""First and longest pause before a service that failed is started again."""
SOUND_AFTER_S = 300.0


async def supervise(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a service again whenever it fails; returns when it ends by itself.

    A hint about workers is worth little; the sessions in the same process are worth money.
    """
    pause_s = RESTART_S[0]
    while True:
        started = trio.current_time()
        try:
            await run()
            return
        # Any message that the library did not expect ends its service with any error.
        except Exception as error:
            log.warning("p2p.service_failed", service=name, error=_first(error))
        if trio.current_time() - started >= SOUND_AFTER_S:
            pause_s = RESTART_S[0]
        await trio.sleep(pause_s)
        pause_s = min(pause_s * 2, RESTART_S[1])


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)
