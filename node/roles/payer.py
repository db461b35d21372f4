"""Spends one account's deposit: reserves, vouchers, locks.  The rules are `protocol.payer_ledger`.

Vouchers are saved, then queued per worker.  What does not arrive is sent again, the same bytes,
when the worker says after a reconnect which voucher it holds.
"""

import math
from collections.abc import Sequence
from functools import partial

import structlog
import trio

from node.errors import PeerError, Unavailable, WalletError
from node.protocol import payer_ledger, signing
from node.protocol.fields import Address, Hash, JobId, Signed
from node.protocol.frames import LockReleaseFrame, Resume, VoucherFrame
from node.protocol.payer_state import (
    Accept,
    Effect,
    Event,
    MakeLock,
    Release,
    Reservation,
    Reserve,
    SaveLock,
    SaveReservation,
    SignedLock,
)
from node.protocol.statements import Lock, Terms, Voucher
from node.protocol.tabs import tab_id, tab_of_terms
from node.roles.catch_up import CatchUp
from node.roles.dispatch import Handlers
from node.roles.escrow_funds import read_funds
from node.roles.outbox import Deliver, Outbox
from node.roles.payer_book import PayerBook
from node.roles.ports import Chain, Clock, Inbound, Session
from node.roles.stores import Duplicate, PayerStore, ReceiptProof
from node.roles.together import Save, together
from node.roles.voucher_writer import VoucherWriter
from node.units import TOKENS_PER_PRICE

log = structlog.get_logger("payer")

REFRESH_S = 10.0
CHAIN_WITHIN_S = 10.0
SETTLED_S = 1.0
"""A read of the chain this recent is not repeated because money seems short."""
LOCK_RENEW_S = 600
"""A signed lock that ends this much sooner than asked for still does."""


