"""Locks that workers ask for: given where they could lose that much, and waited for."""

import structlog
import trio

from node.errors import Unavailable, WalletError
from node.protocol.fields import Address, Signed
from node.protocol.frames import LockFrame
from node.protocol.signing import checksum
from node.protocol.statements import Lock
from node.roles.payer import Payer
from node.roles.ports import Clock, Session
from node.units import MS_PER_S

log = structlog.get_logger("client")

LOCK_LIFE_S = 24 * 3600
"""How long a lock that a worker asked for binds the deposit."""
LANDS_WITHIN_S = 60.0
LOOK_EVERY_S = 1.0
SEND_S = 5.0


async def give_lock(
    payer: Payer,
    session: Session,
    *,
    payee: Address,
    total_micro: int,
    cap_micro: int,
    clock: Clock,
) -> Signed[Lock] | None:
    """Sign a lock that a worker asks for, and send it to whom it protects.

    A lock can't be spent by itself, but it keeps the deposit from everybody else: no more is locked
    than the worker could lose by the jobs it has done and by this one.

    Args:
        payer: Whose deposit is locked.
        session: With the worker.
        payee: The worker's, as in its terms.
        total_micro: What it asks for.
        cap_micro: Of the job that it refused.
        clock: For the lock's expiry.

    Returns:
        The lock; None if it asks for too much, or if there is nothing to lock.
    """
    most_micro = payer.owed_micro(payee) + cap_micro
    if not 0 < total_micro <= most_micro:
        reason = f"asks for {total_micro} micro and could lose {most_micro}"
        log.info("no lock", worker=checksum(session.peer), reason=reason)
        return None
    expiry_s = clock.unix_ms() // MS_PER_S + LOCK_LIFE_S
    try:
        lock = await payer.make_lock(payee=payee, total_micro=total_micro, expiry_s=expiry_s)
        with trio.fail_after(SEND_S):
            await session.send(LockFrame(lock=lock))
    except (WalletError, Unavailable, trio.TooSlowError) as error:
        reason = str(error) or "the worker reads nothing"
        log.info("no lock", worker=checksum(session.peer), reason=reason)
        return None
    return lock


async def await_lock(payer: Payer, lock: Lock, session: Session) -> bool:
    """Whether the escrow shows the lock, at its finality depth, in time.

    Who has it sends it in: with a worker that left nothing is waited for.
    """
    with trio.move_on_after(LANDS_WITHIN_S):
        while payer.locked_micro(lock.payee) < lock.total:
            if session.lost is not None:
                return False
            await trio.sleep(LOOK_EVERY_S)
            try:
                await payer.refresh()
            except Unavailable as error:
                log.info("chain not read", reason=str(error))
        return True
    return False
