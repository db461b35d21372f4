"""Sends a running worker every signed statement of a client, in every variant of the matrix."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import trio

from node.errors import SessionLost
from node.protocol import chain_hash, signing
from node.protocol.fields import Signed
from node.protocol.frames import (
    NO_JOB,
    AcceptanceFrame,
    Announcements,
    AnnouncementsWanted,
    AskFrame,
    Bid,
    Chunk,
    CutoffFrame,
    ErrorFrame,
    Frame,
    LockFrame,
    ProgressFrame,
    Refusal,
    Refused,
    Resume,
)
from node.protocol.statements import (
    AnnouncedModel,
    Announcement,
    Ask,
    Cutoff,
    CutoffReason,
    Lock,
    Tier,
)
from node.roles.ports import Session
from tests.attack import replay_matrix as matrix
from tests.attack import saved
from tests.attack.attackers.hand import PROMPT, Hand, Job, open_hand, reset
from tests.attack.attackers.peer import Target, run, say
from tests.attack.replay_matrix import Cell, Sample, forged

PLACE = "worker"
LONG = 400
ANSWER_S = 8.0
QUIET_S = 0.5
"""What a worker that took a statement would have done within this."""
DAY_S = 86_400


class WorkerMatrix:
    """Plays the cells, each from a session that is alive."""

    def __init__(self, hand: Hand, home: Path, *, every: int) -> None:
        """
        Args:
            hand: The client.
            home: The worker's.
            every: One cell in so many is tried.
        """
        self._hand = hand
        self._wanted = Sample(every)
        self._home = home
        self._cells: list[Cell] = []

    async def run(self) -> list[Cell]:
        """All of them."""
        for part in (
            self._awards, self._vouchers, self._resumes, self._cutoffs, self._locks, self._asks,
            self._announcements,
        ):  # fmt: skip
            await part()
        return self._cells

    # ------------------------------------------------------------------------------------ awards

    async def _awards(self) -> None:
        hand = self._hand
        for name in self._columns(await hand.draft()):
            if not self._wanted():
                continue
            job = await hand.draft()
            bad = forged(job.award, domain=hand.domain, key=hand.key)[name]
            await self._award(name, job, bad)
        job = await hand.draft(tokens=4)
        await hand.send(job)
        assert await hand.read(job, lambda frame: isinstance(frame, AcceptanceFrame))
        await self._pay_up(job)
        again = hand.job_of(
            job.award.statement, job.terms, job.request, await self._fresh_session()
        )
        await self._award(matrix.SAME_TWICE, again, job.award)
        other_seed = replace(job.award.statement, seed=2)
        again = hand.job_of(other_seed, job.terms, job.request, await self._fresh_session())
        await self._award(matrix.OLD_NONCE, again, again.award)

    def _columns(self, job: Job) -> list[str]:
        job.channel.close()
        return list(forged(job.award, domain=self._hand.domain, key=self._hand.key))

    async def _award(self, name: str, job: Job, award: Signed[Any]) -> None:
        hand = self._hand
        before = saved.segments(self._home, hand.address)
        with suppress(SessionLost):
            await hand.send(job, award=award)
        answer = await hand.read(
            job, lambda f: isinstance(f, AcceptanceFrame | Refusal | ErrorFrame), within_s=ANSWER_S
        )
        after = saved.segments(self._home, hand.address)
        refused = not isinstance(answer, AcceptanceFrame) and after.keys() == before.keys()
        self._note("award", name, _said(answer, await self._gone()), refused=refused)
        job.channel.close()

    # ---------------------------------------------------------------------------------- vouchers

    async def _vouchers(self) -> None:
        hand = self._hand
        job = await self._running()
        paid = [(job, job.billed_micro())]
        genuine = signing.sign(hand.voucher(paid), hand.domain, hand.key)
        for name, bad in forged(genuine, domain=hand.domain, key=hand.key).items():
            await self._voucher(name, job, hand.frame(bad, paid))
        frame = hand.frame(genuine, paid)
        hand.raised(paid)
        await (await hand.connect()).send(frame)
        await self._until_tab(job, hand.cumulative_micro)
        await self._voucher(matrix.SAME_TWICE, job, frame)
        # Signed anew, for less than was promised before.
        lower = replace(genuine.statement, cumulative=genuine.statement.cumulative - 1)
        less = [(job, paid[0][1] - 1)]
        signed = signing.sign(lower, hand.domain, hand.key)
        await self._voucher(matrix.OLD_NONCE, job, hand.frame(signed, less))
        job.channel.close()

    async def _voucher(self, name: str, job: Job, frame: Any) -> None:
        if not self._wanted():
            return
        before = self._tab(job)
        with suppress(SessionLost):
            await (await self._hand.connect()).send(frame)
        how = await self._gone()
        self._note("voucher", name, how, refused=self._tab(job) == before)

    async def _resumes(self) -> None:
        """A higher voucher, as the client says after a reconnect that it had given it."""
        hand = self._hand
        job = await self._running()
        rises = [(job, 5)]
        genuine = signing.sign(hand.voucher(rises), hand.domain, hand.key)
        for name, bad in forged(genuine, domain=hand.domain, key=hand.key).items():
            if not self._wanted():
                continue
            before = self._tab(job)
            with suppress(SessionLost):
                await (await hand.connect()).send(Resume(vouchers=(bad,)))
            how = await self._gone()
            self._note("voucher in a resume", name, how, refused=self._tab(job) == before)
        job.channel.close()

    def _tab(self, job: Job) -> tuple[Any, int]:
        rows = saved.segments(self._home, self._hand.address)
        return saved.tab(self._home, self._hand.tab_id(job.terms)), sum(
            row.paid for row in rows.values()
        )

    async def _until_tab(self, job: Job, micro: int) -> None:
        with trio.fail_after(ANSWER_S):
            while (self._tab(job)[0] or saved.NO_TAB).cumulative < micro:  # noqa: ASYNC110
                await trio.sleep(0.02)

    # ----------------------------------------------------------------------------------- cutoffs

    async def _cutoffs(self) -> None:
        hand = self._hand
        names = [*_CUTOFF_COLUMNS, matrix.SAME_TWICE]
        for name in names:
            if not self._wanted():
                continue
            job = await self._running()
            genuine = self._cutoff(job)
            bad = forged(genuine, domain=hand.domain, key=hand.key).get(name, genuine)
            if name == matrix.OTHER_WORKER:
                other = replace(genuine.statement, award=bytes(32))
                bad = signing.sign(other, hand.domain, hand.key)
            with suppress(SessionLost):
                await job.channel.send(CutoffFrame(job=job.id, cutoff=bad))
                if name == matrix.SAME_TWICE:
                    await job.channel.send(CutoffFrame(job=job.id, cutoff=bad))
            await hand.read(job, lambda frame: isinstance(frame, Refusal), within_s=QUIET_S)
            how = await self._gone()
            row = saved.segments(self._home, hand.address)[job.digest]
            took = name == matrix.SAME_TWICE  # the first one is genuine
            self._note("cutoff", name, how, refused=row.cut == took)
            job.channel.close()

    def _cutoff(self, job: Job) -> Signed[Cutoff]:
        ids = tuple(
            each
            for frame in job.frames
            if isinstance(frame, Chunk)
            for each in _ids(frame)
        )  # fmt: skip
        cutoff = Cutoff(
            award=job.digest,
            position=len(ids),
            chain=chain_hash.extend(job.award.statement.chain, ids),
            reason=CutoffReason.CANCELLED,
        )
        return signing.sign(cutoff, self._hand.domain, self._hand.key)

    # ------------------------------------------------------------------------------------- locks

    async def _locks(self) -> None:
        hand = self._hand
        genuine = self._lock(nonce=5)
        for name, bad in forged(genuine, domain=hand.domain, key=hand.key).items():
            await self._lock_refused(name, bad)
        await (await hand.connect()).send(LockFrame(lock=genuine))
        with trio.fail_after(ANSWER_S):
            while not self._locks_saved():  # noqa: ASYNC110
                await trio.sleep(0.02)
        await self._lock_refused(matrix.SAME_TWICE, genuine)
        await self._lock_refused(matrix.OLD_NONCE, self._lock(nonce=4))

    async def _lock_refused(self, name: str, bad: Signed[Lock]) -> None:
        if not self._wanted():
            return
        before = self._locks_saved()
        with suppress(SessionLost):
            await (await self._hand.connect()).send(LockFrame(lock=bad))
        how = await self._gone()
        # The genuine one may have gone to the chain meanwhile: then none is left to submit.
        taken = self._locks_saved() - before
        self._note("lock", name, how, refused=not taken)

    def _lock(self, *, nonce: int) -> Signed[Lock]:
        lock = Lock(
            payer=self._hand.payer,
            payee=self._hand.target.worker,
            total=1_000,
            nonce=nonce,
            expiry=int(time.time()) + DAY_S,
        )
        return signing.sign(lock, self._hand.domain, self._hand.key)

    def _locks_saved(self) -> set[bytes]:
        return saved.locks(self._home)

    # -------------------------------------------------------------------------------------- asks

    async def _asks(self) -> None:
        hand = self._hand
        ask = Ask(
            client=hand.address,
            payer=hand.payer,
            model=hand.target.model,
            tier=Tier.IDS,
            tokens_in=len(PROMPT),
            output_max=10,
            nonce=1,
            expires_ms=int(time.time() * 1000) + 10_000,
        )
        genuine = signing.sign(ask, hand.domain, hand.key)
        await (await hand.connect()).send(AskFrame(ask=genuine))
        assert await hand.hear(Bid, within_s=ANSWER_S), "what is genuine gets a bid"
        for name, bad in forged(genuine, domain=hand.domain, key=hand.key).items():
            if not self._wanted():
                continue
            if name == matrix.OTHER_PAYER:  # in another client's name
                bad = signing.sign(replace(ask, client=matrix.STRANGER), hand.domain, hand.key)
            with suppress(SessionLost):
                await (await hand.connect()).send(AskFrame(ask=bad))
            bid = await hand.hear(Bid, within_s=QUIET_S)
            self._note("ask", name, await self._gone(), refused=bid is None)

    # ----------------------------------------------------------------------------- announcements

    async def _announcements(self) -> None:
        hand, now_ms = self._hand, int(time.time() * 1000)
        genuine = self._announcement(now_ms)
        cases = forged(genuine, domain=hand.domain, key=hand.key)
        for name, bad in cases.items():
            await self._announce(name, bad, spread=0)
        await (await hand.connect()).send(Announcements(items=(genuine,)))
        older = self._announcement(now_ms - 5_000)
        await self._announce(matrix.OLD_NONCE, older, spread=0)
        await self._announce(matrix.SAME_TWICE, genuine, spread=1)

    async def _announce(self, name: str, bad: Signed[Announcement], *, spread: int) -> None:
        """Nobody else hears of it, except as often as it was genuine."""
        if not self._wanted():
            return
        hand = self._hand
        with suppress(SessionLost):
            await (await hand.connect()).send(Announcements(items=(bad,)))
        how = await self._gone()
        wanted = AnnouncementsWanted(model=hand.target.model, count_max=64)
        hand.heard.clear()
        await (await hand.connect()).send(wanted)
        told = 0
        while frame := await hand.hear(Announcements, within_s=QUIET_S):
            told += sum(each.signature == bad.signature for each in frame.items)
        self._note("announcement", name, how, refused=told == spread)

    def _announcement(self, issued_ms: int) -> Signed[Announcement]:
        hand = self._hand
        model = AnnouncedModel(
            model=hand.target.model, name="small", tier=Tier.IDS, price_in=1, price_out=1
        )
        announcement = Announcement(
            worker=hand.address,
            payee=hand.address,
            addrs=(hand.target.addr,),
            models=(model,),
            region="",
            issued_ms=issued_ms,
            ttl_s=600,
        )
        return signing.sign(announcement, hand.domain, hand.key)

    # ------------------------------------------------------------------------------------ shared

    async def _running(self) -> Job:
        """A job in mid-answer, with something to pay."""
        hand = self._hand
        for _ in range(3):
            job = await hand.draft(tokens=LONG)
            await hand.send(job)
            billed = await hand.read(job, _is_bill, within_s=ANSWER_S)
            if isinstance(billed, ProgressFrame):
                return job
            job.channel.close()
            await trio.sleep(1)
        raise AssertionError(f"no job: {job.frames[-1:]}")

    async def _pay_up(self, job: Job) -> None:
        hand = self._hand
        while not await hand.read(job, lambda f: not isinstance(f, Chunk), within_s=ANSWER_S):
            pass
        await hand.read(job, lambda f: f.kind == 27, within_s=ANSWER_S)  # the receipt
        if job.billed_micro() > job.paid_micro:
            await (await hand.connect()).send(hand.next_voucher(job))
            await self._until_tab(job, hand.cumulative_micro)
        job.channel.close()

    async def _gone(self) -> str:
        """Give the worker time to act; the reason if it ended the session."""
        sessions = list(self._hand.transport.sessions().values())
        if not sessions:
            return "closed the session"
        with trio.move_on_after(QUIET_S):
            return f"closed the session: {await sessions[0].wait_lost()}"
        return "ignored"

    async def _fresh_session(self) -> Session:
        reset(await self._hand.connect())
        await trio.sleep(0.05)
        return await self._hand.connect()

    def _note(self, kind: str, variant: str, how: str, *, refused: bool) -> None:
        self._cells.append(Cell(place=PLACE, kind=kind, variant=variant, refused=refused, how=how))


_CUTOFF_COLUMNS = (
    matrix.OTHER_CHAIN, matrix.OTHER_CONTRACT, matrix.OTHER_WORKER, matrix.LOWER_AMOUNT,
    matrix.HIGH_S, matrix.FLIPPED_V, matrix.OTHER_SIGNER,
)  # fmt: skip


def _ids(frame: Chunk) -> tuple[int, ...]:
    from node.protocol import codec

    return codec.unpack_ids(frame.data)


def _is_bill(frame: Frame) -> bool:
    return isinstance(frame, ProgressFrame | Refusal | ErrorFrame)


def _said(answer: Frame | None, otherwise: str) -> str:
    match answer:
        case Refusal():
            return f"refused: {Refused(answer.code).name} {answer.detail}".strip()
        case ErrorFrame() if answer.job != NO_JOB:
            return f"error: {answer.detail}"
        case AcceptanceFrame():
            return "accepted"
    return otherwise


async def main(target: Target) -> None:
    """The whole row of the running worker."""
    key, home = bytes.fromhex(target.orders["key"]), Path(target.orders["victim_home"])
    async with open_hand(target, key=key) as hand:
        cells = await WorkerMatrix(hand, home, every=target.orders["every"]).run()
    say(cells=[asdict(cell) for cell in cells])


if __name__ == "__main__":
    run(main)
