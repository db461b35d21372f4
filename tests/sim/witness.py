"""Sees everything that nodes send and save, and says when a rule of design.md is broken.

It believes no role: statements are taken from the bytes on the wire, what was saved from the
database by SQL, money from the chain.  What a node sent before a crash counts after it.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from node.protocol import codec, signing
from node.protocol.fields import Hash, Signed
from node.protocol.frames import (
    AcceptanceFrame,
    AwardFrame,
    Bid,
    Chunk,
    CutoffFrame,
    Frame,
    LockFrame,
    Offer,
    ProgressFrame,
    ReceiptFrame,
    Refusal,
    Resume,
    VoucherFrame,
)
from node.protocol.signing import Domain
from node.protocol.statements import Award, Terms, Voucher
from node.protocol.tabs import tab_id, tab_of_terms, tab_of_voucher
from node.protocol.transcript_checks import end_of
from node.protocol.transcript_verify import verify
from node.units import cost_micro
from tests.sim.engine import tokens_cached

KINDS = {
    cls.kind
    for cls in (
        AcceptanceFrame, AwardFrame, Bid, Chunk, CutoffFrame, LockFrame, Offer, ProgressFrame,
        ReceiptFrame, Refusal, Resume, VoucherFrame,
    )
}  # fmt: skip
Fail = Callable[[str, str], None]
"""Given the broken rule and what shows it."""


@dataclass(slots=True, kw_only=True)
class Segment:
    """One award and what was sent and promised for it."""

    award: Award
    terms: Terms
    digest: Hash
    worker: str = ""
    """Name of the node that serves it."""
    tokens_sent: int = 0
    promised_micro: int = 0

    @property
    def tab(self) -> Hash:
        """Which it is paid on."""
        return tab_id(tab_of_terms(self.terms, payer=self.award.payer))

    def cost_micro(self, tokens_out: int) -> int:
        """What so many tokens cost."""
        return self._cost_micro(tokens_out, tokens_cached(self.award.tokens_in))

    def most_micro(self, tokens_out: int) -> int:
        """The same for a client that was never told what was cached."""
        return self._cost_micro(tokens_out, 0)

    def _cost_micro(self, tokens_out: int, cached: int) -> int:
        if tokens_out == 0:
            return 0
        return cost_micro(
            tokens_in=self.award.tokens_in - cached,
            tokens_cached=cached,
            tokens_out=tokens_out,
            price_in=self.terms.price_in,
            price_cached=self.terms.price_cached,
            price_out=self.terms.price_out,
        )


@dataclass(slots=True)
class Witness:
    """Watches one run."""

    domain: Domain
    fail: Fail
    disks: dict[str, sqlite3.Connection] = field(default_factory=dict)
    """By node."""
    slots: dict[tuple[Any, ...], bytes] = field(default_factory=dict)
    """What was signed for what: a second content for a slot is a double signature."""
    terms: dict[Hash, Terms] = field(default_factory=dict)
    segments: dict[tuple[bytes, int], Segment] = field(default_factory=dict)
    """By job and attempt; jobs are named at random."""
    vouchered: dict[Hash, int] = field(default_factory=dict)
    """By tab: the highest cumulative that ever left its payer."""
    earned: dict[Hash, int] = field(default_factory=dict)
    """By tab: the cost of all that was ever delivered on it."""
    acknowledged: dict[tuple[str, Hash], int] = field(default_factory=dict)
    """By worker and tab: the highest that it ever said to hold."""

    def frame(self, name: str, payload: bytes) -> None:
        """A node is about to send this."""
        if payload[1] in KINDS:
            self._take(name, codec.decode_frame(payload))

    def _take(self, name: str, frame: Frame) -> None:
        match frame:
            case Offer(terms=terms) | Bid(terms=terms):
                self._terms(terms)
            case Refusal(offer=offer):
                if offer is not None:
                    self._terms(offer)
            case AwardFrame():
                self._award(name, frame)
            case VoucherFrame():
                self._voucher(name, frame)
            case Resume():
                for voucher in frame.vouchers:
                    self._resumed(name, voucher)
            case AcceptanceFrame(acceptance=acceptance):
                key = ("acceptance", acceptance.statement.award)
                self._kept(name, key, acceptance, "segments", "acceptance")
            case ReceiptFrame(receipt=receipt):
                key = ("receipt", receipt.statement.award)
                self._kept(name, key, receipt, "segments", "receipt")
            case CutoffFrame(cutoff=cutoff):
                key = ("cutoff", cutoff.statement.award)
                self._kept(name, key, cutoff, "bought", "cutoff")
            case ProgressFrame():
                self._progress(name, frame)
            case LockFrame(lock=lock):
                each = lock.statement
                self._once(name, ("lock", each.payer, each.payee, each.nonce), lock)
                query = "SELECT lock FROM locks_given WHERE payee = ? AND nonce = ?"
                self._saved(name, "lock", lock, query, (each.payee, each.nonce))
            case Chunk():
                self._chunk(name, frame)

    # ---------------------------------------------------------------------------- statements

    def _terms(self, signed: Signed[Terms]) -> None:
        terms = signed.statement
        self._once("", ("terms", terms.worker, terms.serial), signed)
        self.terms[signing.digest(terms, self.domain)] = terms

    def _award(self, name: str, frame: AwardFrame) -> None:
        award = frame.award.statement
        digest = signing.digest(award, self.domain)
        self._once(name, ("award", award.client, award.job, award.attempt), frame.award)
        query = "SELECT award FROM bought WHERE digest = ?"
        self._saved(name, "award", frame.award, query, (digest,))
        query = "SELECT cap FROM reservations WHERE job = ? AND attempt = ?"
        row = self.disks[name].execute(query, (award.job, award.attempt)).fetchone()
        if row is None or row[0] < award.cap:
            self.fail("an award spends from a saved reservation", f"{name}: {award.job.hex()}")
        terms = self.terms.get(award.terms)
        if terms is None:
            self.fail("an award names terms that were sent", f"{name}: {award.job.hex()}")
            return
        key = award.job, award.attempt
        self.segments.setdefault(key, Segment(award=award, terms=terms, digest=digest))
        if frame.voucher is not None:
            self._voucher(name, frame.voucher)

    def _voucher(self, name: str, frame: VoucherFrame) -> None:
        tab = self._promise(name, frame.voucher)
        cumulative = frame.voucher.statement.cumulative
        key = ("rises", tab, cumulative)
        first = key not in self.slots
        self._once(name, key, frame)
        if not first:
            return
        for rise in frame.rises:
            segment = self.segments.get((rise.job, rise.attempt))
            query = "SELECT award FROM bought WHERE job = ? AND attempt = ?"
            if segment is None:  # a prepaid voucher may overtake its award
                row = self.disks[name].execute(query, (rise.job, rise.attempt)).fetchone()
                if row is None:
                    self.fail("vouchers rise for awards", f"{name}: {rise.job.hex()}")
                    return
                award = codec.decode_signed(Award, row[0]).statement
                segment = self.segments[rise.job, rise.attempt] = Segment(
                    award=award,
                    terms=self.terms[award.terms],
                    digest=signing.digest(award, self.domain),
                )
            segment.promised_micro += rise.amount
            due = max(segment.most_micro(segment.tokens_sent), segment.terms.prepay)
            if segment.promised_micro > due:
                what = f"{name} vouchered {segment.promised_micro} for what costs {due}"
                self.fail("nothing is paid twice, or before it came", what)

    def _promise(self, name: str, signed: Signed[Voucher]) -> Hash:
        """A voucher leaves its payer."""
        voucher = signed.statement
        tab = tab_id(tab_of_voucher(voucher))
        self._once(name, ("voucher", tab, voucher.cumulative), signed)
        query = "SELECT cumulative, voucher FROM payer_tabs WHERE id = ?"
        row = self.disks[name].execute(query, (tab,)).fetchone()
        if row is None or row[0] < voucher.cumulative:
            self.fail("save, then send", f"{name} sent a voucher of {voucher.cumulative} unsaved")
        elif row[0] == voucher.cumulative and row[1] != codec.encode_struct(signed):
            self.fail("save, then send", f"{name} sent another voucher than it saved")
        self.vouchered[tab] = max(self.vouchered.get(tab, 0), voucher.cumulative)
        return tab

    def _resumed(self, name: str, signed: Signed[Voucher]) -> None:
        voucher = signed.statement
        tab = tab_id(tab_of_voucher(voucher))
        query = "SELECT cumulative FROM payee_tabs WHERE id = ?"
        row = self.disks[name].execute(query, (tab,)).fetchone()
        if row is None:
            self._promise(name, signed)
            return
        if row[0] < voucher.cumulative:
            self.fail("save, then send", f"{name} acknowledged {voucher.cumulative} unsaved")
        key = name, tab
        self.acknowledged[key] = max(self.acknowledged.get(key, 0), voucher.cumulative)

    def _progress(self, name: str, frame: ProgressFrame) -> None:
        progress = frame.progress.statement
        self._once(name, ("progress", progress.award, progress.tokens_out), frame.progress)
        query = "SELECT tokens_out, progress FROM segments WHERE digest = ?"
        row = self.disks[name].execute(query, (progress.award,)).fetchone()
        if row is None or row[1] is None or row[0] < progress.tokens_out:
            self.fail("save, then send", f"{name} sent a progress unsaved")

    def _chunk(self, name: str, frame: Chunk) -> None:
        query = "SELECT attempt, paid FROM segments WHERE job = ? ORDER BY attempt DESC LIMIT 1"
        row = self.disks[name].execute(query, (frame.job,)).fetchone()
        segment = self.segments.get((frame.job, row[0])) if row is not None else None
        if row is None or segment is None:
            self.fail("output is of a saved award", f"{name}: {frame.job.hex()}")
            return
        segment.worker = name
        before = segment.cost_micro(segment.tokens_sent)
        position = frame.position + len(frame.data) // 4
        segment.tokens_sent = max(segment.tokens_sent, position - segment.award.position)
        tab, more = segment.tab, segment.cost_micro(segment.tokens_sent) - before
        self.earned[tab] = self.earned.get(tab, 0) + more
        unpaid = segment.cost_micro(segment.tokens_sent) - row[1]
        if unpaid > segment.terms.quantum:
            what = f"{name} delivers {unpaid} unpaid, the quantum is {segment.terms.quantum}"
            self.fail("unpaid stays within the quantum, by vouchers that are saved", what)

    def sealed(self, name: str, file: bytes, disclosure: bytes) -> None:
        """A client has sealed a job: all that was promised for it is in there, none of it twice."""
        report = verify(file, disclosure, domain=self.domain)
        if not report.passed:
            self.fail("a transcript verifies", f"{name}: {report.failed}")
            return
        assert report.sealed is not None
        job, told = report.sealed.transcript, dict[int, int]()
        for part in job.segments:
            paid_micro = part.payment.amount if part.payment else 0
            told[part.award.statement.attempt] = paid_micro
            position, _ = end_of(part)
            segment = self.segments[job.job, part.award.statement.attempt]
            due_micro = segment.most_micro(position - segment.award.position)
            if paid_micro > max(due_micro, segment.terms.prepay):
                what = f"{name} paid {paid_micro} for what costs {due_micro}"
                self.fail("each segment costs its own tokens", what)
        for (named, attempt), segment in self.segments.items():
            if named != job.job:
                continue
            said = told.get(attempt, segment.terms.prepay)  # else it gave nothing, and keeps that
            if segment.promised_micro > said:
                what = f"{name} promised {segment.promised_micro}, sealed {said}"
                self.fail("what is promised for a job is in its transcript", what)

    # -------------------------------------------------------------------------------- rules

    def _once(self, name: str, slot: tuple[Any, ...], content: Any) -> None:
        blob = (
            codec.encode_struct(content)
            if isinstance(content, Signed)
            else codec.encode_frame(content)
        )
        if self.slots.setdefault(slot, blob) != blob:
            self.fail("never two statements for one slot", f"{name}: {slot[0]} {slot[2:]}")

    def _kept(
        self, name: str, slot: tuple[Any, ...], signed: Signed[Any], table: str, column: str
    ) -> None:
        self._once(name, slot, signed)
        query = f"SELECT {column} FROM {table} WHERE digest = ?"
        self._saved(name, column, signed, query, (signed.statement.award,))

    def _saved(
        self, name: str, what: str, signed: Signed[Any], query: str, values: tuple[Any, ...]
    ) -> None:
        row = self.disks[name].execute(query, values).fetchone()
        if row is None or row[0] != codec.encode_struct(signed):
            self.fail("save, then send", f"{name} sent a {what} unsaved")
