"""Each session's frames go to the role that wants them; who breaks a rule loses its session."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
import trio

from node.errors import PeerError, SessionLost, Unavailable
from node.protocol.signing import checksum
from node.roles.ports import Inbound, Session, Transport

Handler = Callable[[Session, Inbound], Awaitable[None]]
Handlers = Mapping[type[Any], Handler]
Greeter = Callable[[Session], Awaitable[None]]

log = structlog.get_logger("dispatch")


class Dispatcher:
    """Reads every session of a transport in a task of its own."""

    def __init__(
        self, transport: Transport, *tables: Handlers, greeters: tuple[Greeter, ...] = ()
    ) -> None:
        """
        Args:
            transport: Whose sessions are read.
            tables: Which role handles which class of frame; no class twice.
            greeters: Called once for each new session, before its first frame is handled.
        """
        self._transport = transport
        self._greeters = greeters
        self._handlers: dict[type[Any], Handler] = {}
        for table in tables:
            assert not self._handlers.keys() & table.keys(), "two roles for one kind of frame"
            self._handlers.update(table)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            async for session in self._transport.inbound():
                nursery.start_soon(self._serve, session)

    async def _serve(self, session: Session) -> None:
        try:
            for greet in self._greeters:
                await greet(session)
            while True:
                await self._handle(session, await session.receive())
        except SessionLost:
            return
        except PeerError as error:
            log.info("session closed", peer=checksum(session.peer), reason=str(error))
            session.close(str(error))
        except Unavailable as error:
            # A store or chain that is away for a moment is our trouble; the peer may come back.
            log.warning("session closed", peer=checksum(session.peer), reason=str(error))
            session.close("temporarily unavailable")

    async def _handle(self, session: Session, inbound: Inbound) -> None:
        handler = self._handlers.get(type(inbound.frame))
        if handler is None:
            raise PeerError(f"unexpected {type(inbound.frame).__name__}")
        await handler(session, inbound)
