"""The payer: what it promises, when it sends, and when it stops."""

from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from node.errors import CorruptState, NodeError, PeerError, Unavailable, WalletError
from node.protocol import codec, signing
from node.protocol.fields import ZERO_HASH, Address, Signed
from node.protocol.frames import LockReleaseFrame, Resume, Rise, VoucherFrame
from node.protocol.payer_state import Release
from node.protocol.receipts_tree import verify_inclusion
from node.protocol.statements import Lock, LockRelease, Voucher
from node.protocol.tabs import splits_hash
from node.roles.catch_up import RESUMES_MAX
from node.roles.payer import Payer
from node.roles.stores import StoreFailed
from tests.roles.fakes import DOMAIN, key_of
from tests.roles.inline_store import InlineWriter
from tests.roles.model_escrow import ModelEscrow
from tests.roles.payment_world import (
    MODEL,
    START_S,
    Buyer,
    payment_world,
    terms_of,
)

WORKER = b"w" * 20
OTHER = b"v" * 20
HASH = b"r" * 32


def job(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def reserve(buyer: Buyer, number: int, *, cap: int = 100, worker: Address = WORKER) -> None:
    await buyer.payer.reserve(
        job=job(number), attempt=0, worker=worker, terms=terms_of(worker), cap_micro=cap
    )


async def pay(
    buyer: Buyer, number: int, amount: int, receipt: bytes | None = None
) -> Signed[Voucher] | None:
    return await buyer.payer.pay(job=job(number), attempt=0, accepted_micro=amount, receipt=receipt)


async def release(buyer: Buyer, number: int) -> None:
    await buyer.payer.release(job=job(number), attempt=0)


def saved(buyer: Buyer) -> list[VoucherFrame]:
    """What the tables hold, whether it arrived anywhere or not."""
    rows = buyer.writer.connection.execute("SELECT frame FROM vouchers_given ORDER BY cumulative")
    frames = [codec.decode_frame(row[0]) for row in rows]
    assert all(isinstance(frame, VoucherFrame) for frame in frames)
    return frames  # type: ignore[return-value]


# ------------------------------------------------------------------------------------ promises


async def test_fifty_parallel_jobs_share_one_deposit(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=1_000)
        buyer.writer.commit_s = 0.001
        bought: list[int] = []
        highest = 0

        async def one(number: int) -> None:
            nonlocal highest
            try:
                await reserve(buyer, number, cap=70, worker=bytes([1 + number % 5]) * 20)
            except WalletError:
                return
            for amount in range(10, 61, 10):
                await pay(buyer, number, amount)
                highest = max(highest, buyer.payer.promised_micro)
            await pay(buyer, number, 60, b"r" * 31 + bytes([number]))
            await release(buyer, number)
            bought.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert len(bought) >= 14  # caps of 70 that fit at once
        assert highest <= 1_000
        last = {frame.voucher.statement.payee: frame for frame in saved(buyer)}
        vouchered = sum(frame.voucher.statement.cumulative for frame in last.values())
        assert vouchered == 60 * len(bought) == buyer.payer.promised_micro
        assert buyer.payer.available_micro == 1_000 - vouchered


async def test_a_deposit_that_has_just_come_counts(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=50)
        with pytest.raises(WalletError, match="short"):
            await reserve(buyer, 1)
        world.escrow.deposit(buyer.account, 50)
        await trio.sleep(1.5)  # not even a refresh is due
        await reserve(buyer, 1)


async def test_a_dead_rpc_stops_new_promises_only_where_nothing_is_known(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        world.escrow.down = True
        buyer = await world.buyer(deposit=100)
        with pytest.raises(Unavailable):
            await reserve(buyer, 1)
        assert buyer.payer.available_micro is None
        world.escrow.down = False
        await reserve(buyer, 1, cap=60)
        world.escrow.down = True
        await trio.sleep(3600)
        await pay(buyer, 1, 30)
        await reserve(buyer, 2, cap=40)
        with pytest.raises(WalletError, match="short"):
            await reserve(buyer, 3, cap=1)


async def test_an_rpc_that_hangs_is_given_up(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        world.escrow.delay_s = 1_000
        buyer = await world.buyer(deposit=100)
        began_s = trio.current_time()
        with pytest.raises(Unavailable):
            await reserve(buyer, 1)
        assert trio.current_time() - began_s < 25


async def test_many_that_wait_for_the_chain_share_a_read(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=0)
        await trio.sleep(2)
        world.escrow.delay_s = 0.5
        before = world.escrow.reads

        async def refused(number: int) -> None:
            with pytest.raises(WalletError):
                await reserve(buyer, number)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(refused, number)
        assert world.escrow.reads - before <= 4


async def test_an_exit_ends_promises(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        world.escrow.request_exit(buyer.account, ready_s=START_S + 9_000)
        await buyer.payer.refresh()
        with pytest.raises(WalletError, match="exit"):
            await reserve(buyer, 1)


async def test_nothing_is_vouchered_once_the_deposit_has_left(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=100)
        await reserve(buyer, 1)
        world.escrow.exit(buyer.account)
        await buyer.payer.refresh()
        with pytest.raises(WalletError, match="no longer covers"):
            await pay(buyer, 1, 30)
        assert saved(buyer) == []
        world.escrow.deposit(buyer.account, 100)
        await buyer.payer.refresh()
        await pay(buyer, 1, 31)
        assert [frame.voucher.statement.cumulative for frame in saved(buyer)] == [30]


async def test_a_node_that_lags_is_not_believed(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=100)
        world.escrow.exit(buyer.account)
        await buyer.payer.refresh()
        world.escrow.lag = 1
        await buyer.payer.refresh()
        assert buyer.payer.available_micro == 0
        with pytest.raises(WalletError):
            await reserve(buyer, 1, cap=1)


async def test_a_redemption_while_the_chain_is_read_is_no_shortage(
    autojump_clock: MockClock,
) -> None:
    """Paid is read first: what is redeemed in between seems owed and gone at the same time."""
    async with payment_world() as world:
        buyer = await world.buyer(deposit=100)
        await reserve(buyer, 1, cap=60)
        voucher = await pay(buyer, 1, 51)
        assert voucher is not None
        world.escrow.delay_s = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(buyer.payer.refresh)
            await trio.sleep(1.5)
            world.escrow.redeem(voucher.statement)
        assert buyer.payer.promised_micro == 60
        assert buyer.payer.available_micro == -10  # for one read; never too much
        world.escrow.delay_s = 0.0
        await pay(buyer, 1, 60, HASH)  # what was reserved can still be paid
        await buyer.payer.refresh()
        assert buyer.payer.available_micro == 40


async def test_another_account_pays_within_what_it_authorised(autojump_clock: MockClock) -> None:
    account = b"a" * 20
    async with payment_world() as world:
        buyer = await world.buyer(account=account, deposit=1_000)
        with pytest.raises(WalletError, match="may not sign"):
            await reserve(buyer, 1)
        signer = signing.address_of_key(buyer.key)
        world.escrow.authorise(account, signer, expiry_s=START_S + 9_000, cap=150)
        await trio.sleep(2)
        await reserve(buyer, 1, cap=100)
        with pytest.raises(WalletError, match="limit"):
            await reserve(buyer, 2, cap=51)
        await reserve(buyer, 2, cap=50)
        await pay(buyer, 1, 30)
        assert saved(buyer)[0].voucher.statement.payer == account
        assert signing.recover(saved(buyer)[0].voucher, DOMAIN) == signer


async def test_one_reservation_for_one_attempt(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        won: list[int] = []

        async def attempt(number: int) -> None:
            try:
                await reserve(buyer, 1, cap=100 + number)
                won.append(number)
            except WalletError:
                pass

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(attempt, number)
        assert len(won) == 1
        await release(buyer, 1)
        with pytest.raises(WalletError, match="before"):
            await reserve(buyer, 1)
        assert buyer.payer.promised_micro == 0


async def test_a_tab_has_one_worker(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        with pytest.raises(Unavailable, match="another worker"):
            await buyer.payer.reserve(
                job=job(2), attempt=0, worker=OTHER, terms=terms_of(WORKER), cap_micro=5
            )


async def test_nothing_beyond_a_cap(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1, cap=100)
        with pytest.raises(WalletError, match="cap"):
            await pay(buyer, 1, 101)
        with pytest.raises(WalletError, match="reserved"):
            await pay(buyer, 2, 1)
        await pay(buyer, 1, 100, HASH)
        assert [frame.voucher.statement.cumulative for frame in saved(buyer)] == [100]


# ------------------------------------------------------------------------------------ vouchers


async def test_what_is_due_in_one_turn_shares_a_voucher(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        for number in range(30):
            await reserve(buyer, number, worker=WORKER if number < 20 else OTHER)
        writes = buyer.writer.writes
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(pay, buyer, number, 11)
        assert buyer.writer.writes == writes + 1
        first, second = sorted(saved(buyer), key=lambda frame: -len(frame.rises))
        assert first.voucher.statement.cumulative == 200
        assert second.voucher.statement.cumulative == 100
        assert {rise.job: rise.amount for rise in first.rises} == {job(n): 10 for n in range(20)}


async def test_more_rises_than_one_voucher_holds(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.protocol.limits.RISES_MAX", 8)
    async with payment_world() as world:
        buyer = await world.buyer()
        for number in range(20):
            await reserve(buyer, number)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(pay, buyer, number, 5, HASH[:31] + bytes([number]))
        assert [len(frame.rises) for frame in saved(buyer)] == [8, 8, 4]
        assert [len(frame.receipts) for frame in saved(buyer)] == [8, 8, 4]
        assert saved(buyer)[-1].voucher.statement.cumulative == 100


async def test_the_voucher_with_the_receipt_always_rises(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        assert await pay(buyer, 1, 1) is None  # the last micro is kept back
        first = await pay(buyer, 1, 40)
        assert first is not None
        assert (first.statement.cumulative, first.statement.receipts) == (39, ZERO_HASH)
        assert await pay(buyer, 1, 40) == first  # nothing new, nothing signed
        last = await pay(buyer, 1, 40, HASH)
        assert last is not None
        assert last.statement.cumulative == 40
        proof = await buyer.payer.receipt_proof(job=job(1), attempt=0)
        assert proof is not None
        assert proof.voucher == last
        assert verify_inclusion(HASH, proof.proof, last.statement.receipts)
        assert await pay(buyer, 1, 40, HASH) == last


async def test_nothing_is_kept_back_where_a_token_uses_up_the_quantum(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        terms = replace(terms_of(WORKER), quantum=2)
        await buyer.payer.reserve(job=job(1), attempt=0, worker=WORKER, terms=terms, cap_micro=100)
        voucher = await pay(buyer, 1, 40)
        assert voucher is not None
        assert voucher.statement.cumulative == 40


async def test_a_segment_without_a_receipt_is_paid_in_full_when_released(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        await pay(buyer, 1, 40)
        await release(buyer, 1)
        await world.settle()
        assert [frame.voucher.statement.cumulative for frame in saved(buyer)] == [39, 40]
        assert buyer.payer.promised_micro == 40
        assert buyer.payer.reservations == ()
        with pytest.raises(WalletError):
            await pay(buyer, 1, 50)


async def test_a_receipt_without_a_rise_goes_with_the_next_voucher(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        frame = await buyer.payer.prepay(job=job(1), attempt=0, amount_micro=40)
        assert frame.rises == (Rise(job=job(1), attempt=0, amount=40),)
        await pay(buyer, 1, 30, HASH)  # it came cheaper than what was paid in advance
        assert await buyer.payer.receipt_proof(job=job(1), attempt=0) is None
        again = await world.buyer(writer=buyer.writer, deposit=0)  # also over a crash
        await release(again, 1)
        await reserve(again, 2)
        await pay(again, 2, 10, b"s" * 32)
        assert saved(again)[-1].receipts == (HASH, b"s" * 32)
        assert await again.payer.receipt_proof(job=job(1), attempt=0) is not None


async def test_a_free_segment_needs_no_voucher(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        assert await pay(buyer, 1, 0, HASH) is None
        await release(buyer, 1)
        assert buyer.payer.reservations == ()


async def test_one_receipt_for_one_segment(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        await pay(buyer, 1, 30, HASH)
        with pytest.raises(WalletError, match="one receipt"):
            await pay(buyer, 1, 31, b"s" * 32)


# ---------------------------------------------------------------------------- saving, then sending


async def test_who_asks_for_the_same_again_waits_for_the_same_save(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        buyer.writer.commit_s = 5.0
        began_s = trio.current_time()
        got: list[tuple[float, Signed[Voucher] | None]] = []

        async def one() -> None:
            voucher = await pay(buyer, 1, 40)
            got.append((trio.current_time() - began_s, voucher))

        world.nursery.start_soon(one)
        await trio.sleep(1)
        world.nursery.start_soon(one)
        await trio.sleep(9)
        assert [at_s for at_s, _ in got] == pytest.approx([5.0, 5.0])
        assert got[0][1] == got[1][1] is not None


@pytest.mark.parametrize("write", range(1, 7))
async def test_nothing_unsaved_leaves(autojump_clock: MockClock, write: int) -> None:
    """The disk fails at one write after the other; whatever was not saved was never sent."""
    writer, sent = InlineWriter(), list[VoucherFrame]()
    escrow, key = ModelEscrow(time_s=START_S), key_of(1)
    account = signing.address_of_key(key)
    escrow.deposit(account, 1_000)

    async def deliver(worker: Address, frame: VoucherFrame) -> None:
        sent.append(frame)

    async def use(payer: Payer) -> None:
        for number in (1, 2):
            await payer.reserve(
                job=job(number), attempt=0, worker=WORKER, terms=terms_of(WORKER), cap_micro=50
            )
            for amount in (20, 30):
                await payer.pay(job=job(number), attempt=0, accepted_micro=amount)

    async with payment_world() as world:
        payer = Payer(
            account=account,
            domain=DOMAIN,
            key=key,
            chain=escrow,
            store=writer.stores().payer,
            clock=world.clock,
            deliver=deliver,
        )
        writer.fails_at = write
        with pytest.RaisesGroup(StoreFailed, allow_unwrapped=True, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(payer.run)
                with pytest.raises(StoreFailed):
                    await use(payer)
                assert payer.halted
                with pytest.raises(CorruptState):
                    await payer.reserve(
                        job=job(9), attempt=0, worker=WORKER, terms=terms_of(WORKER), cap_micro=1
                    )
                with pytest.raises(CorruptState):
                    await payer.make_lock(payee=WORKER, total_micro=5, expiry_s=START_S + 99)
                await world.settle()
                raise StoreFailed("so that both ways of ending are one")
        rows = writer.connection.execute("SELECT frame FROM vouchers_given ORDER BY cumulative")
        assert [codec.encode(frame) for frame in sent] == [row[0] for row in rows]


async def test_what_did_not_arrive_is_sent_again_byte_for_byte(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        award = await world.begin(buyer, seller)
        buyer.transport.sessions()[seller.account].cut()
        first = await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=30)
        await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=50)
        given = saved(buyer)
        assert buyer.wire.delivered == []
        await world.connect(buyer, seller)
        await world.settle()
        assert [f.voucher.statement.cumulative for f in buyer.wire.delivered] == [29, 49]
        assert buyer.wire.delivered[0].voucher == first
        assert buyer.wire.delivered == given
        assert seller.payee.paid_micro(signing.digest(award, DOMAIN)) == 49


async def test_a_long_backlog_is_sent_to_its_end(autojump_clock: MockClock) -> None:
    """More than one page, and vouchers that come while it is being sent."""
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        award = await world.begin(buyer, seller, cap=1_000)
        for amount in range(2, 302):
            await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=amount)
        await world.connect(buyer, seller)
        for amount in range(302, 310):
            await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=amount)
        await trio.sleep(1)
        assert seller.payee.paid_micro(signing.digest(award, DOMAIN)) == 308
        assert buyer.transport.sessions()[seller.account].lost is None


async def test_a_worker_that_reads_nothing_delays_nobody_else(autojump_clock: MockClock) -> None:
    sent: list[Address] = []

    async def deliver(worker: Address, frame: VoucherFrame) -> None:
        if worker == OTHER:
            await trio.sleep_forever()
        sent.append(worker)

    async with payment_world() as world:
        buyer = await world.buyer()
        buyer.wire.send = deliver
        await reserve(buyer, 1, worker=OTHER)
        await reserve(buyer, 2, worker=WORKER)
        for amount in range(2, 50):
            await pay(buyer, 1, amount)
            await pay(buyer, 2, amount)
        await world.settle()
        assert sent == [WORKER] * 48
        await trio.sleep(11)  # it was given up; what it missed is asked for after a resume
        assert buyer.payer._outbox._queues == {}


async def test_a_restart_forgets_nothing(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1, cap=100)
        await reserve(buyer, 2, cap=50)
        await pay(buyer, 1, 40)
        again = await world.buyer(writer=buyer.writer, deposit=0)
        assert again.payer.promised_micro == buyer.payer.promised_micro == 150
        assert {each.ref for each in again.payer.reservations} == {(job(1), 0), (job(2), 0)}
        await pay(again, 1, 60, HASH)
        await release(again, 1)
        await release(again, 2)
        assert again.payer.promised_micro == 60
        assert [frame.voucher.statement.cumulative for frame in saved(again)] == [39, 60]


async def test_a_crash_after_a_release_still_pays_what_was_kept_back(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        await pay(buyer, 1, 40)
        # As if the process died between saving the release and writing the voucher after it.
        book = buyer.payer._book
        await book.perform(book.step(Release(job=job(1), attempt=0)))
        again = await world.buyer(writer=buyer.writer, deposit=0)
        await world.settle()
        assert [frame.voucher.statement.cumulative for frame in saved(again)] == [39, 40]


# -------------------------------------------------------------------------------------- resume


def own_voucher(cumulative: int, *, key: bytes, receipts: bytes = ZERO_HASH) -> Signed[Voucher]:
    payer = signing.address_of_key(key_of(1))
    statement = Voucher(
        payer=payer,
        payee=WORKER,
        model=MODEL,
        splits=splits_hash(()),
        cumulative=cumulative,
        receipts=receipts,
    )
    return signing.sign(statement, DOMAIN, key)


class Peer:
    """A session of which only the peer matters."""

    def __init__(self, address: Address) -> None:
        self.peer = address


async def resume(buyer: Buyer, *vouchers: Signed[Voucher], worker: Address = WORKER) -> None:
    session: object = Peer(worker)
    await buyer.payer.on_resume(session, Resume(vouchers=vouchers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cumulative", "receipts"),
    [(40, ZERO_HASH), (39, HASH)],
    ids=["higher than ours", "same amount, other content"],
)
async def test_an_old_copy_of_the_home_stops_signing(
    autojump_clock: MockClock, cumulative: int, receipts: bytes
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        await pay(buyer, 1, 40)
        await resume(buyer, own_voucher(cumulative, key=buyer.key, receipts=receipts))
        assert "old copy" in buyer.payer.halted
        for attempt in (buyer, await world.buyer(writer=buyer.writer, deposit=0)):
            with pytest.raises(CorruptState):  # a restart does not forget it
                await pay(attempt, 1, 50)
        assert len(saved(buyer)) == 1


async def test_a_tab_that_this_home_never_had_stops_signing_too(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await resume(buyer, own_voucher(5, key=buyer.key), worker=OTHER)
        assert buyer.payer.halted


async def test_the_escrow_paid_more_than_was_promised(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        await pay(buyer, 1, 40)
        world.escrow.redeem(own_voucher(60, key=buyer.key).statement)
        await buyer.payer.refresh()
        assert "escrow paid more" in buyer.payer.halted


async def test_what_others_signed_stops_nobody(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        await pay(buyer, 1, 40)
        forged = own_voucher(99, key=key_of(5))
        torn = Signed(forged.statement, b"\x00" * 64)
        await resume(buyer, forged, torn)
        assert not buyer.payer.halted
        await pay(buyer, 1, 50)


async def test_resumes_are_bounded(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        for _ in range(RESUMES_MAX):
            await resume(buyer)
        with pytest.raises(PeerError, match="too many"):
            await resume(buyer)
        await trio.sleep(11)
        await resume(buyer)


async def test_only_its_own_worker_gets_a_tab_again_or_makes_us_forget(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        await reserve(buyer, 1)
        given = await pay(buyer, 1, 40)
        assert given is not None
        before = len(buyer.wire.delivered)
        await resume(buyer, given, worker=OTHER)
        await world.settle()
        assert len(buyer.wire.delivered) == before
        assert len(saved(buyer)) == 1
        await resume(buyer, given)
        assert saved(buyer) == []


# --------------------------------------------------------------------------------------- locks


async def test_a_lock_counts_beside_what_is_owed_until_it_lands(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=100)
        await reserve(buyer, 1, cap=40)
        with pytest.raises(WalletError):
            await buyer.payer.make_lock(payee=WORKER, total_micro=61, expiry_s=START_S + 5_000)
        signed = await buyer.payer.make_lock(payee=WORKER, total_micro=60, expiry_s=START_S + 5_000)
        assert signing.recover(signed, DOMAIN) == buyer.account
        assert buyer.payer.available_micro == 0
        assert world.escrow.submit_lock(signed.statement)
        await buyer.payer.refresh()
        assert buyer.payer.promised_micro == 60  # the lock covers what is owed
        await reserve(buyer, 2, cap=40, worker=OTHER)


async def test_a_lock_that_does_is_given_again(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        lock = buyer.payer.make_lock
        first = await lock(payee=WORKER, total_micro=60, expiry_s=START_S + 5_000)
        assert await lock(payee=WORKER, total_micro=50, expiry_s=START_S + 5_000) == first
        again = await world.buyer(writer=buyer.writer, deposit=0)
        lock = again.payer.make_lock
        assert await lock(payee=WORKER, total_micro=60, expiry_s=START_S + 5_000) == first
        more = await lock(payee=WORKER, total_micro=70, expiry_s=START_S + 5_000)
        assert more.statement.nonce == first.statement.nonce + 1


async def test_a_lock_that_never_landed_frees_its_money_but_not_its_nonce(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=100)
        first = await buyer.payer.make_lock(payee=WORKER, total_micro=100, expiry_s=START_S + 500)
        world.escrow.pass_time(600)
        await buyer.payer.refresh()
        assert buyer.payer.promised_micro == 0
        again = await world.buyer(writer=buyer.writer, deposit=0)
        second = await again.payer.make_lock(
            payee=WORKER, total_micro=100, expiry_s=START_S + 5_000
        )
        assert second.statement.nonce == first.statement.nonce + 1


async def test_no_lock_is_given_out_before_it_is_saved(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer()
        buyer.writer.commit_s = 5.0
        locks: list[Signed[Lock]] = []

        async def lock() -> None:
            locks.append(
                await buyer.payer.make_lock(payee=WORKER, total_micro=60, expiry_s=START_S + 5_000)
            )

        world.nursery.start_soon(lock)
        world.nursery.start_soon(lock)
        await trio.sleep(4.9)
        assert locks == []
        await trio.sleep(0.2)
        assert len(locks) == 2
        assert locks[0] == locks[1]


async def test_what_others_locked_is_out_of_reach(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=100)
        lock = Lock(payer=buyer.account, payee=OTHER, total=70, nonce=1, expiry=START_S + 5_000)
        assert world.escrow.submit_lock(lock)
        await buyer.payer.refresh()
        with pytest.raises(WalletError):
            await reserve(buyer, 1, cap=31)
        await reserve(buyer, 1, cap=30)


async def test_a_payee_lowers_its_lock(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        release_of = LockRelease(payer=buyer.account, payee=seller.account, total=0, nonce=2)
        frame = LockReleaseFrame(release=signing.sign(release_of, DOMAIN, seller.key))
        session = seller.transport.sessions()[buyer.account]
        await session.send(frame)
        await world.settle()
        assert session.lost is not None  # there is no such lock
        await buyer.payer.make_lock(payee=seller.account, total_micro=5, expiry_s=START_S + 5_000)
        await world.connect(buyer, seller)
        await seller.transport.sessions()[buyer.account].send(frame)
        await world.settle()
        assert await buyer.writer.stores().payer.releases() == (frame.release,)


async def slowly(buyer: Buyer, worker: Address, frame: VoucherFrame) -> None:
    await trio.sleep(1)
    await buyer.wire.honest(worker, frame)


async def test_flush_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        award = await world.begin(buyer, seller)
        await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=40)
        buyer.writer.commit_s = 3.0
        buyer.wire.send = partial(slowly, buyer)
        world.nursery.start_soon(lambda: buyer.payer.release(job=award.job, attempt=0))
        await trio.sleep(3.5)  # the release is saved, its voucher is not
        await buyer.payer.flush()
        await world.settle()
        assert seller.payee.paid_micro(signing.digest(award, DOMAIN)) == 40


async def test_a_failed_save_fails_everybody_who_waits_for_it(autojump_clock: MockClock) -> None:
    failed: list[int] = []
    writer = InlineWriter()

    async def one(buyer: Buyer, number: int) -> None:
        try:
            await pay(buyer, number, 10)
        except NodeError:
            failed.append(number)

    async def use() -> None:
        async with payment_world() as world:
            buyer = await world.buyer(writer=writer)
            for number in range(5):
                await reserve(buyer, number)
            writer.fails_at = writer.writes + 1
            with trio.CancelScope(shield=True):  # the payer's end must not hide theirs
                async with trio.open_nursery() as nursery:
                    for number in range(5):
                        nursery.start_soon(one, buyer, number)

    with pytest.RaisesGroup(StoreFailed, flatten_subgroups=True):
        await use()
    assert sorted(failed) == [0, 1, 2, 3, 4]
