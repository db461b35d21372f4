"""The rules about sums: what stores promise beside what the chain holds, at every event."""

import sqlite3
from dataclasses import dataclass, field

from node.protocol.fields import Address, Hash
from tests.sim.chain import Chain
from tests.sim.escrow import Escrow
from tests.sim.witness import Witness

CLAIM = "CASE closed WHEN 1 THEN due - paid ELSE cap - paid END"
"""`Reservation.claim_micro`."""


@dataclass(slots=True)
class Audit:
    """Judges stores and chain together."""

    chain: Chain
    witness: Witness
    clients: dict[str, Address] = field(default_factory=dict)
    """Payer account by node."""
    workers: dict[str, tuple[Address, int]] = field(default_factory=dict)
    """Payee account and credit, in micro, by node."""
    best: dict[tuple[str, Hash], int] = field(default_factory=dict)
    """By worker and tab: the highest voucher that a commit ever held."""

    def saved(self, name: str) -> None:
        """A node has committed something."""
        if name in self.clients:
            self._promises(name)
        else:
            self._holdings(name)

    def chain_changed(self) -> None:
        """There is a new head."""
        escrow = self.chain.head.escrow
        if not escrow.conserved():
            self._fail("every unit is somewhere", str(escrow))
        for tab, paid in escrow.paid.items():
            if paid > self.witness.vouchered.get(tab, 0):
                self._fail("the chain pays what was signed", f"{paid} on {tab.hex()}")
        for name in self.clients:
            self._promises(name)

    def left(self, payer: Address) -> bool:
        """Whether a payer has taken its deposit out."""
        return self.chain.head.escrow.of(payer).generation > 0

    def _promises(self, name: str) -> None:
        """What a payer's store promises is covered by what it has in the escrow now."""
        payer, disk = self.clients[name], self.witness.disks[name]
        escrow = self.chain.head.escrow
        if escrow.of(payer).generation:
            return
        funds = escrow.of(payer)
        claims = promised_micro(disk, escrow, payer)
        if claims > funds.free + funds.locked:
            what = f"{name} promised {claims} of {funds.free + funds.locked}"
            self._fail("promised is within the deposit", what)

    def _holdings(self, name: str) -> None:
        """A worker's vouchers never fall, and are within its credit."""
        payee, credit_micro = self.workers[name]
        escrow = self.chain.head.escrow
        uncovered: dict[Address, int] = {}
        rows = self.witness.disks[name].execute("SELECT id, payer, best FROM payee_tabs")
        for tab, payer, best in rows.fetchall():
            key = name, tab
            if best < max(self.best.get(key, 0), self.witness.acknowledged.get(key, 0)):
                self._fail("a voucher that counted stays", f"{name} fell to {best}")
            self.best[key] = best
            # What was paid in advance, and never served, is no credit that was given.
            earned = min(best, self.witness.earned.get(tab, 0))
            owed = max(0, earned - escrow.paid.get(tab, 0))
            uncovered[payer] = uncovered.get(payer, 0) + owed
        for payer, owed in uncovered.items():
            lock = escrow.lock_of(payer, payee).amount
            if owed - lock > credit_micro and not self.left(payer):
                what = f"{name} is owed {owed} with a lock of {lock}, the credit is {credit_micro}"
                self._fail("uncovered is within the credit", what)

    def exited(self, payer: Address, escrow: Escrow) -> None:
        """A payer is about to take its deposit out: nothing may be owed any more."""
        for name in self.workers:
            query = "SELECT id, best FROM payee_tabs WHERE payer = ?"
            for tab, best in self.witness.disks[name].execute(query, (payer,)).fetchall():
                if best > escrow.paid.get(tab, 0):
                    self._fail("every claim lands before an exit", f"{name} lost {best}")

    def settled(self) -> None:
        """At the end: what was promised is what was taken, and what was paid."""
        escrow = self.chain.head.escrow
        for client, payer in self.clients.items():
            if self.left(payer):
                continue
            query = "SELECT id, payee, cumulative, redeemed FROM payer_tabs"
            for tab, payee, given, seen in self.witness.disks[client].execute(query).fetchall():
                row = self._payee_row(payee, tab)
                paid = escrow.paid.get(tab, 0)
                if row is None and paid == seen == 0 and not self.witness.earned.get(tab):
                    continue  # paid in advance for an award that never left: nobody has it
                taken, known = row or (0, 0)
                if not given == taken == paid == seen == known:
                    what = f"{client} gave {given} and saw {seen} redeemed, the worker has {taken}"
                    what += f" and saw {known} redeemed, the chain paid {paid}"
                    self._fail("redeemed = vouchered = what both sides say", what)
        for tab, given in self.witness.vouchered.items():
            if escrow.paid.get(tab, 0) > given:
                self._fail("the chain pays what was signed", tab.hex())
        self._debts()

    def _debts(self) -> None:
        """No segment is left with more than a quantum of it unpaid."""
        for segment in self.witness.segments.values():
            earned = segment.cost_micro(segment.tokens_sent)
            if earned - segment.promised_micro > segment.terms.quantum:
                what = f"{segment.worker} earned {earned}, was promised {segment.promised_micro}"
                self._fail("a worker loses at most one quantum", what)

    def _payee_row(self, payee: Address, tab: Hash) -> tuple[int, int] | None:
        for name, (account, _) in self.workers.items():
            if account == payee:
                query = "SELECT best, redeemed FROM payee_tabs WHERE id = ?"
                row = self.witness.disks[name].execute(query, (tab,)).fetchone()
                return None if row is None else (row[0], row[1])
        return None

    def _fail(self, rule: str, what: str) -> None:
        self.witness.fail(rule, what)


def promised_micro(disk: sqlite3.Connection, escrow: Escrow, payer: Address) -> int:
    """What all payees together may come to take from a payer, by its store and the chain."""
    owed: dict[Address, int] = {}
    tabs: dict[Hash, Address] = {}
    for tab, payee, cumulative in disk.execute("SELECT id, payee, cumulative FROM payer_tabs"):
        tabs[tab] = payee
        owed[payee] = owed.get(payee, 0) + max(0, cumulative - escrow.paid.get(tab, 0))
    for tab, claim in disk.execute(f"SELECT tab, {CLAIM} FROM reservations"):
        owed[tabs[tab]] += claim
    signed: dict[Address, int] = {}
    for payee, nonce, blob in disk.execute("SELECT payee, nonce, lock FROM locks_given"):
        lock = lock_in(blob)
        if nonce > escrow.lock_of(payer, payee).nonce and lock[1] > escrow.time_s:
            signed[payee] = max(signed.get(payee, 0), lock[0])
    payees = owed.keys() | signed.keys() | {q for p, q in escrow.locks if p == payer}
    return sum(
        max(escrow.lock_of(payer, payee).amount, owed.get(payee, 0) + signed.get(payee, 0))
        for payee in payees
    )


def lock_in(blob: bytes) -> tuple[int, int]:
    """Total and expiry of a saved lock."""
    from node.protocol import codec
    from node.protocol.statements import Lock

    lock = codec.decode_signed(Lock, blob).statement
    return lock.total, lock.expiry
