"""Payer and payees joined by a lossy link, over the real tables, with an escrow that lags.

Every step may be followed by a crash before or after its save; vouchers are lost, and sent again
after a resume; locks land late, expire, or never land; redemptions happen in any order.  What must
hold at every moment is in the invariants; what must hold in the end, in `teardown`.
"""

import os
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from node.adapters.store.payee import SqlitePayeeStore
from node.adapters.store.payer import SqlitePayerStore
from node.adapters.store.schema import migrate
from node.adapters.store.worker import SqliteWorkerStore
from node.adapters.store.writer import Work, Writer
from node.errors import CorruptState, Unavailable, WalletError
from node.protocol import codec, payee_ledger, payer_ledger, signing
from node.protocol.fields import ZERO_HASH, Address, Hash, Signed
from node.protocol.frames import VoucherFrame
from node.protocol.payee_state import (
    AskResume,
    ChainSeen,
    Credit,
    Ended,
    HeldByPayer,
    Now,
    PaidSeen,
    PayeeRules,
    PayeeState,
    PayerSeen,
    Refuse,
    SaveBest,
    SaveTab,
    VoucherSeen,
)
from node.protocol.payee_state import SaveVoucher as PayeeSaves
from node.protocol.payer_state import (
    Accept,
    Flush,
    Funds,
    FundsSeen,
    HeldByPayee,
    LockSeen,
    MakeLock,
    PayerState,
    Release,
    Reserve,
    SaveRedeemed,
    SaveReservation,
    SaveVoucher,
    SegmentRef,
    SignedLock,
)
from node.protocol.statements import Award, Finish, Lock, Progress, Receipt, Terms, Voucher
from node.protocol.tabs import tab_id, tab_of_terms, tab_of_voucher
from node.roles.admission import admit_event, segment_of
from node.roles.stores import TabRow
from tests.roles.fakes import DOMAIN, UNIX_MS_START, key_of
from tests.roles.model_escrow import ModelEscrow
from tests.roles.payment_world import award_of, terms_of

T = TypeVar("T")

PAYER_KEY = key_of(1)
PAYER = signing.address_of_key(PAYER_KEY)
WORKERS = [signing.address_of_key(key_of(number)) for number in (2, 3)]
KEYS = {signing.address_of_key(key_of(number)): key_of(number) for number in (2, 3)}
MODELS = [b"m" * 32, b"n" * 32]
QUANTUM = 20
START_S = UNIX_MS_START // 1000
MARGIN_S = 600
RULES = PayeeRules(
    credit_micro=60, credit_new_micro=100, debt_max_micro=10_000, exit_margin_s=MARGIN_S
)
A_WORKER = st.sampled_from(WORKERS)
A_MODEL = st.sampled_from(MODELS)
A_CRASH = st.sampled_from(["", "", "", "", "", "before", "after"])
A_RARITY = st.integers(0, 9)
A_LIFE = st.sampled_from([900, 5000])
Draw = Callable[[st.SearchStrategy[Any]], Any]
OPS = {
    "award": 8,
    "trade": 12,
    "work": 6,
    "pay": 6,
    "flush": 6,
    "deliver": 6,
    "deliver_one": 2,
    "finish": 4,
    "redeem": 4,
    "read_payer": 3,
    "read_payee": 2,
    "read_paid": 2,
    "reconnect": 3,
    "lock": 2,
    "submit_lock": 2,
    "lose": 1,
    "restart_payer": 1,
    "restart_payee": 1,
    "expire_lock": 1,
    "wait": 1,
    "deposit": 1,
}
"""What happens, and how often."""
AN_OP = st.sampled_from([op for op, weight in OPS.items() for _ in range(weight)])
DEEP = int(os.environ.get("STATEFUL_EXAMPLES", "40"))


