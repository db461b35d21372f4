"""Sends one voucher a hundred times at once, one award a hundred times, over several sessions."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from node.errors import SessionLost
from node.protocol.frames import (
    AcceptanceFrame,
    AwardFrame,
    ErrorFrame,
    ProgressFrame,
    ReceiptFrame,
    Refusal,
    Refused,
    VoucherFrame,
)
from node.roles.ports import Session
from tests.attack import saved
from tests.attack.attackers.hand import Hand, Job, open_hand, reset
from tests.attack.attackers.peer import Target, run, say

TOKENS = 200
SAVED_S = 10.0


async def main(target: Target) -> None:
    """One job, paid by vouchers each of which is sent again and again."""
    orders = target.orders
    key, copies = bytes.fromhex(orders["key"]), int(orders["copies"])
    home, sessions = Path(orders["victim_home"]), int(orders["sessions"])
    async with open_hand(target, key=key) as hand:
        grants = await _vouchers(hand, home, copies=copies, sessions=sessions)
        awards = await _awards(hand, home, copies=copies, sessions=sessions)
        say(**grants, **awards)


async def _vouchers(hand: Hand, home: Path, *, copies: int, sessions: int) -> dict[str, Any]:
    """Each voucher of a job that is running: at once on one session, then on new ones."""
    job = await hand.draft(tokens=TOKENS)
    await hand.send(job)
    assert await hand.read(job, lambda frame: isinstance(frame, ProgressFrame))
    grants, sent = 0, 0
    first = hand.next_voucher(job)
    before = _state(hand, home, job)
    session = await hand.connect()
    sent += await _storm(session, first, copies)
    after = await _settled(hand, home, job)
    grants += after[0] > before[0]
    # The same bytes again and again, on sessions of which each replaces the one before.
    for _ in range(sessions):
        reset(await hand.connect())
        await _lost(hand)
        sent += await _storm(await hand.connect(), first, copies // sessions)
    again = await _settled(hand, home, job)
    return {
        "grants": grants,
        "vouchers_sent": sent,
        "tab_micro": again[0],
        "job_micro": again[1],
        "signed_micro": hand.cumulative_micro,
        "second_grants_micro": again[0] - after[0] + again[1] - after[1],
    }


async def _storm(session: Session, frame: VoucherFrame, copies: int) -> int:
    """All of them in one turn of the loop."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        with suppress(SessionLost):
            await session.send(frame)
            sent += 1

    async with trio.open_nursery() as nursery:
        for _ in range(copies):
            nursery.start_soon(send)
    return sent


async def _awards(hand: Hand, home: Path, *, copies: int, sessions: int) -> dict[str, Any]:
    """One award, again and again: while its job runs, after it, and on new sessions."""
    job = await hand.draft(tokens=20)
    await hand.send(job)
    assert await hand.read(job, lambda frame: isinstance(frame, AcceptanceFrame))
    accepted, refused = 1, 0
    for _ in range(copies // 4):  # while it is open it is a frame that has no place there
        with suppress(SessionLost):
            await job.channel.send(AwardFrame(job=job.id, award=job.award, voucher=None))
    await hand.read(job, lambda frame: isinstance(frame, ReceiptFrame), within_s=5)
    if job.billed_micro() > job.paid_micro:
        await (await hand.connect()).send(hand.next_voucher(job))
    for number in range(copies):
        if number % (copies // sessions) == 0:
            reset(await hand.connect())
            await _lost(hand)
        session = await hand.connect()
        again = hand.job_of(job.award.statement, job.terms, job.request, session)
        with suppress(SessionLost):
            await again.channel.send(AwardFrame(job=again.id, award=again.award, voucher=None))
        answer = await hand.read(
            again, lambda frame: isinstance(frame, AcceptanceFrame | Refusal | ErrorFrame)
        )
        accepted += isinstance(answer, AcceptanceFrame)
        refused += isinstance(answer, Refusal) and answer.code in (
            Refused.DUPLICATE, Refused.TERMS_UNKNOWN, Refused.RATE_LIMITED,
        )  # fmt: skip
        again.channel.close()
    rows = saved.segments(home, hand.address)
    return {
        "acceptances": accepted,
        "awards_refused": refused,
        "segments": sum(digest == job.digest for digest in rows),
    }


def _state(hand: Hand, home: Path, job: Job) -> tuple[int, int]:
    """What is saved: the tab's cumulative, and what the job was paid; in micro."""
    row = saved.tab(home, hand.tab_id(job.terms))
    return row.cumulative if row else 0, saved.segments(home, hand.address)[job.digest].paid


async def _settled(hand: Hand, home: Path, job: Job) -> tuple[int, int]:
    """The state once the worker has taken what it will take."""
    with trio.move_on_after(SAVED_S):
        while _state(hand, home, job)[0] < hand.cumulative_micro:  # noqa: ASYNC110
            await trio.sleep(0.05)
    await trio.sleep(1.0)  # a second grant would come after the first
    return _state(hand, home, job)


async def _lost(hand: Hand) -> None:
    with trio.move_on_after(5):
        while hand.transport.sessions():  # noqa: ASYNC110
            await trio.sleep(0.01)


if __name__ == "__main__":
    run(main)
