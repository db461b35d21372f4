"""After a reconnect both sides say which vouchers they hold; `Resume` concerns buyer and seller."""

from collections.abc import Awaitable, Callable

from node.protocol.frames import Resume
from node.roles.dispatch import Handlers
from node.roles.ports import Inbound, Session

RESUME_MAX = 64
"""Vouchers in one frame; with fewer, a tab that is not named has none."""
OnResume = Callable[[Session, Resume], Awaitable[None]]


def resume_handlers(*listeners: OnResume) -> Handlers:
    """One handler for all roles of this node: each looks at the vouchers that are its own."""

    async def handle(session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, Resume)
        for listener in listeners:
            await listener(session, inbound.frame)

    return {Resume: handle}
