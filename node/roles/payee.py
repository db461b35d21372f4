"""Keeps what payers owe this node: admits awards, takes vouchers, says what can be redeemed.

The rules are `protocol.payee_ledger`.  A voucher is saved before it pays for anything.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from node.errors import PeerError, Unavailable
from node.protocol import payee_ledger, signing
from node.protocol.fields import ZERO_ADDRESS, Address, Hash, Signed
from node.protocol.frames import LockFrame, Refused, Resume, VoucherFrame
from node.protocol.payee_state import (
    VIEW_FRESH_S,
    Credit,
    Ended,
    HeldByPayer,
    PayeeRules,
    Refuse,
    SaveBest,
    SaveTab,
    SaveVoucher,
    Segment,
    VoucherSeen,
)
from node.protocol.statements import Award, Lock, Terms, Voucher
from node.protocol.tabs import tab_id, tab_of_voucher
from node.roles.admission import admit_event, newer_may_lift, segment_of
from node.roles.dispatch import Handlers
from node.roles.holdings import Holdings
from node.roles.payee_book import PayeeBook
from node.roles.payer_views import PayerViews
from node.roles.ports import Chain, Clock, Inbound, Session
from node.roles.redemption import Due
from node.roles.stores import PayeeStore
from node.units import MS_PER_S

log = structlog.get_logger("payee")

PAID_KEPT_MAX = 16_384
"""Segments whose paid amount is kept in memory."""
SETTLED_S = 1.0
"""A view this young is not read again because it refuses an award."""
LOCKS_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What one payer's promises come to here, in micro."""

    payer: Address
    owed_micro: int
    """Vouchered and not redeemed."""
    expected_micro: int
    """May still come to be owed for segments."""
    lock_micro: int
    """Of it, covered by the payer's usable lock."""
    debt_micro: int
    """Earned and never vouchered."""


