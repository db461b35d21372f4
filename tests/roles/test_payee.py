"""The payee: whom it serves, which vouchers it takes, and what it keeps."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.errors import CorruptState, PeerError, Unavailable
from node.protocol import signing
from node.protocol.fields import Hash
from node.protocol.frames import LockFrame, Refused, Resume, Rise, VoucherFrame
from node.protocol.payee_state import Refuse
from node.protocol.receipts_tree import EMPTY, append, root
from node.protocol.statements import Award, Lock, Voucher
from node.protocol.tabs import splits_hash
from node.roles.holdings import ACK_EVERY, ACK_S
from node.roles.stores import StoreFailed
from tests.roles.fakes import DOMAIN, key_of
from tests.roles.payment_world import (
    MARGIN_S,
    MODEL,
    RULES,
    START_S,
    Buyer,
    Seller,
    World,
    award_of,
    digest_of,
    payment_world,
    terms_of,
)

CLIENT_KEY = key_of(1)
CLIENT = signing.address_of_key(CLIENT_KEY)
HASH = b"r" * 32


class Hand:
    """Makes vouchers by hand, right or wrong, for one tab."""

    def __init__(self, seller: Seller, *, key: bytes = CLIENT_KEY) -> None:
        self.seller = seller
        self.key = key
        self.cumulative = 0
        self.tree = EMPTY

    def frame(
        self,
        *rises: tuple[Award, int],
        receipts: tuple[Hash, ...] = (),
        payee: bytes | None = None,
        skip: int = 0,
        wrong_root: bool = False,
    ) -> VoucherFrame:
        self.cumulative += sum(amount for _, amount in rises) + skip
        self.tree = append(self.tree, receipts)
        statement = Voucher(
            payer=CLIENT,
            payee=payee or self.seller.account,
            model=MODEL,
            splits=splits_hash(()),
            cumulative=self.cumulative,
            receipts=HASH if wrong_root else root(self.tree),
        )
        return VoucherFrame(
            voucher=signing.sign(statement, DOMAIN, self.key),
            rises=tuple(
                Rise(job=award.job, attempt=award.attempt, amount=amount) for award, amount in rises
            ),
            receipts=receipts,
        )

    async def give(self, frame: VoucherFrame) -> bool:
        return await self.seller.payee.on_voucher(CLIENT, frame)


async def served(world: World, seller: Seller, *, cap: int = 100) -> Award:
    world.jobs += 1
    award = award_of(CLIENT, terms_of(seller.account), world.jobs, cap=cap)
    assert await world.admit(seller, award) is None
    return award


async def asked(
    world: World, seller: Seller, *, cap: int = 100, client: bytes = CLIENT, payer: bytes = b""
) -> Refuse | None:
    world.jobs += 1
    award = award_of(client, terms_of(seller.account), world.jobs, cap=cap)
    return await world.admit(seller, replace(award, payer=payer or client))


def code(refusal: Refuse | None) -> Refused | None:
    return refusal.code if refusal is not None else None


# ----------------------------------------------------------------------------------- admission


async def test_credit_is_for_all_of_a_payers_segments_together(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=250))
        world.escrow.deposit(CLIENT, 10_000)
        first = await served(world, seller, cap=100)
        await served(world, seller, cap=150)
        refusal = await asked(world, seller, cap=30)
        assert code(refusal) is Refused.LOCK_REQUIRED
        assert refusal is not None
        assert refusal.lock_total == 30
        seller.payee.ended(digest_of(first), earned_micro=70)
        assert code(await asked(world, seller, cap=30)) is None
        assert code(await asked(world, seller, cap=1)) is Refused.LOCK_REQUIRED


async def test_a_cap_beyond_what_the_tokens_cost_is_no_exposure(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=100))
        world.escrow.deposit(CLIENT, 10_000)
        award = award_of(CLIENT, terms_of(seller.account), 1, cap=100)
        assert await world.admit(seller, replace(award, cap=9_000)) is None


async def test_fifty_parallel_awards_stay_within_the_credit(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=350))
        world.escrow.deposit(CLIENT, 10_000)
        world.escrow.delay_s = 0.05
        admitted: list[int] = []

        async def ask(number: int) -> None:
            award = award_of(CLIENT, terms_of(seller.account), number)
            if await seller.payee.admit(award=award, terms=terms_of(seller.account)) is None:
                admitted.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
        assert len(admitted) == 3


async def test_the_lock_that_is_asked_for_does(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(deposit=5_000), await world.seller()
        await served(world, seller, cap=1_000)
        refusal = await asked(world, seller, cap=700)
        assert refusal is not None
        assert refusal.code is Refused.LOCK_REQUIRED
        lock = await buyer.payer.make_lock(
            payee=seller.account, total_micro=refusal.lock_total, expiry_s=START_S + 9_000
        )
        await world.connect(buyer, seller)
        await buyer.transport.sessions()[seller.account].send(LockFrame(lock=lock))
        await world.settle()
        assert list(seller.payee.locks_to_submit()) == [lock]
        assert code(await asked(world, seller, cap=700)) is Refused.LOCK_REQUIRED  # not there yet
        assert world.escrow.submit_lock(lock.statement)
        await trio.sleep(2)
        assert code(await asked(world, seller, cap=700)) is None
        assert code(await asked(world, seller, cap=1)) is Refused.LOCK_REQUIRED
        await seller.payee.drop_lock(payer=CLIENT, nonce=lock.statement.nonce)
        assert list(seller.payee.locks_to_submit()) == []


async def test_a_lock_that_ends_soon_is_worth_nothing(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=0))
        world.escrow.deposit(CLIENT, 5_000)
        for nonce, life_s, expected in (
            (1, MARGIN_S - 5, Refused.LOCK_REQUIRED),
            (2, MARGIN_S + 500, None),
        ):
            lock = Lock(
                payer=CLIENT,
                payee=seller.account,
                total=100,
                nonce=nonce,
                expiry=START_S + life_s,
            )
            assert world.escrow.submit_lock(lock)
            await trio.sleep(2)
            assert code(await asked(world, seller, cap=100)) is expected


async def test_newcomers_share_a_credit_and_what_they_brought_in_counts(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=300, credit_new_micro=250))
        others = [bytes([n]) * 20 for n in range(1, 5)]
        for payer in (CLIENT, *others):
            world.escrow.deposit(payer, 1_000)
        assert code(await asked(world, seller, cap=200, client=others[0])) is None
        assert code(await asked(world, seller, cap=51, client=others[1])) is Refused.LOCK_REQUIRED
        assert code(await asked(world, seller, cap=50, client=others[1])) is None
        assert code(await asked(world, seller, cap=1, client=others[2])) is Refused.LOCK_REQUIRED
        # A payer whose vouchers brought in 120 is trusted with as much again.
        hand = Hand(seller)
        seller2 = seller.payee
        refused = await asked(world, seller, cap=120)
        assert code(refused) is Refused.LOCK_REQUIRED
        lock = Lock(payer=CLIENT, payee=seller.account, total=120, nonce=1, expiry=START_S + 9_000)
        world.escrow.submit_lock(lock)
        await trio.sleep(2)
        award = await served(world, seller, cap=120)
        await hand.give(hand.frame((award, 120)))
        seller2.ended(digest_of(award), earned_micro=120)
        world.escrow.redeem(seller2.vouchers_to_redeem()[0].voucher.statement)
        await trio.sleep(2)
        assert code(await asked(world, seller, cap=120)) is None
        assert code(await asked(world, seller, cap=1)) is Refused.LOCK_REQUIRED


@pytest.mark.parametrize(
    ("free", "expected"), [(99, Refused.DEPOSIT_TOO_LOW), (100, None)], ids=["short", "enough"]
)
async def test_the_deposit_has_to_cover_it(
    autojump_clock: MockClock, free: int, expected: Refused | None
) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, free)
        assert code(await asked(world, seller, cap=100)) is expected


async def test_a_deposit_that_has_just_come_counts(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        assert code(await asked(world, seller)) is Refused.DEPOSIT_TOO_LOW
        world.escrow.deposit(CLIENT, 1_000)
        await trio.sleep(1.5)
        assert code(await asked(world, seller)) is None


async def test_no_work_in_the_margin_before_an_exit(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 1_000)
        world.escrow.request_exit(CLIENT, ready_s=START_S + MARGIN_S + 100)
        award = await served(world, seller)  # there is time to redeem
        assert seller.payee.problem(award) is None
        await trio.sleep(101)
        assert seller.payee.problem(award) is Refused.EXIT_PENDING
        assert code(await asked(world, seller)) is Refused.EXIT_PENDING


async def test_a_wall_clock_that_is_behind_the_chains_does_not_reach_into_an_exit(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 1_000)
        world.escrow.request_exit(CLIENT, ready_s=START_S + MARGIN_S + 100)
        world.escrow.pass_time(90)
        award = await served(world, seller)
        assert seller.payee.problem(award) is None
        await trio.sleep(11)
        assert seller.payee.problem(award) is Refused.EXIT_PENDING
        assert code(await asked(world, seller)) is Refused.EXIT_PENDING


async def test_an_exit_that_is_cancelled_is_no_obstacle(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 1_000)
        world.escrow.request_exit(CLIENT, ready_s=START_S + 10)
        assert code(await asked(world, seller)) is Refused.EXIT_PENDING
        world.escrow.request_exit(CLIENT, ready_s=0)
        await trio.sleep(2)
        assert code(await asked(world, seller)) is None


async def test_only_signers_of_the_payer(autojump_clock: MockClock) -> None:
    payer = b"p" * 20
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(payer, 1_000)
        ask = partial(asked, world, seller, payer=payer)
        assert code(await ask()) is Refused.CLIENT_UNAUTHORISED
        world.escrow.authorise(payer, CLIENT, expiry_s=START_S + MARGIN_S - 1, cap=1_000)
        await trio.sleep(2)
        assert code(await ask()) is Refused.CLIENT_UNAUTHORISED  # ends too soon
        world.escrow.authorise(payer, CLIENT, expiry_s=START_S + 9_000, cap=150)
        await trio.sleep(2)
        assert code(await ask(cap=151)) is Refused.CLIENT_UNAUTHORISED
        assert code(await ask(cap=100)) is None
        assert code(await ask(cap=51)) is Refused.CLIENT_UNAUTHORISED


async def test_ten_parallel_attempts_begin_once(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 1_000)
        world.escrow.delay_s = 0.1
        codes: list[Refused | None] = []

        async def ask(seed: int) -> None:
            award = replace(award_of(CLIENT, terms_of(seller.account), 1), seed=seed % 2)
            codes.append(
                code(await seller.payee.admit(award=award, terms=terms_of(seller.account)))
            )

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
        assert codes.count(None) == 1
        assert codes.count(Refused.DUPLICATE) == 9


async def test_a_payer_that_leaves_debts_is_not_served_again(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        hand = Hand(seller)
        awards = [await served(world, seller) for _ in range(3)]
        for award in awards:
            seller.payee.ended(digest_of(award), earned_micro=40)
        assert code(await asked(world, seller)) is None  # its vouchers may be under way
        await trio.sleep(11)
        assert code(await asked(world, seller)) is Refused.UNPAID
        await hand.give(hand.frame((awards[0], 40)))  # the others stay disputed
        assert code(await asked(world, seller)) is None


async def test_debts_survive_a_restart(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        for _ in range(3):
            await world.finish(seller, await served(world, seller), amount=40)
        again = await world.seller(writer=seller.writer)
        await trio.sleep(11)
        assert code(await asked(world, again)) is Refused.UNPAID


async def test_debts_are_forgiven_in_time(autojump_clock: MockClock) -> None:
    """A client that died did not even see what was on its way to it."""
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        for _ in range(3):
            await world.finish(seller, await served(world, seller), amount=40)
        await trio.sleep(3_590)
        assert code(await asked(world, seller)) is Refused.UNPAID
        await trio.sleep(20)
        assert code(await asked(world, seller)) is None


async def test_who_pays_may_leave_a_little_unpaid(autojump_clock: MockClock) -> None:
    """One part in 16 of what was vouchered, on top of the quantum (100 here)."""
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        hand = Hand(seller)
        for _ in range(8):
            award = await served(world, seller)
            seller.payee.ended(digest_of(award), earned_micro=40)
            await hand.give(hand.frame((award, 40)))  # 320 in all
        for debt in (40, 40, 40):
            award = await served(world, seller)
            seller.payee.ended(digest_of(award), earned_micro=debt)
        await trio.sleep(11)
        assert code(await asked(world, seller)) is None
        award = await served(world, seller)
        seller.payee.ended(digest_of(award), earned_micro=1)
        await trio.sleep(11)
        assert code(await asked(world, seller)) is Refused.UNPAID


# ---------------------------------------------------------------------------- the age of the view


async def test_without_the_chain_only_locks_count_and_then_nothing(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        lock = Lock(payer=CLIENT, payee=seller.account, total=150, nonce=1, expiry=START_S + 99_000)
        world.escrow.submit_lock(lock)
        award = await served(world, seller, cap=100)
        world.escrow.down = True
        await trio.sleep(29)
        assert code(await asked(world, seller, cap=20)) is None  # credit still counts
        await trio.sleep(5)
        assert code(await asked(world, seller, cap=31)) is Refused.CHAIN_UNAVAILABLE
        assert code(await asked(world, seller, cap=30)) is None  # within the lock
        assert seller.payee.problem(award) is None
        await trio.sleep(MARGIN_S)
        assert code(await asked(world, seller, cap=1)) is Refused.CHAIN_UNAVAILABLE
        assert seller.payee.problem(award) is Refused.CHAIN_UNAVAILABLE
        world.escrow.down = False
        await trio.sleep(11)  # running segments keep their payer's view fresh
        assert seller.payee.problem(award) is None
        assert code(await asked(world, seller, cap=500)) is None


async def test_a_lock_that_was_not_seen_for_long_leaves_less_for_others(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=100, credit_new_micro=200))
        other = b"o" * 20
        for payer in (CLIENT, other):
            world.escrow.deposit(payer, 5_000)
        lock = Lock(payer=CLIENT, payee=seller.account, total=300, nonce=1, expiry=START_S + 99_000)
        world.escrow.submit_lock(lock)
        award = await served(world, seller, cap=300)
        hand = Hand(seller)
        await hand.give(hand.frame((award, 300)))
        seller.payee.ended(digest_of(award), earned_micro=300)
        await trio.sleep(2 * MARGIN_S)  # it owes, so it is looked at now and then
        assert code(await asked(world, seller, cap=100, client=other)) is None
        world.escrow.down = True
        await trio.sleep(MARGIN_S + 100)
        world.escrow.down = False
        third = b"3" * 20
        world.escrow.deposit(third, 5_000)
        # Between the RPC's return and the next look at the first payer:
        assert code(await asked(world, seller, cap=1, client=third)) is Refused.LOCK_REQUIRED


async def test_a_stranger_is_not_served_while_the_chain_is_away(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.down = True
        assert code(await asked(world, seller)) is Refused.CHAIN_UNAVAILABLE


async def test_vouchers_are_taken_while_the_chain_is_away(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        world.escrow.down = True
        await trio.sleep(3_600)
        hand = Hand(seller)
        assert await hand.give(hand.frame((award, 50)))
        assert seller.payee.paid_micro(digest_of(award)) == 50


async def test_many_awards_share_a_read_of_the_chain(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 50_000)
        world.escrow.delay_s = 0.2

        async def ask() -> None:
            assert await asked(world, seller, cap=1) is None

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask)
        assert world.escrow.reads == 1


# ------------------------------------------------------------------------------------ vouchers


async def test_a_voucher_sent_a_hundred_times_grants_once(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        seller.writer.commit_s = 0.01
        await world.connect(buyer, seller)
        award = await world.begin(buyer, seller)
        hand = Hand(seller)
        frame = hand.frame((award, 40))
        session = buyer.transport.sessions()[seller.account]
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(session.send, frame)
            for _ in range(20):
                nursery.start_soon(hand.give, frame)
        await trio.sleep(1)
        assert session.lost is None
        assert seller.payee.paid_micro(digest_of(award)) == 40
        (due,) = seller.payee.vouchers_to_redeem()
        assert (due.voucher, due.owed_micro) == (frame.voucher, 40)
        next_frame = hand.frame((award, 5))
        assert await hand.give(next_frame)
        assert seller.payee.paid_micro(digest_of(award)) == 45


async def test_who_waits_for_payment_goes_on_once_it_is_saved(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        hand = Hand(seller)
        seller.writer.commit_s = 3.0
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand.give, hand.frame((award, 40)))
            assert await seller.payee.wait_paid_above(digest_of(award), 10) == 40
            assert trio.current_time() - began_s == pytest.approx(3.0)
        assert await seller.payee.wait_paid_above(digest_of(award), 39) == 40


async def test_an_unsaved_voucher_pays_for_nothing(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        hand = Hand(seller)
        seller.writer.fails_at = seller.writer.writes + 1
        with pytest.raises(StoreFailed):
            await hand.give(hand.frame((award, 40)))
        assert seller.payee.paid_micro(digest_of(award)) == 0
        assert seller.payee.halted
        with pytest.raises(CorruptState):
            await hand.give(hand.frame((award, 40)))
        with pytest.raises(CorruptState):
            await asked(world, seller)
        with trio.move_on_after(10) as waited:
            await seller.payee.wait_paid_above(digest_of(award), 0)
        assert waited.cancelled_caught


@pytest.mark.parametrize("fault", [
    "another payee", "another signer", "rises too small", "rise of nothing", "two rises for one",
    "beyond the cap", "another root", "a receipt that is not ours", "a receipt twice",
    "another tab",
])  # fmt: skip
async def test_what_a_client_must_not_send(autojump_clock: MockClock, fault: str) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        hand = Hand(seller)
        assert await hand.give(hand.frame((award, 10)))
        receipt = await world.finish(seller, award, amount=60)
        frame = await wrong(fault, hand, world, award, receipt)
        with pytest.raises(PeerError):
            await hand.give(frame)
        assert seller.payee.paid_micro(digest_of(award)) == 10
        assert seller.payee.vouchers_to_redeem()[0].owed_micro == 10
        again = Hand(seller)
        again.cumulative, again.tree = 10, EMPTY
        assert await again.give(again.frame((award, 50), receipts=(receipt,)))  # harmless after


async def wrong(fault: str, hand: Hand, world: World, award: Award, receipt: Hash) -> VoucherFrame:
    match fault:
        case "another payee":
            return hand.frame((award, 5), payee=b"x" * 20)
        case "another signer":
            hand.key = key_of(5)
            return hand.frame((award, 5))
        case "rises too small":
            frame = hand.frame((award, 5))
            return replace(frame, rises=(replace(frame.rises[0], amount=6),))
        case "rise of nothing":
            return hand.frame((award, 0), (await served(world, hand.seller), 5))
        case "two rises for one":
            return hand.frame((award, 5), (award, 5))
        case "beyond the cap":
            return hand.frame((award, 91))
        case "another root":
            return hand.frame((award, 5), wrong_root=True)
        case "a receipt that is not ours":
            return hand.frame((award, 5), receipts=(HASH,))
        case "a receipt twice":
            return hand.frame((award, 5), receipts=(receipt, receipt))
        case "another tab":
            model = b"n" * 32
            other = award_of(CLIENT, terms_of(hand.seller.account, model=model), 77)
            terms = terms_of(hand.seller.account, model=model)
            assert await hand.seller.payee.admit(award=other, terms=terms) is None
            return hand.frame((other, 5))
        case _:
            raise AssertionError(fault)


async def test_a_stranger_cannot_bring_vouchers_in_a_payers_name(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        stranger = Hand(seller, key=key_of(5))
        with pytest.raises(PeerError, match="may not sign"):
            await seller.payee.on_voucher(
                signing.address_of_key(key_of(5)), stranger.frame((award, 5))
            )
        world.escrow.down = True
        with pytest.raises(Unavailable):
            await seller.payee.on_voucher(
                signing.address_of_key(key_of(6)), Hand(seller, key=key_of(6)).frame((award, 5))
            )


async def test_what_is_paid_but_not_committed_to_stays_known(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        hand = Hand(seller)
        await world.finish(seller, award, amount=30)
        await hand.give(hand.frame((award, 30)))
        reads = seller.writer.reads
        receipt = next(iter(seller.payee._book.state.segments.values())).receipt
        assert receipt is not None
        other = await served(world, seller)
        await hand.give(hand.frame((other, 5), receipts=(receipt,)))
        assert seller.writer.reads == reads  # in memory: no look-up in the store


async def test_receipts_are_committed_once_and_also_later(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        one, two = await served(world, seller), await served(world, seller)
        hand = Hand(seller)
        first = await world.finish(seller, one, amount=30)
        await hand.give(hand.frame((one, 30)))  # paid in full, and forgotten by nobody
        again = await world.seller(writer=seller.writer)
        hand.seller = again
        second = await world.finish(again, two, amount=40)
        assert await hand.give(hand.frame((two, 40), receipts=(second, first)))
        with pytest.raises(PeerError):
            await hand.give(hand.frame((two, 1), receipts=(first,)))


async def test_a_voucher_may_come_before_its_award(autojump_clock: MockClock) -> None:
    """A prepaid voucher travels on the session too, and may overtake the award it is for."""
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        first = await served(world, seller)  # the tab is known
        later = award_of(CLIENT, terms_of(seller.account), 50)
        hand = Hand(seller)
        frame = hand.frame((later, 40))
        assert await hand.give(frame)
        assert await hand.give(hand.frame((first, 5)))
        again = await world.seller(writer=seller.writer)  # kept over a restart
        assert await world.admit(again, later) is None
        assert again.payee.paid_micro(digest_of(later)) == 40
        assert await again.payee.on_voucher(CLIENT, frame)  # inside the award: seen before
        assert again.payee.paid_micro(digest_of(later)) == 40


async def test_a_voucher_on_an_unknown_tab_waits_for_its_award(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = award_of(CLIENT, terms_of(seller.account), 1)
        frame = Hand(seller).frame((award, 40))
        assert not await seller.payee.on_voucher(CLIENT, frame)
        assert await world.admit(seller, award) is None
        assert await seller.payee.on_voucher(CLIENT, frame)
        assert seller.payee.paid_micro(digest_of(award)) == 40


# -------------------------------------------------------------------------------- gaps and resume


async def test_a_gap_is_filled_and_its_money_kept_meanwhile(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        award = await world.begin(buyer, seller)
        lose_one(buyer)
        pay = partial(buyer.payer.pay, job=award.job, attempt=0)
        await pay(accepted_micro=20)  # lost on the way
        await pay(accepted_micro=30)
        await trio.sleep(1)
        assert seller.payee.paid_micro(digest_of(award)) == 29
        await pay(accepted_micro=40)
        await world.settle()
        assert seller.payee.paid_micro(digest_of(award)) == 39


def lose_one(buyer: Buyer) -> None:
    """The next voucher is lost on its way, with the session none the wiser."""

    async def lossy(worker: bytes, frame: VoucherFrame) -> None:
        buyer.wire.send = buyer.wire.honest

    buyer.wire.send = lossy


async def test_a_gap_that_is_not_filled_is_asked_about_now_and_then(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        award = await world.begin(buyer, seller)
        hand = Hand(seller)
        session = seller.transport.sessions()[buyer.account]
        before = len(session.sent)
        for _ in range(20):
            await buyer.transport.sessions()[seller.account].send(hand.frame((award, 1), skip=1))
        await world.settle()
        assert len(session.sent) - before == 1
        assert seller.payee.paid_micro(digest_of(award)) == 0
        (due,) = seller.payee.vouchers_to_redeem()
        assert due.owed_micro == hand.cumulative  # signed is signed
        seller.payee.ended(digest_of(award), earned_micro=0)
        assert code(await asked(world, seller)) is Refused.UNPAID  # until it has caught up
        await trio.sleep(3)
        await buyer.transport.sessions()[seller.account].send(hand.frame((award, 1), skip=1))
        await world.settle()
        assert len(session.sent) - before == 2


async def test_a_reconnect_catches_up(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        awards = [await world.begin(buyer, seller) for _ in range(3)]
        buyer.transport.sessions()[seller.account].cut()
        for award in awards:
            for amount in (20, 40, 60):
                await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=amount)
        for award in awards:
            receipt = await world.finish(seller, award, amount=60)
            await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=60, receipt=receipt)
        assert seller.payee.vouchers_to_redeem() == ()
        again = await world.seller(writer=seller.writer, number=2)  # and restarted meanwhile
        await world.connect(buyer, again)
        await world.settle()
        assert [again.payee.paid_micro(digest_of(award)) for award in awards] == [60, 60, 60]
        assert again.payee.vouchers_to_redeem()[0].owed_micro == 180


async def test_the_highest_voucher_is_kept_as_soon_as_it_is_shown(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        award = await world.begin(buyer, seller)
        await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=60)
        buyer.wire.send = never
        await world.connect(buyer, seller)
        (due,) = seller.payee.vouchers_to_redeem()
        assert due.owed_micro == 59
        assert seller.payee.paid_micro(digest_of(award)) == 0  # for what, it did not say


async def never(worker: bytes, frame: VoucherFrame) -> None:
    del worker, frame


async def test_a_resume_that_somebody_forged_changes_nothing(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        await world.begin(buyer, seller)
        forged = Hand(seller, key=key_of(5)).frame(skip=500).voucher
        session = buyer.transport.sessions()[seller.account]
        await session.send(Resume(vouchers=(forged,)))
        await world.settle()
        assert session.lost is not None
        assert seller.payee.vouchers_to_redeem() == ()


async def test_a_client_is_not_told_of_a_voucher_whose_save_is_under_way(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would forget what lies before it, and a crash here would lose it (seed 382)."""
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()
        await world.connect(buyer, seller)
        award = await served(world, seller)
        hand = Hand(seller)
        first, second = hand.frame((award, 10)), hand.frame((award, 7))
        await hand.give(first)
        store = seller.writer.stores().payee
        saving, written = trio.Event(), store.save_voucher

        async def slow(*args: Any, **kwargs: Any) -> None:
            saving.set()
            await trio.sleep(1)
            await written(*args, **kwargs)

        monkeypatch.setattr(seller.payee._book.store, "save_voucher", slow)
        session = seller.transport.sessions()[buyer.account]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand.give, second)
            await saving.wait()
            await seller.payee.greet(session)
            assert session.sent[-1] == Resume(vouchers=(first.voucher,))
        await seller.payee.greet(session)
        assert session.sent[-1] == Resume(vouchers=(second.voucher,))


