"""Vouchers on their way: one queue per worker, so that a slow one delays nobody else."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from node.errors import Unavailable
from node.protocol.fields import Address
from node.protocol.frames import VoucherFrame
from node.protocol.signing import checksum

log = structlog.get_logger("payer")

Deliver = Callable[[Address, VoucherFrame], Awaitable[None]]

DELIVER_WITHIN_S = 10.0
QUEUE_MAX = 256


class Outbox:
    """Saved vouchers to be sent, in order.  What can't be sent is dropped: a resume asks for it."""

    def __init__(self, deliver: Deliver) -> None:
        """
        Args:
            deliver: Sends to the worker of this address; raises Unavailable if it is not there.
        """
        self._deliver = deliver
        self._queues: dict[Address, deque[VoucherFrame]] = {}
        self._idle = trio.Event()

    def post(self, worker: Address, frames: Iterable[VoucherFrame], nursery: trio.Nursery) -> None:
        """Queue for a worker; a task in `nursery` sends while there is something to send."""
        queue = self._queues.get(worker)
        if queue is None:
            queue = self._queues[worker] = deque()
            nursery.start_soon(self._send, worker, queue)
        for frame in frames:
            if len(queue) >= QUEUE_MAX:
                return  # it asks for the rest when it sees the gap
            queue.append(frame)

    async def flush(self) -> None:
        """Return once nothing is queued: sent, or dropped because its worker is not there."""
        while self._queues:
            if self._idle.is_set():  # else somebody else waits on it too
                self._idle = trio.Event()
            await self._idle.wait()

    async def _send(self, worker: Address, queue: deque[VoucherFrame]) -> None:
        try:
            while queue:
                with trio.fail_after(DELIVER_WITHIN_S):
                    await self._deliver(worker, queue[0])
                queue.popleft()
        except (Unavailable, trio.TooSlowError) as error:
            log.info("vouchers wait", worker=checksum(worker), reason=str(error) or "too slow")
        finally:
            del self._queues[worker]
            self._idle.set()