class Payee:
    """One per selling node."""

    def __init__(
        self,
        *,
        account: Address,
        domain: signing.Domain,
        chain: Chain,
        store: PayeeStore,
        clock: Clock,
        rules: PayeeRules,
    ) -> None:
        """
        Args:
            account: The payee that this node's terms name.
            domain: What vouchers are bound to.
            chain: The escrow, read; its blocks never go back.
            store: Where everything is saved before it counts.
            clock: Wall time for expiries, monotonic for ages.
            rules: What the operator allows (`admission.rules_of`).
        """
        self._account = account
        self._domain = domain
        self._clock = clock
        self._book = PayeeBook(rules=rules, store=store, clock=clock)
        self._holdings = Holdings(self._book, clock=clock)
        self._views = PayerViews(chain, self._book, account=account, clock=clock)
        self._paid: OrderedDict[Hash, int] = OrderedDict()
        """Micro vouchered and saved, by award."""
        self._raised: dict[Hash, trio.Event] = {}
        self._signers: dict[Hash, tuple[bytes, Address]] = {}
        self.handlers: Handlers = {VoucherFrame: self._on_voucher_frame, LockFrame: self._on_lock}

    @property
    def halted(self) -> str:
        """Why nothing is taken any more; empty while all is well."""
        return self._book.halted

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what was saved, then keep views of the chain fresh until cancelled.

        Raises:
            StoreFailed: The disk failed; no voucher is taken any more.
        """
        await self._book.load()
        task_status.started()
        await self._views.run()

    async def admit(self, *, award: Award, terms: Terms) -> Refuse | None:
        """Whether this award may be served, as far as money goes; if so, its cap is counted.

        Whoever gets None calls `ended` in the end, whatever happens.

        Args:
            award: Its signature is verified, and `terms` are those that it names.
            terms: Signed by this node.

        Returns:
            The reason why not (`code`, `lock_total`, `detail`), or None.

        Raises:
            StoreFailed, CorruptState: The disk failed; nothing is taken any more.
        """
        segment, tab = segment_of(award, terms, signing.digest(award, self._domain))
        pair = (award.payer, award.client)
        view = await self._views.get(pair, age_max_s=VIEW_FRESH_S)
        effects = self._book.step(admit_event(segment, tab, view))
        if newer_may_lift(effects) and (self._views.age_s(pair) or 0.0) > SETTLED_S:
            view = await self._views.get(pair, age_max_s=SETTLED_S)
            effects = self._book.step(admit_event(segment, tab, view))
        for effect in effects:
            match effect:
                case Refuse():
                    return effect
                case SaveTab():
                    await self._book.save_tab(effect, terms.splits)
                case _:
                    raise AssertionError(effect)
        self._credit((self._book.state.segments[segment.award],))
        return None

    def problem(self, award: Award) -> Refused | None:
        """Why a running segment has to stop, as far as the chain goes; else None."""
        book = self._book
        return payee_ledger.serving_problem(book.state, award.payer, book.now())

    def ended(self, digest: Hash, *, earned_micro: int, receipt: Hash | None = None) -> None:
        """An admitted segment earns no more; what it did not use is free for others.

        Args:
            digest: Of the award.
            earned_micro: What it came to; 0 if nothing was delivered.
            receipt: Digest of the receipt, which is saved already and is sent after this.
        """
        if not self._book.halted:
            self._book.step(Ended(award=digest, earned_micro=earned_micro, receipt=receipt))

    def paid_micro(self, digest: Hash) -> int:
        """What saved vouchers come to for the segment of this award."""
        return self._paid.get(digest, 0)

    async def wait_paid_above(self, digest: Hash, micro: int) -> int:
        """Return once saved vouchers for a segment exceed `micro`; the sum."""
        while self.paid_micro(digest) <= micro:
            raised = self._raised.setdefault(digest, trio.Event())
            try:
                await raised.wait()
            finally:
                if not raised.is_set() and not raised.statistics().tasks_waiting:
                    self._raised.pop(digest, None)  # the last to give up
        return self.paid_micro(digest)

    async def on_voucher(self, client: Address, frame: VoucherFrame) -> bool:
        """Take a voucher: verify, save, credit.  One that was taken before changes nothing.

        Args:
            client: Session key of the peer that brought it.
            frame: The voucher with its rises and receipts.

        Returns:
            False if vouchers before it are missing: then it credited nobody.

        Raises:
            PeerError: It is not what a client may send.
            Unavailable: Whether its signer may sign can't be told now.
            StoreFailed, CorruptState: The disk failed; it counts for nothing.
        """
        voucher = frame.voucher.statement
        if voucher.payee != self._account:
            raise PeerError("a voucher for another payee")
        await self._check_signer(frame.voucher, client)
        tab = tab_id(tab_of_voucher(voucher))
        event = VoucherSeen(
            client=client,
            tab_id=tab,
            cumulative_micro=voucher.cumulative,
            root=voucher.receipts,
            rises=frame.rises,
            receipts=frame.receipts,
            found=await self._find(client, tab, frame),
        )
        known = True
        for effect in self._book.step(event):
            match effect:
                case SaveVoucher() | SaveBest():
                    await self._book.save_voucher(effect, frame.voucher)
                case Credit():
                    self._credit(effect.segments)
                case _:
                    known = False
        return known

    async def greet(self, session: Session) -> None:
        """Tell a client which vouchers of its tabs are here; it sends what is missing."""
        if session.hello.payer != ZERO_ADDRESS:
            await self._holdings.tell(session)

    async def on_resume(self, session: Session, frame: Resume) -> None:
        """A client says which vouchers it gave: a higher one than ours is worth keeping at once."""
        for signed in frame.vouchers:
            voucher = signed.statement
            tab = tab_id(tab_of_voucher(voucher))
            row = self._book.state.tabs.get(tab)
            if row is None or voucher.cumulative <= row.best_micro:
                continue
            await self._check_signer(signed, session.peer)
            event = HeldByPayer(
                client=session.peer, tab_id=tab, cumulative_micro=voucher.cumulative
            )
            for effect in self._book.step(event):
                assert isinstance(effect, SaveBest)
                await self._book.save_voucher(effect, signed)

    def exposures(self) -> tuple[Exposure, ...]:
        """What each payer's promises come to, the largest first."""
        state, now = self._book.state, self._book.now()
        payers = {tab.tab.payer for tab in state.tabs.values()}
        payers |= {segment.payer for segment in state.segments.values()}
        found = []
        for payer in payers:
            owed = sum(tab.owed_micro for tab in state.tabs.values() if tab.tab.payer == payer)
            exposed = payee_ledger.exposure_micro(state, payer)
            found.append(
                Exposure(
                    payer=payer,
                    owed_micro=owed,
                    expected_micro=exposed - owed,
                    lock_micro=min(exposed, payee_ledger.lock_micro(state, payer, now)),
                    debt_micro=payee_ledger.debt_micro(state, payer, now),
                )
            )
        return tuple(sorted(found, key=lambda each: -each.owed_micro))

    # What the redeemer needs (`roles.redeemer.Claims`).

    def vouchers_to_redeem(self) -> Sequence[Due]:
        """Every tab with more vouchered than was paid."""
        return tuple(
            Due(
                tab=row.tab.id,
                voucher=row.best,
                splits=row.splits,
                paid_micro=self._book.state.tabs[row.tab.id].redeemed_micro,
                signer=self._signer_of(row.tab.id, row.best),
                since_ms=row.owed_since_ms,
            )
            for row in self._book.rows.values()
            if row.best is not None and self._book.state.tabs[row.tab.id].owed_micro
        )

    async def redeemed(self, paid: Mapping[Hash, int]) -> None:
        """Save what the escrow has paid on these tabs, in all, at a final block; never falls."""
        await self._book.redeemed(paid)
        # What was paid came out of funds and locks that views from before still show; until they
        # are read anew the ledger counts less of both.
        tabs = self._book.state.tabs
        self._views.forget({tabs[tab].tab.payer for tab in paid if tab in tabs})

    def locks_to_submit(self) -> Sequence[Signed[Lock]]:
        """Locks that payers signed for us and that the chain does not show yet."""
        return tuple(self._book.locks.values())

    async def drop_lock(self, *, payer: Address, nonce: int) -> None:
        """The chain has the lock, or will never take it."""
        found = self._book.locks.get(payer)
        if found is not None and found.statement.nonce <= nonce:
            del self._book.locks[payer]
        await self._book.saved(self._book.store.drop_lock(payer=payer, nonce=nonce))

    # ------------------------------------------------------------------------------- internals

    async def _check_signer(self, signed: Signed[Voucher] | Signed[Lock], client: Address) -> None:
        """Whether whoever signed may do so for the payer."""
        payer = signed.statement.payer
        signer = signing.recover(signed, self._domain)
        if signer == payer:
            return
        if signer != client:
            raise PeerError("signed neither by the payer nor by this client")
        tabs = self._book.state.tabs.values()
        if any(tab.tab.payer == payer and tab.client == client for tab in tabs):
            return  # its authority was read from the chain when it was first served
        view = await self._views.get((payer, client), age_max_s=VIEW_FRESH_S)
        if view is None:
            raise Unavailable("the chain does not say whether this client may sign")
        if view.signer_expiry_s <= self._book.now().unix_s:
            raise PeerError("this client may not sign for the payer")

    async def _find(self, client: Address, tab: Hash, frame: VoucherFrame) -> tuple[Segment, ...]:
        """Segments that a voucher names and that memory has dropped."""
        state = self._book.state
        known = state.tabs.get(tab)
        if known is None or frame.voucher.statement.cumulative <= known.cumulative_micro:
            return ()
        refs = [
            (rise.job, rise.attempt)
            for rise in frame.rises
            if (client, rise.job, rise.attempt) not in state.keys
        ]
        signed = {segment.receipt for segment in state.segments.values()}
        receipts = [digest for digest in frame.receipts if digest not in signed]
        if not refs and not receipts:
            return ()
        found = await self._book.store.find_segments(client=client, refs=refs, receipts=receipts)
        segments, now_s = self._book.state.segments, self._clock.monotonic_s()
        return tuple(replace(each, ended_s=now_s) for each in found if each.award not in segments)

    def _credit(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            self._paid[segment.award] = max(self.paid_micro(segment.award), segment.paid_micro)
            self._paid.move_to_end(segment.award)
            self._raised.pop(segment.award, trio.Event()).set()
        while len(self._paid) > PAID_KEPT_MAX:
            self._paid.popitem(last=False)

    async def _on_voucher_frame(self, session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, VoucherFrame)
        tab = tab_id(tab_of_voucher(inbound.frame.voucher.statement))
        if await self.on_voucher(session.peer, inbound.frame):
            await self._holdings.taken(session, tab)
        else:
            await self._holdings.missing(session, tab)

    async def _on_lock(self, session: Session, inbound: Inbound) -> None:
        assert isinstance(inbound.frame, LockFrame)
        signed, lock = inbound.frame.lock, inbound.frame.lock.statement
        if lock.payee != self._account or lock.payer not in self._book.state.payers:
            raise PeerError("a lock that nobody asked for")
        await self._check_signer(signed, session.peer)
        before = self._book.locks.get(lock.payer)
        if before is not None and before.statement.nonce >= lock.nonce:
            return
        if lock.expiry <= self._clock.unix_ms() // MS_PER_S:
            raise PeerError("a lock that has expired")
        if before is None and len(self._book.locks) >= LOCKS_MAX:
            return  # it sends it again with the next award that is refused
        self._book.locks[lock.payer] = signed
        await self._book.saved(self._book.store.save_lock(signed))

    def _signer_of(self, tab: Hash, voucher: Signed[Voucher]) -> Address:
        known = self._signers.get(tab)
        if known is None or known[0] != voucher.signature:
            signer = signing.recover(voucher, self._domain)
            known = self._signers[tab] = (voucher.signature, signer)
        return known[1]