async def test_a_client_is_told_now_and_then_what_is_saved(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer = await world.buyer(deposit=50_000)
        seller = await world.seller(rules=replace(RULES, credit_micro=50_000))
        await world.connect(buyer, seller)
        award = await world.begin(buyer, seller, cap=5_000)

        async def give(count: int) -> None:
            for _ in range(count):
                hand.append(len(hand) + 3)
                await buyer.payer.pay(job=award.job, attempt=0, accepted_micro=hand[-1])
                await world.settle()

        def kept() -> int:
            rows = buyer.writer.connection.execute("SELECT count(*) FROM vouchers_given")
            count: int = rows.fetchone()[0]
            return count

        hand: list[int] = []
        await give(ACK_EVERY + 10)
        assert kept() == 10
        told = len(seller.transport.sessions()[buyer.account].sent)
        await give(3 * ACK_EVERY)  # faster than it may be told
        assert len(seller.transport.sessions()[buyer.account].sent) == told
        await trio.sleep(ACK_S)
        await give(ACK_EVERY)
        assert kept() == 10
        assert buyer.transport.sessions()[seller.account].lost is None


async def test_who_gives_up_waiting_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        for number in range(5):
            with trio.move_on_after(1):
                await seller.payee.wait_paid_above(bytes([number]) * 32, 0)
        assert seller.payee._raised == {}


async def test_views_of_strangers_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.protocol.payee_ledger.PAYERS_MAX", 4)
    monkeypatch.setattr("node.roles.payer_views.KEPT_MAX", 4)
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        await served(world, seller)
        for number in range(1, 20):
            assert await asked(world, seller, client=bytes([number]) * 20) is not None
        assert len(seller.payee._book.state.payers) <= 4
        assert CLIENT in seller.payee._book.state.payers
        assert len(seller.payee._views._views) <= 4


# -------------------------------------------------------------------------- keeping and redeeming


async def test_a_restart_keeps_every_voucher(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        hand = Hand(seller)
        for amount in (10, 20, 30):
            await hand.give(hand.frame((award, amount)))
        again = await world.seller(writer=seller.writer)
        assert again.payee.vouchers_to_redeem() == seller.payee.vouchers_to_redeem()
        hand.seller = again
        assert await hand.give(hand.frame((award, 40)))  # the sequence goes on
        assert again.payee.paid_micro(digest_of(award)) == 100


async def test_what_is_due_names_everything_that_redeeming_takes(
    autojump_clock: MockClock,
) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        award = await served(world, seller)
        hand = Hand(seller)
        await trio.sleep(5)
        await hand.give(hand.frame((award, 40)))
        await trio.sleep(5)
        frame = hand.frame((award, 20))
        await hand.give(frame)
        (due,) = seller.payee.vouchers_to_redeem()
        assert (due.voucher, due.signer, due.splits) == (frame.voucher, CLIENT, ())
        assert (due.paid_micro, due.owed_micro) == (0, 60)
        assert due.since_ms == START_S * 1000 + 5_000
        await seller.payee.redeemed({due.tab: 45})
        (due,) = seller.payee.vouchers_to_redeem()
        assert (due.paid_micro, due.owed_micro) == (45, 15)
        await seller.payee.redeemed({due.tab: 60})
        await seller.payee.redeemed({due.tab: 10})  # it never falls
        assert seller.payee.vouchers_to_redeem() == ()
        again = await world.seller(writer=seller.writer)
        assert again.payee.vouchers_to_redeem() == ()


async def test_what_was_paid_does_not_count_as_lock_once_more(autojump_clock: MockClock) -> None:
    """The redeemer hears of a payment before the payer's lock is read again."""
    async with payment_world() as world:
        seller = await world.seller(rules=replace(RULES, credit_micro=0))
        world.escrow.deposit(CLIENT, 5_000)
        lock = Lock(payer=CLIENT, payee=seller.account, total=100, nonce=1, expiry=START_S + 9_000)
        world.escrow.submit_lock(lock)
        award = await served(world, seller, cap=100)
        hand = Hand(seller)
        await hand.give(hand.frame((award, 100)))
        seller.payee.ended(digest_of(award), earned_micro=100)
        (due,) = seller.payee.vouchers_to_redeem()
        world.escrow.redeem(due.voucher.statement)
        await seller.payee.redeemed({due.tab: 100})
        world.escrow.down = True  # so that nothing newer can be read
        assert code(await asked(world, seller, cap=1)) is Refused.LOCK_REQUIRED
        world.escrow.down = False
        await trio.sleep(2)
        assert code(await asked(world, seller, cap=1)) is Refused.LOCK_REQUIRED


async def test_exposures_show_what_each_payer_owes(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        seller = await world.seller()
        world.escrow.deposit(CLIENT, 5_000)
        one, two = await served(world, seller), await served(world, seller)
        hand = Hand(seller)
        await hand.give(hand.frame((one, 40)))
        seller.payee.ended(digest_of(one), earned_micro=70)
        await trio.sleep(11)
        (row,) = seller.payee.exposures()
        assert (row.payer, row.owed_micro, row.debt_micro) == (CLIENT, 40, 30)
        assert row.expected_micro == 130
        assert two.cap == 100


# --------------------------------------------------------------------------------------- locks


async def test_locks_that_nobody_asked_for(autojump_clock: MockClock) -> None:
    async with payment_world() as world:
        buyer, seller = await world.buyer(), await world.seller()

        async def send(lock: Lock, key: bytes = CLIENT_KEY) -> bool:
            await world.connect(buyer, seller)
            session = buyer.transport.sessions()[seller.account]
            await session.send(LockFrame(lock=signing.sign(lock, DOMAIN, key)))
            await world.settle()
            return session.lost is None

        lock = Lock(payer=CLIENT, payee=seller.account, total=5, nonce=3, expiry=START_S + 9_000)
        assert not await send(lock)  # a payer that was never read
        await served(world, seller)
        assert not await send(replace(lock, payee=b"x" * 20))
        assert not await send(lock, key_of(5))
        assert not await send(replace(lock, expiry=START_S))
        assert seller.payee.locks_to_submit() == ()
        assert await send(lock)
        assert await send(replace(lock, nonce=2, total=9))  # older: kept out
        (kept,) = seller.payee.locks_to_submit()
        assert kept.statement == lock
        again = await world.seller(writer=seller.writer)
        assert again.payee.locks_to_submit() == (kept,)