class DirectWriter(Writer):
    """The tables without a thread: each write is a transaction, done at once."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection)

    async def write(self, work: Work[T]) -> T:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(self.connection)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    async def read(self, work: Work[T]) -> T:
        return work(self.connection)


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waited")


@dataclass
class Running:
    """A segment as the test sees both of its sides."""

    award: Award
    digest: Hash
    terms: Terms
    earned: int = 0
    accepted: int = 0
    receipt: Hash | None = None
    over: bool = False
    released: bool = False

    @property
    def ref(self) -> SegmentRef:
        return self.award.job, self.award.attempt


class Node:
    """One payee: its tables, its state in memory and what it has credited."""

    def __init__(self, account: Address) -> None:
        self.account = account
        writer = DirectWriter()
        self.store = SqlitePayeeStore(writer)
        self.worker_store = SqliteWorkerStore(writer)
        self.state = PayeeState(rules=RULES)
        self.rows: dict[Hash, TabRow] = {}
        self.paid: dict[Hash, int] = {}
        """Saved, by award."""
        self.best_ever: dict[Hash, int] = {}


class Payments(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.escrow = ModelEscrow(time_s=START_S, lag=2)
        self.payer_store = SqlitePayerStore(DirectWriter())
        self.payer = PayerState(payer=PAYER)
        self.nodes = {worker: Node(worker) for worker in WORKERS}
        self.links: dict[Address, list[VoucherFrame]] = {worker: [] for worker in WORKERS}
        self.segments: dict[SegmentRef, Running] = {}
        self.count = 0
        self.signed: dict[tuple[Hash, int], Voucher] = {}
        self.locks: list[Lock] = []
        self.watched: set[Address] = set()
        """Payees whose locks the payer reads: those it ever signed one for."""
        self.lock_expired = False
        self.misled = False

    # ------------------------------------------------------------------------------ the payer

    @property
    def now_s(self) -> int:
        return self.escrow.head.time_s

    @property
    def now(self) -> Now:
        return Now(unix_s=self.now_s, monotonic_s=float(self.now_s - START_S))

    def payer_step(self, event: Any) -> tuple[Any, ...]:
        self.payer, effects = payer_ledger.step(self.payer, event, self.now_s)
        saves = [not type(effect).__name__.startswith("Send") for effect in effects]
        assert saves == sorted(saves, reverse=True), "a send before a save"
        return effects

    def payer_restart(self) -> None:
        rows = done(self.payer_store.load())
        self.payer = PayerState(
            payer=PAYER,
            tabs={tab.id: tab for tab in rows.tabs},
            reservations={each.ref: each for each in rows.reservations},
            locks=tuple(
                SignedLock(
                    payee=each.statement.payee,
                    total_micro=each.statement.total,
                    nonce=each.statement.nonce,
                    expiry_s=each.statement.expiry,
                )
                for each in rows.locks
            ),
            lock_nonces=rows.lock_nonces,
            halted=rows.halted,
        )
        self.watched = set(rows.lock_nonces)
        for ref, reservation in self.payer.reservations.items():
            if ref in self.segments:  # what was accepted and not vouchered was memory's only
                self.segments[ref].accepted = reservation.accepted_micro

    @rule(
        op=st.sampled_from([op for op, weight in OPS.items() for _ in range(weight)]),
        data=st.data(),
    )
    def act(self, op: str, data: st.DataObject) -> None:
        getattr(self, f"do_{op}")(data.draw)

    @initialize(amount=st.integers(50, 300))
    def fund(self, amount: int) -> None:
        self.escrow.deposit(PAYER, amount)
        self.escrow.settle()
        self.read_payer(gap=0)

    def do_deposit(self, draw: Draw) -> None:
        self.escrow.deposit(PAYER, draw(st.integers(1, 100)))

    def do_wait(self, draw: Draw) -> None:
        self.escrow.pass_time(draw(st.sampled_from([1, 700])))

    def do_read_payer(self, draw: Draw) -> None:
        self.read_payer(gap=draw(st.integers(0, 3)), behind=draw(st.integers(0, 3)))

    def read_payer(self, gap: int, behind: int = 0) -> None:
        """The chain is read in two calls, of a node that may be behind; blocks pass in between."""
        tabs = list(self.payer.tabs)
        at = len(self.escrow.blocks) - 1 - self.escrow.lag - behind
        before, final = self.escrow.blocks[max(0, at - gap)], self.escrow.blocks[max(0, at)]
        paid = {tab: before.paid.get(tab, 0) for tab in tabs}
        views = {
            payee: self.escrow.view_at(final, payer=PAYER, payee=payee, signer=PAYER)
            for payee in self.watched or {WORKERS[0]}
        }
        view = next(iter(views.values()))
        funds = Funds(
            block=view.block,
            block_time_s=view.block_time_s,
            free_micro=view.account.free_micro,
            locked_micro=view.account.locked_micro,
            exit_ready_s=0,
            signer_expiry_s=view.signer_expiry_s,
            signer_left_micro=view.signer_left_micro,
            exact=paid == {tab: final.paid.get(tab, 0) for tab in tabs},
            locks={
                payee: LockSeen(amount_micro=each.lock.amount_micro, nonce=each.lock.nonce)
                for payee, each in views.items()
            },
        )
        if self.payer.funds is None or funds.block >= self.payer.funds.block:
            self.misled = behind > 0
        for effect in self.payer_step(FundsSeen(funds=funds, paid=paid)):
            assert isinstance(effect, SaveRedeemed), "an honest chain halts nobody"
            done(self.payer_store.save_redeemed(effect.redeemed, effect.locks_ended))

    def do_award(self, draw: Draw) -> None:
        terms = terms_of(draw(A_WORKER), model=draw(A_MODEL), quantum=QUANTUM)
        cap, crash = draw(st.integers(1, 60)), draw(A_CRASH)
        if draw(st.booleans()):
            self.escrow.settle()
            self.read_payer(gap=0)
        self.count += 1
        award = award_of(PAYER, terms, self.count, cap=cap)
        tab = tab_of_terms(terms, payer=PAYER)
        event = Reserve(
            job=award.job,
            attempt=0,
            tab_id=tab_id(tab),
            tab=tab,
            worker=terms.worker,
            cap_micro=cap,
            hold_micro=1,
        )
        try:
            effects = self.payer_step(event)
        except (WalletError, Unavailable):
            return
        if crash == "before":
            self.payer_restart()
            return
        for effect in effects:
            assert isinstance(effect, SaveReservation)
            done(self.payer_store.reserve(effect.reservation, effect.tab))
        if crash == "after":
            self.payer_restart()
            return
        self.offer(award, terms, fresh=draw(st.booleans()))

    def offer(self, award: Award, terms: Terms, *, fresh: bool) -> None:
        """The award reaches its worker, which may go by what it read of the chain before."""
        node = self.nodes[terms.worker]
        if fresh or PAYER not in node.state.payers:
            self.read_payee(node)
        digest = signing.digest(award, DOMAIN)
        segment, tab = segment_of(award, terms, digest)
        view = self.escrow.view_at(self.escrow.final, payer=PAYER, payee=node.account, signer=PAYER)
        effects = self.payee_step(node, admit_event(segment, tab, view))
        if any(isinstance(effect, Refuse) for effect in effects):
            self.release(award.job)
            return
        for effect in effects:
            assert isinstance(effect, SaveTab)
            node.rows[effect.tab.id] = TabRow(tab=effect.tab, splits=())
            done(node.store.save_tab(node.rows[effect.tab.id]))
        done(
            node.worker_store.begin_segment(
                digest=digest,
                award=signing.sign(award, DOMAIN, PAYER_KEY),
                terms=signing.sign(terms, DOMAIN, KEYS[terms.worker]),
                at_ms=self.count,
            )
        )
        node.paid[digest] = node.state.segments[digest].paid_micro
        self.segments[award.job, 0] = Running(award=award, digest=digest, terms=terms)

    # -------------------------------------------------------------------------- one segment

    def live(self) -> list[Running]:
        return [each for each in self.segments.values() if not each.over]

    def do_work(self, draw: Draw) -> None:
        """A worker that follows the rule delivers only within the quantum."""
        if not self.live():
            return
        segment, tokens = draw(st.sampled_from(self.live())), draw(st.integers(1, 30))
        node = self.nodes[segment.terms.worker]
        room = node.paid[segment.digest] + QUANTUM - segment.earned
        self.earn(segment, max(0, min(tokens, room, segment.award.cap - segment.earned)))

    def earn(self, segment: Running, amount: int) -> None:
        segment.earned += amount
        progress = Progress(
            award=segment.digest,
            tokens_in=0,
            tokens_cached=0,
            tokens_out=segment.earned,
            amount=segment.earned,
            chain=ZERO_HASH,
            at_ms=0,
        )
        node = self.nodes[segment.terms.worker]
        signed = signing.sign(progress, DOMAIN, KEYS[node.account])
        done(node.worker_store.save_progress(signed))

    def accept(self, segment: Running, amount: int, receipt: Hash | None) -> None:
        event = Accept(job=segment.award.job, attempt=0, accepted_micro=amount, receipt=receipt)
        try:
            effects = self.payer_step(event)
        except (WalletError, CorruptState):
            assert segment.released or self.payer.halted
            return
        segment.accepted = max(segment.accepted, amount)
        for effect in effects:
            assert isinstance(effect, SaveReservation)
            done(self.payer_store.save_reservation(effect.reservation, effect.tab))

    def do_trade(self, draw: Draw) -> None:
        """All goes well for a while."""
        for segment in self.live():
            node = self.nodes[segment.terms.worker]
            room = node.paid[segment.digest] + QUANTUM - segment.earned
            more = max(0, min(draw(st.integers(0, 30)), room, segment.award.cap - segment.earned))
            self.earn(segment, more)
            self.accept(segment, segment.earned, None)
        self.flush(crash="")
        for worker in WORKERS:
            self.deliver(worker)

    def do_pay(self, draw: Draw) -> None:
        for segment in self.live():
            self.accept(segment, segment.earned * draw(st.integers(2, 4)) // 4, None)

    def do_finish(self, draw: Draw) -> None:
        """The worker ends with a receipt; the client accepts it, or pays what it agreed to."""
        if not self.live():
            return
        segment, disputed = draw(st.sampled_from(self.live())), draw(A_RARITY) == 0
        node = self.nodes[segment.terms.worker]
        receipt = self.receipt_of(segment)
        digest = signing.digest(receipt, DOMAIN)
        signed = signing.sign(receipt, DOMAIN, KEYS[node.account])
        done(node.worker_store.save_receipt(signed, digest=digest))
        self.payee_step(
            node, Ended(award=segment.digest, earned_micro=segment.earned, receipt=digest)
        )
        segment.over = True
        if not disputed:
            segment.receipt = digest
            self.accept(segment, segment.earned, digest)
        self.release(segment.award.job)

    def receipt_of(self, segment: Running) -> Receipt:
        return Receipt(
            award=segment.digest,
            tokens_in=0,
            tokens_cached=0,
            tokens_out=segment.earned,
            amount=segment.earned,
            chain=ZERO_HASH,
            finish=Finish.STOP,
            accepted_ms=0,
            first_token_ms=0,
            ended_ms=0,
        )

    def release(self, job: bytes) -> None:
        for effect in self.payer_step(Release(job=job, attempt=0)):
            assert isinstance(effect, SaveReservation)
            done(self.payer_store.save_reservation(effect.reservation, effect.tab))
        if (job, 0) in self.segments:
            self.segments[job, 0].released = True

    # -------------------------------------------------------------------------------- vouchers

    def do_flush(self, draw: Draw) -> None:
        self.flush(crash=draw(A_CRASH))

    def flush(self, crash: str) -> None:
        drafts = []
        for tab in payer_ledger.due_tabs(self.payer):
            try:
                effects = self.payer_step(Flush(tab_id=tab))
            except WalletError:
                # Restarted, it believed a node that has not seen the newest deposit.
                assert self.misled
                continue
            drafts += [each.draft for each in effects if isinstance(each, SaveVoucher)]
        frames = [
            (
                draft,
                VoucherFrame(
                    voucher=signing.sign(draft.voucher, DOMAIN, PAYER_KEY),
                    rises=draft.rises,
                    receipts=draft.receipts,
                ),
            )
            for draft in drafts
        ]
        if crash == "before":  # signed and gone: no one has seen it
            self.payer_restart()
            return
        done(self.payer_store.save_vouchers(frames))
        for draft, frame in frames:
            self.note_signed(frame.voucher.statement)
            if crash != "after":
                self.links[draft.tab.worker].append(frame)
        if crash == "after":
            self.payer_restart()

    def note_signed(self, voucher: Voucher) -> None:
        key = (tab_id(tab_of_voucher(voucher)), voucher.cumulative)
        assert self.signed.setdefault(key, voucher) == voucher, "signed twice"

    def do_deliver_one(self, draw: Draw) -> None:
        """One of those under way: the next, once or twice, or (lost ones before it) a later one."""
        for worker in WORKERS:
            link = self.links[worker]
            if link:
                at, again = draw(st.integers(0, min(2, len(link) - 1))), draw(st.booleans())
                self.receive(self.nodes[worker], link[at])
                del link[: at if again else at + 1]

    def do_deliver(self, draw: Draw) -> None:
        worker = draw(A_WORKER)
        self.deliver(worker)
        if draw(A_RARITY) == 0:
            self.payee_restart(self.nodes[worker])

    def deliver(self, worker: Address) -> None:
        while self.links[worker]:
            self.receive(self.nodes[worker], self.links[worker].pop(0))

    def do_lose(self, draw: Draw) -> None:
        """The session ends; what was under way is gone."""
        self.links[draw(A_WORKER)].clear()

    def do_reconnect(self, draw: Draw) -> None:
        worker = draw(A_WORKER)
        self.links[worker].clear()
        self.reconnect(worker)

    def reconnect(self, worker: Address) -> None:
        """Both sides tell each other what they hold."""
        node = self.nodes[worker]
        held = {row.tab.id: row.held for row in node.rows.values() if row.held is not None}
        for tab, voucher in held.items():
            event = HeldByPayee(
                tab_id=tab,
                cumulative_micro=voucher.statement.cumulative,
                receipts=voucher.statement.receipts,
            )
            for effect in self.payer_step(event):
                raise AssertionError(f"halted: {effect}")
        rows = done(self.payer_store.load())
        for tab_row in rows.tabs:
            if tab_row.worker != worker:
                continue
            if tab_row.id in rows.vouchers:
                self.hear_payer(node, rows.vouchers[tab_row.id])
            given = held[tab_row.id].statement.cumulative if tab_row.id in held else 0
            self.links[worker] += done(
                self.payer_store.vouchers_after(tab_row.id, cumulative_micro=given, count_max=1000)
            )

    def hear_payer(self, node: Node, voucher: Signed[Voucher]) -> None:
        event = HeldByPayer(
            client=PAYER,
            tab_id=tab_id(tab_of_voucher(voucher.statement)),
            cumulative_micro=voucher.statement.cumulative,
        )
        for effect in self.payee_step(node, event):
            assert isinstance(effect, SaveBest)
            self.save(node, effect, voucher)

    def save(self, node: Node, effect: PayeeSaves | SaveBest, voucher: Signed[Voucher]) -> None:
        before = node.rows[effect.tab.id]
        best = before.best
        if best is None or voucher.statement.cumulative >= best.statement.cumulative:
            best = voucher
        held = voucher if isinstance(effect, PayeeSaves) else before.held
        row = TabRow(tab=effect.tab, splits=(), held=held, best=best, owed_since_ms=1)
        node.rows[row.tab.id] = row
        if isinstance(effect, PayeeSaves):
            save = node.store.save_voucher(row, segments=effect.segments, advances=effect.advances)
        else:
            save = node.store.save_tab(row)
        done(save)
        node.best_ever[row.tab.id] = max(node.best_ever.get(row.tab.id, 0), row.tab.best_micro)

    # ------------------------------------------------------------------------------ the payees

    def payee_step(self, node: Node, event: Any) -> tuple[Any, ...]:
        node.state, effects = payee_ledger.step(node.state, event, self.now)
        return effects

    def receive(self, node: Node, frame: VoucherFrame) -> None:
        frame = codec.decode_frame(codec.encode(frame))  # type: ignore[assignment]
        voucher = frame.voucher.statement
        tab = tab_id(tab_of_voucher(voucher))
        refs = [
            (rise.job, rise.attempt)
            for rise in frame.rises
            if (PAYER, rise.job, rise.attempt) not in node.state.keys
        ]
        found = done(node.store.find_segments(client=PAYER, refs=refs, receipts=frame.receipts))
        event = VoucherSeen(
            client=PAYER,
            tab_id=tab,
            cumulative_micro=voucher.cumulative,
            root=voucher.receipts,
            rises=frame.rises,
            receipts=frame.receipts,
            found=tuple(
                replace(each, ended_s=self.now.monotonic_s)
                for each in found
                if each.award not in node.state.segments
            ),
        )
        for effect in self.payee_step(node, event):
            if isinstance(effect, PayeeSaves | SaveBest):
                self.save(node, effect, frame.voucher)
            elif isinstance(effect, Credit):
                for segment in effect.segments:
                    assert segment.paid_micro >= node.paid.get(segment.award, 0)
                    node.paid[segment.award] = segment.paid_micro
            else:
                assert isinstance(effect, AskResume)

    def payee_restart(self, node: Node) -> None:
        rows = done(node.store.load())
        node.rows = {row.tab.id: row for row in rows.tabs}
        node.state = payee_ledger.restore(
            RULES,
            tabs=[row.tab for row in rows.tabs],
            segments=[replace(each, ended_s=self.now.monotonic_s) for each in rows.segments],
            advances=rows.advances,
        )
        for segment in self.segments.values():
            if segment.terms.worker == node.account:
                segment.over = True  # what ran does not run on
        self.read_payee(node)

    def read_paid(self, node: Node) -> None:
        paid = {tab: self.escrow.final.paid.get(tab, 0) for tab in node.state.tabs}
        for effect in self.payee_step(node, PaidSeen(paid=paid)):
            done(node.store.save_redeemed(effect.redeemed))

    def read_payee(self, node: Node) -> None:
        self.read_paid(node)
        view = self.escrow.view_at(self.escrow.final, payer=PAYER, payee=node.account, signer=PAYER)
        seen = PayerSeen(
            seen_s=self.now.monotonic_s,
            free_micro=view.account.free_micro,
            exit_ready_s=0,
            lock_micro=view.lock.amount_micro,
            lock_expiry_s=view.lock.expiry_s,
        )
        self.payee_step(node, ChainSeen(payer=PAYER, seen=seen))

    def do_read_payee(self, draw: Draw) -> None:
        self.read_payee(self.nodes[draw(A_WORKER)])

    def do_read_paid(self, draw: Draw) -> None:
        """The redeemer saw what was paid; the payer's funds and lock are read later."""
        self.read_paid(self.nodes[draw(A_WORKER)])

    def do_restart_payee(self, draw: Draw) -> None:
        self.payee_restart(self.nodes[draw(A_WORKER)])

    def do_restart_payer(self, draw: Draw) -> None:
        self.payer_restart()

    def do_redeem(self, draw: Draw) -> None:
        node, model = self.nodes[draw(A_WORKER)], draw(A_MODEL)
        row = node.rows.get(
            tab_id(tab_of_terms(terms_of(node.account, model=model, quantum=QUANTUM), payer=PAYER))
        )
        if row is not None and row.best is not None:
            self.escrow.redeem(row.best.statement)

    # ----------------------------------------------------------------------------------- locks

    def do_lock(self, draw: Draw) -> None:
        worker, total, life = draw(A_WORKER), draw(st.integers(1, 80)), draw(A_LIFE)
        self.watched.add(worker)
        self.read_payer(gap=0)
        event = MakeLock(payee=worker, total_micro=total, expiry_s=self.now_s + life)
        try:
            (effect,) = self.payer_step(event)
        except WalletError:
            return
        lock = Lock(
            payer=PAYER,
            payee=worker,
            total=effect.lock.total_micro,
            nonce=effect.lock.nonce,
            expiry=effect.lock.expiry_s,
        )
        done(self.payer_store.save_lock(signing.sign(lock, DOMAIN, PAYER_KEY)))
        self.locks.append(lock)

    def do_submit_lock(self, draw: Draw) -> None:
        if self.locks:
            self.escrow.submit_lock(draw(st.sampled_from(self.locks)))

    def do_expire_lock(self, draw: Draw) -> None:
        if self.escrow.expire_lock(PAYER, draw(A_WORKER)):
            self.lock_expired = True

    # ------------------------------------------------------------------------------ invariants

    def best_signed(self) -> dict[Hash, Voucher]:
        best: dict[Hash, Voucher] = {}
        for (tab, cumulative), voucher in self.signed.items():
            if tab not in best or best[tab].cumulative < cumulative:
                best[tab] = voucher
        return best

    @invariant()
    def promised_within_the_deposit(self) -> None:
        """Whoever comes first, and with whichever signed locks, everybody can be paid in full."""
        for first in WORKERS:
            for eager in (True, False):
                escrow = self.escrow.fork()
                self.collect(escrow, [first, *(w for w in WORKERS if w != first)], eager)
                for tab, voucher in self.best_signed().items():
                    assert escrow.head.paid.get(tab, 0) == voucher.cumulative, "not covered"

    def collect(self, escrow: ModelEscrow, order: list[Address], eager: bool) -> None:
        """Each payee in turn takes all it can: its locks before or after its vouchers."""
        for worker in order:
            locks = [lock for lock in self.locks if lock.payee == worker]
            vouchers = [v for v in self.best_signed().values() if v.payee == worker]
            if eager:
                for lock in locks:
                    escrow.submit_lock(lock)
            for voucher in vouchers:
                escrow.redeem(voucher)
            for lock in locks:
                escrow.submit_lock(lock)

    @invariant()
    def unpaid_within_the_quantum(self) -> None:
        for segment in self.live():
            node = self.nodes[segment.terms.worker]
            assert segment.earned - node.paid[segment.digest] <= QUANTUM

    @invariant()
    def uncovered_within_the_credit(self) -> None:
        if self.lock_expired:
            return
        for node in self.nodes.values():
            best = {row.tab.id: row.tab.best_micro for row in node.rows.values()}
            owed = sum(max(0, b - self.escrow.head.paid.get(t, 0)) for t, b in best.items())
            lock = self.escrow.head.escrow.lock_of(PAYER, node.account).amount
            assert owed - lock <= RULES.credit_micro

    @invariant()
    def no_voucher_is_lost(self) -> None:
        for node in self.nodes.values():
            for tab, best in node.best_ever.items():
                row = node.rows[tab]
                assert row.tab.best_micro == best
                assert row.best is not None
                assert row.best.statement.cumulative == best

    @invariant()
    def nothing_unsaved_was_sent(self) -> None:
        for frames in self.links.values():
            for frame in frames:
                assert self.signed[
                    tab_id(tab_of_voucher(frame.voucher.statement)),
                    frame.voucher.statement.cumulative,
                ]

    @invariant()
    def a_voucher_is_the_sum_of_what_was_accepted(self) -> None:
        by_tab: dict[Hash, int] = {}
        for node in self.nodes.values():
            for segment in self.segments.values():
                if segment.terms.worker == node.account:
                    tab = tab_id(tab_of_terms(segment.terms, payer=PAYER))
                    paid = node.paid[segment.digest]
                    assert paid <= segment.accepted
                    by_tab[tab] = by_tab.get(tab, 0) + paid
            for row in node.rows.values():
                assert row.tab.cumulative_micro == by_tab.get(row.tab.id, 0)

    def teardown(self) -> None:
        """With everybody back on line, each worker gets what was accepted, to the unit."""
        if not self.segments:
            return
        self.read_payer(gap=0)
        for segment in list(self.segments.values()):
            if not segment.over:
                self.accept(segment, segment.earned, None)
                segment.over = True
            elif not segment.released:
                self.accept(segment, segment.accepted, segment.receipt)
            self.release(segment.award.job)
        self.flush(crash="")
        for worker in WORKERS:
            self.links[worker].clear()
            self.reconnect(worker)
            self.deliver(worker)
            self.payee_restart(self.nodes[worker])
            for row in self.nodes[worker].rows.values():
                if row.best is not None:
                    self.escrow.redeem(row.best.statement)
        for segment in self.segments.values():
            node = self.nodes[segment.terms.worker]
            assert node.paid[segment.digest] == segment.accepted
        accepted = sum(segment.accepted for segment in self.segments.values())
        assert sum(self.escrow.head.paid.values()) == accepted


Payments.TestCase.settings = settings(
    max_examples=DEEP,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
TestPayments = Payments.TestCase