class Payer:
    """One per buying node, for one account."""

    def __init__(
        self,
        *,
        account: Address,
        domain: signing.Domain,
        key: bytes,
        chain: Chain,
        store: PayerStore,
        clock: Clock,
        deliver: Deliver,
    ) -> None:
        """
        Args:
            account: Whose deposit is spent: the key's own, or one that authorised it.
            domain: What vouchers are bound to.
            key: The session key; signs vouchers and locks.
            chain: The escrow, read; its blocks never go back.
            store: Where everything is saved before it leaves.
            clock: Wall time for expiries.
            deliver: Sends to the worker of this address; raises Unavailable if it is not there.
        """
        self._domain = domain
        self._key = key
        self._signer = signing.address_of_key(key)
        self._chain = chain
        self._clock = clock
        self._book = PayerBook(account=account, store=store, clock=clock)
        self._outbox = Outbox(deliver)
        self._writer = VoucherWriter(self._book, self._outbox, domain=domain, key=key)
        self._catch_up = CatchUp(
            self._book, deliver, domain=domain, signer=self._signer, clock=clock
        )
        self._reading = trio.Lock()
        self._reads = 0
        """Begun so far."""
        self._read_s = -math.inf
        """When the last read of the chain began."""
        self._read_error = ""
        self._locking = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self.handlers: Handlers = {LockReleaseFrame: self._on_lock_release}

    @property
    def account(self) -> Address:
        """Whose deposit is spent."""
        return self._book.state.payer

    @property
    def halted(self) -> str:
        """Why nothing is signed any more; empty while all is well."""
        return self._book.state.halted

    @property
    def available_micro(self) -> int | None:
        """What may still be promised; None before the chain was first read."""
        state = self._book.state
        return payer_ledger.available_micro(state) if state.funds else None

    @property
    def promised_micro(self) -> int:
        """What all payees together may take from the deposit, reservations included."""
        return payer_ledger.promised_micro(self._book.state)

    def owed_micro(self, payee: Address) -> int:
        """What a payee may come to claim for segments: vouchered and not redeemed, or reserved."""
        return payer_ledger.owed_micro(self._book.state, payee)

    def locked_micro(self, payee: Address) -> int:
        """What a payee's lock held when the escrow was last read."""
        funds = self._book.state.funds
        seen = funds.locks.get(payee) if funds else None
        return seen.amount_micro if seen else 0

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """Segments with money still reserved; after a restart those that a crash left behind."""
        return tuple(self._book.state.reservations.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what was saved, then write what is due until cancelled.

        Raises:
            StoreFailed, CorruptState: A save failed; nothing more is signed.
        """
        await self._book.load()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._writer.run, nursery)
            nursery.start_soon(self._keep_fresh)
            task_status.started()

    async def reserve(
        self,
        *,
        job: JobId,
        attempt: int,
        worker: Address,
        terms: Terms,
        cap_micro: int,
        beside: Sequence[Save] = (),
    ) -> None:
        """Set a segment's cap aside; saved when this returns, so the award may leave.

        Args:
            job: The job.
            attempt: Which of its segments.
            worker: Who is to be paid.
            terms: What was agreed.
            cap_micro: Most that the segment may cost.
            beside: What is to be saved besides before the award leaves, once the cap is granted;
                if any of it fails, nothing stays set aside.

        Raises:
            WalletError: The deposit, the signer's limit or a pending exit does not allow it.
            Unavailable: The chain never answered, or another worker keeps this payee's tab.
            CorruptState: Signing has stopped.
        """
        tab = tab_of_terms(terms, payer=self.account)
        event = Reserve(
            job=job,
            attempt=attempt,
            tab_id=tab_id(tab),
            tab=tab,
            worker=worker,
            cap_micro=cap_micro,
            hold_micro=_hold_micro(terms),
        )
        for effect in await self._step_funded(event):
            assert isinstance(effect, SaveReservation)
            try:
                await together(partial(self._save_reserved, effect), *beside)
            except BaseException:
                await self.release(job=job, attempt=attempt)
                raise

    async def pay(
        self, *, job: JobId, attempt: int, accepted_micro: int, receipt: Hash | None = None
    ) -> Signed[Voucher] | None:
        """Accept that a segment costs this much so far; returns once a voucher covers it.

        A last micro is kept back until the receipt comes (or the reservation is released), so that
        the voucher that commits to the receipt rises: two vouchers never have the same cumulative.

        Args:
            job: The job.
            attempt: Which of its segments.
            accepted_micro: Cumulative over the segment; below an earlier one it changes nothing.
            receipt: Digest of the accepted receipt, with the final amount.

        Returns:
            The tab's newest voucher, saved and on its way; None while there is none.

        Raises:
            WalletError: Beyond the segment's cap, or the deposit has shrunk under its promises.
            CorruptState: Signing has stopped.
            StoreFailed: The disk failed; nothing was sent.
        """
        event = Accept(job=job, attempt=attempt, accepted_micro=accepted_micro, receipt=receipt)
        tab = self._tab_of(event)
        await self._book.perform(self._book.step(event))
        await self._writer.wait_covered((job, attempt), tab)
        return self._book.vouchers.get(tab)

    async def prepay(self, *, job: JobId, attempt: int, amount_micro: int) -> VoucherFrame:
        """A voucher over `amount_micro` for a segment that is about to be awarded.

        It goes inside the award and, among the tab's other vouchers, to the worker besides;
        whichever arrives second changes nothing.

        Raises:
            WalletError, CorruptState, StoreFailed: As `pay`.
        """
        assert amount_micro > 0, "nothing to prepay"
        event = Accept(
            job=job, attempt=attempt, accepted_micro=amount_micro, receipt=None, prepay=True
        )
        tab = self._tab_of(event)
        await self._book.perform(self._book.step(event))
        frame = await self._writer.wait_covered((job, attempt), tab)
        assert frame is not None, "prepaid twice"
        return frame

    async def release(self, *, job: JobId, attempt: int) -> Signed[Voucher] | None:
        """The segment is over: what was accepted is paid in full, the rest is free again.

        Returns:
            The tab's newest voucher, which covers the segment; None while there is none.

        Raises:
            WalletError, CorruptState, StoreFailed: As `pay`.
        """
        found = self._book.state.reservations.get((job, attempt))
        await self._book.perform(self._book.step(Release(job=job, attempt=attempt)))
        if found is None:
            return None
        await self._writer.wait_covered((job, attempt), found.tab)
        return self._book.vouchers.get(found.tab)

    async def flush(self) -> None:
        """Return once all that is due is vouchered and sent, or can't be; for before leaving."""
        await self._writer.flush()
        await self._outbox.flush()

    async def receipt_proof(self, *, job: JobId, attempt: int) -> ReceiptProof | None:
        """That a voucher commits to the segment's receipt; None until one does."""
        return await self._book.store.receipt_proof((job, attempt))

    async def make_lock(self, *, payee: Address, total_micro: int, expiry_s: int) -> Signed[Lock]:
        """A lock for a payee that asks for one; saved when this returns.

        One that was signed before and would do is returned again.

        Args:
            payee: For whom.
            total_micro: What the lock holds afterwards; it replaces.
            expiry_s: Unix seconds.

        Raises:
            WalletError: The deposit does not allow it.
            Unavailable: The chain does not answer.
            CorruptState: Signing has stopped.
        """
        self._book.watched.add(payee)
        async with self._locking:  # so that none is given out again before it is saved
            await self.refresh()
            state = self._book.state
            for lock in state.locks:
                ends_late = lock.expiry_s >= expiry_s - LOCK_RENEW_S
                if lock.payee == payee and lock.total_micro >= total_micro and ends_late:
                    return self._book.locks[payee, lock.nonce]
            wanted = MakeLock(payee=payee, total_micro=total_micro, expiry_s=expiry_s)
            (effect,) = self._book.step(wanted)
            assert isinstance(effect, SaveLock)
            return await self._sign_lock(effect.lock)

    async def refresh(self) -> None:
        """Read the escrow now; callers that wait for the same read share it.

        Raises:
            Unavailable: It did not answer in time; what was known stays known.
        """
        begun_before = self._reads
        async with self._reading:
            if self._reads == begun_before:
                await self._read_chain()
            elif self._read_error:
                raise Unavailable(self._read_error)

    async def greet(self, session: Session) -> None:
        """Tell a worker which vouchers it was given last."""
        await self._catch_up.greet(session)

    async def on_resume(self, session: Session, frame: Resume) -> None:
        """A worker says what it holds: send the rest again, or stop if it holds more than we know.

        Raises:
            PeerError: It asks too often.
        """
        assert self._nursery is not None, "run() first"
        await self._catch_up.on_resume(session, frame, self._nursery)

    def _tab_of(self, event: Accept) -> Hash:
        found = self._book.state.reservations.get((event.job, event.attempt))
        if found is None:
            raise WalletError("nothing is reserved for this attempt of the job")
        return found.tab

    async def _step_funded(self, event: Event) -> tuple[Effect, ...]:
        """Step; if money seems short, read the chain again first: a deposit may have come."""
        if self._book.state.funds is None:
            await self.refresh()
        try:
            return self._book.step(event)
        except WalletError:
            if self._clock.monotonic_s() - self._read_s < SETTLED_S:
                raise
        try:
            await self.refresh()
        except Unavailable as error:
            log.warning("chain not read", reason=str(error))
        return self._book.step(event)

    async def _keep_fresh(self) -> None:
        while True:
            try:
                await self.refresh()
            except Unavailable as error:
                log.warning("chain not read", reason=str(error))
            await trio.sleep(REFRESH_S)

    async def _read_chain(self) -> None:
        self._reads += 1
        self._read_s = self._clock.monotonic_s()
        self._read_error = "the chain did not answer in time"
        try:
            with trio.fail_after(CHAIN_WITHIN_S):
                seen = await read_funds(
                    self._chain,
                    payer=self.account,
                    signer=self._signer,
                    payees=frozenset(self._book.watched),
                    tabs=[tab.id for tab in self._book.state.tabs.values() if tab.owed_micro],
                )
        except Unavailable as error:
            self._read_error = str(error)
            raise
        except trio.TooSlowError:
            raise Unavailable(self._read_error) from None
        self._read_error = ""
        await self._book.perform(self._book.step(seen))

    async def _save_reserved(self, effect: SaveReservation) -> None:
        try:
            await self._book.saved(self._book.store.reserve(effect.reservation, effect.tab))
        except Duplicate:
            job, attempt = effect.reservation.ref
            self._book.step(Release(job=job, attempt=attempt))
            raise WalletError("this attempt of the job was reserved before") from None

    async def _sign_lock(self, lock: SignedLock) -> Signed[Lock]:
        statement = Lock(
            payer=self.account,
            payee=lock.payee,
            total=lock.total_micro,
            nonce=lock.nonce,
            expiry=lock.expiry_s,
        )
        signed = signing.sign(statement, self._domain, self._key)
        self._book.locks[lock.payee, lock.nonce] = signed
        await self._book.saved(self._book.store.save_lock(signed))
        return signed

    async def _on_lock_release(self, _session: Session, inbound: Inbound) -> None:
        frame = inbound.frame
        assert isinstance(frame, LockReleaseFrame)
        release = signing.verify(frame.release, self._domain, frame.release.statement.payee)
        if release.payer != self.account or release.payee not in self._book.watched:
            raise PeerError("a release of a lock that we did not make")
        await self._book.saved(self._book.store.save_release(frame.release))


def _hold_micro(terms: Terms) -> int:
    """What is kept back until the receipt: nothing where a token alone may use up the quantum."""
    token_micro = -(-terms.price_out // TOKENS_PER_PRICE)
    return 1 if terms.quantum > token_micro + 1 else 0
