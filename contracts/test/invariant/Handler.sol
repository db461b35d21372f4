// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Statements} from "../support/Statements.sol";
import {Market} from "./Market.sol";

/// @notice What anybody may do, in any order. Each action keeps to the rules that it knows, so that
/// a revert is a finding, and checks what one step must keep.
contract Handler is Market {
    uint256 private lastCumulative;

    constructor(IEscrow escrow_) Market(escrow_) {}

    function warp(uint256 seconds_) external {
        clock += bound(seconds_, 1, 30 hours);
    }

    // ------------------------------------------------------------------------ deposits and exits

    function deposit(uint256 to, uint256 amount) external atItsTime {
        to %= PAYERS;
        if (exitReadyAt(to) != 0) return;
        (uint256 held, uint256 locked,) = escrow.accounts(payer(to));
        if (held + locked == escrow.DEPOSIT_CAP()) return;
        amount = bound(amount, 1, min(DEPOSIT_MAX, escrow.DEPOSIT_CAP() - held - locked));
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(payer(to), amount);
        deposited += amount;
    }

    function requestExit(uint256 by) external atItsTime {
        by %= PAYERS;
        if (exitReadyAt(by) != 0) return;
        vm.prank(payer(by));
        escrow.requestExit();
    }

    /// @param mind Mostly an exit goes on.
    function cancelExit(uint256 by, uint256 mind) external atItsTime {
        by %= PAYERS;
        if (exitReadyAt(by) == 0 || mind % 4 != 0) return;
        vm.prank(payer(by));
        escrow.cancelExit();
    }

    /// @dev Tried at any time: it must work after the delay, and never before.
    function exit(uint256 by) external atItsTime {
        by %= PAYERS;
        (uint256 held, uint256 locked, uint64 readyAt) = escrow.accounts(payer(by));
        bool due = readyAt != 0 && readyAt <= block.timestamp;
        vm.prank(payer(by));
        try escrow.exit(address(0xE)) {
            vm.assertTrue(due, "an exit before its time");
            exited += held + locked;
        } catch {
            vm.assertTrue(!due, "an exit held up");
        }
    }

    // ------------------------------------------------------------------------------------ locks

    struct Draft {
        uint256 payer;
        uint256 payee;
        uint256 key;
        uint128 amount;
        uint64 nonce;
        uint64 expiry;
    }

    function draft(uint256 by, uint256 to) private view returns (Draft memory d) {
        d.payer = by % PAYERS;
        d.payee = to % PAYEES;
        (d.amount, d.nonce, d.expiry) = escrow.lockOf(payer(d.payer), payee(d.payee));
        d.key = PAYER_KEYS + d.payer;
    }

    /// @dev Tried at any size: a live lock falls only by its payee's hand.
    function submitLock(uint256 by, uint256 to, uint128 total, uint64 time, bool hot, bool byPayee)
        external
        atItsTime
    {
        Draft memory d = draft(by, to);
        total = uint128(bound(total, 0, free(d.payer) + d.amount));
        if (hot) {
            if (!signerLive(d.payer)) return;
            if (total > d.amount && total - d.amount > signerCapLeft(d.payer)) return;
            d.key = SIGNER_KEYS + d.payer;
        }
        uint64 expiry = uint64(block.timestamp + bound(time, 1, 3 days));
        IEscrow.Lock memory lock =
            IEscrow.Lock(payer(d.payer), payee(d.payee), total, d.nonce + 1, expiry);
        bytes memory signature = Statements.sign(d.key, Statements.digest(SEPARATOR, lock));
        bool weaker =
            d.amount != 0 && d.expiry > block.timestamp && (total < d.amount || expiry < d.expiry);
        vm.prank(byPayee ? payee(d.payee) : payer(d.payer));
        try escrow.submitLock(lock, signature) {
            vm.assertTrue(byPayee || !weaker, "a lock weakened by its payer");
        } catch {
            vm.assertTrue(!byPayee && weaker, "a lock held up");
        }
    }

    function lowerLock(uint256 by, uint256 to, uint128 total) external atItsTime {
        Draft memory d = draft(by, to);
        if (d.amount == 0) return;
        vm.prank(payee(d.payee));
        escrow.lowerLock(payer(d.payer), uint128(bound(total, 0, d.amount - 1)));
    }

    function release(uint256 by, uint256 to, uint128 total) external atItsTime {
        Draft memory d = draft(by, to);
        if (d.amount == 0) return;
        total = uint128(bound(total, 0, d.amount - 1));
        IEscrow.LockRelease memory statement =
            IEscrow.LockRelease(payer(d.payer), payee(d.payee), total, d.nonce + 1);
        bytes32 digest = Statements.digest(SEPARATOR, statement);
        escrow.submitLockRelease(statement, Statements.sign(PAYEE_KEYS + d.payee, digest));
    }

    function expireLock(uint256 by, uint256 to) external atItsTime {
        Draft memory d = draft(by, to);
        bool due = d.amount != 0 && d.expiry <= block.timestamp;
        try escrow.expireLock(payer(d.payer), payee(d.payee)) {
            vm.assertTrue(due, "a lock expired before its time");
        } catch {
            vm.assertTrue(!due, "an expired lock held up");
        }
    }

    // ---------------------------------------------------------------------------------- signers

    function setSigner(uint256 by, uint64 time, uint128 cap) external atItsTime {
        by %= PAYERS;
        (uint64 expiry, uint128 oldCap,) = escrow.signers(payer(by), signer(by));
        uint64 next = uint64(block.timestamp + bound(time, 1, 5 days));
        cap = uint128(bound(cap, 0, 3 * DEPOSIT_MAX));
        if (expiry > block.timestamp) {
            if (next < expiry) next = expiry;
            if (cap < oldCap) cap = oldCap;
        }
        vm.prank(payer(by));
        escrow.setSigner(signer(by), next, cap);
    }

    function thawSigner(uint256 by) external atItsTime {
        by %= PAYERS;
        if (!signerLive(by)) return;
        vm.prank(payer(by));
        escrow.thawSigner(signer(by));
    }

    // ----------------------------------------------------------------------------------- redeem

    /// @notice One voucher of a random size and signature, and what must come of it.
    function redeemOne(uint256 by, uint256 to, uint256 kind, uint128 rise, uint8 key, bool byPayee)
        external
        atItsTime
    {
        Draft memory d = draft(by, to);
        kind %= TABS_PER_PAIR;
        bytes32 id = tabId(d.payer, d.payee, kind);
        uint256 held = free(d.payer);
        uint256 paid = escrow.tabPaid(id);
        uint256 capLeft = signerCapLeft(d.payer);
        bytes memory records = recordOf(d.payer, d.payee, kind, rise, hand(key));
        redeemAs(byPayee ? payee(d.payee) : address(0xBAD), groupOf(d.payee, kind, records));
        checkPaid(d, held, escrow.tabPaid(id) - paid);
        if (hand(key) > 1) vm.assertEq(escrow.tabPaid(id), paid, "paid without a signature");
        bool reserved = d.amount != 0 && kind == 2 && !byPayee;
        if (reserved) vm.assertEq(escrow.tabPaid(id), paid, "a lock drawn by others");
        if (reserved || hand(key) > 1 || lastCumulative <= paid) return;
        if (hand(key) == 1 && !signerLive(d.payer)) return;
        // A lock pays whatever signer the payer has; free funds, up to the signer's cap.
        uint256 reach = d.amount + (hand(key) == 0 ? held : min(held, capLeft));
        vm.assertEq(escrow.tabPaid(id), min(lastCumulative, paid + reach), "paid all that is there");
    }

    /// @param before The lock as it was.
    /// @param held The free funds as they were.
    function checkPaid(Draft memory before, uint256 held, uint256 amount) private view {
        (uint128 lockLeft,,) = escrow.lockOf(payer(before.payer), payee(before.payee));
        uint256 fromLock = before.amount - lockLeft;
        vm.assertEq(free(before.payer) + amount, held + fromLock, "from its lock and free funds");
        vm.assertEq(fromLock, min(amount, before.amount), "its own lock first");
    }

    /// @notice A batch of several groups with records of all sorts.
    function redeemMany(uint256 seed, uint8 groups) external atItsTime {
        bytes memory batch;
        for (uint256 i = 0; i < bound(groups, 1, 3); ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 to = seed % PAYEES;
            uint256 kind = (seed >> 8) % TABS_PER_PAIR;
            bytes memory records;
            for (uint256 j = 0; j < 1 + (seed >> 16) % 4; ++j) {
                seed = uint256(keccak256(abi.encode(seed)));
                records = abi.encodePacked(
                    records, recordOf(seed % PAYERS, to, kind, seed >> 24, hand(seed >> 8))
                );
            }
            batch = abi.encodePacked(batch, groupOf(to, kind, records));
        }
        redeemAs(seed & 1 == 0 ? payee(0) : address(0xBAD), batch);
    }

    function redeemAs(address caller, bytes memory batch) private {
        uint256 before = creditsTotal();
        vm.prank(caller);
        (uint256 amount,) = escrow.redeem(batch);
        vm.assertEq(creditsTotal() - before, amount, "credited");
        credited += amount;
        for (uint256 i = 0; i < TABS; ++i) {
            bytes32 id = tabAt(i);
            uint256 paid = escrow.tabPaid(id);
            vm.assertGe(paid, paidBefore[id], "what a tab was paid fell");
            paidBefore[id] = paid;
        }
    }

    function groupOf(uint256 to, uint256 kind, bytes memory records)
        private
        view
        returns (bytes memory)
    {
        return Statements.group(payee(to), model(kind), packedSplits(kind), records);
    }

    /// @dev Mostly the payer, often its signer, at times somebody who has no say.
    function hand(uint256 key) private pure returns (uint256) {
        key %= 8;
        return key < 4 ? 0 : key < 6 ? 1 : key - 4;
    }

    /// @param who 0 the payer, 1 its signer, 2 the payee, 3 noise.
    function recordOf(uint256 by, uint256 to, uint256 kind, uint256 rise, uint256 who)
        private
        returns (bytes memory)
    {
        bytes32 id = tabId(by, to, kind);
        // Around what is signed already: lower, equal and higher.
        uint128 cumulative = uint128(signedMost[id] * 3 / 4 + bound(rise, 0, DEPOSIT_MAX / 2));
        IEscrow.Voucher memory voucher = IEscrow.Voucher(
            payer(by), payee(to), model(kind), keccak256(packedSplits(kind)), cumulative, id
        );
        lastCumulative = cumulative;
        bytes32 digest = Statements.digest(SEPARATOR, voucher);
        if (who == 3) return Statements.record(voucher, abi.encodePacked(digest, id));
        uint256 key =
            (who == 0 ? PAYER_KEYS : who == 1 ? SIGNER_KEYS : PAYEE_KEYS) + (who == 2 ? to : by);
        if ((who == 0 || (who == 1 && signerLive(by))) && cumulative > signedMost[id]) {
            signedMost[id] = cumulative;
        }
        return Statements.record(voucher, Statements.sign(key, digest));
    }

    // ------------------------------------------------------------------------------------ claim

    function claim(uint256 who) external atItsTime {
        address account = creditor(who % creditors());
        uint256 amount = escrow.credits(account);
        if (amount == 0) return;
        vm.prank(account);
        escrow.claim(address(0xF));
        claimed += amount;
    }

    /// @notice Everybody who can have credit.
    function creditor(uint256 i) public view returns (address) {
        if (i < PAYEES) return payee(i);
        return i == PAYEES ? curator() : treasury();
    }

    function creditors() public pure returns (uint256) {
        return PAYEES + 2;
    }

    function creditsTotal() public view returns (uint256 total) {
        for (uint256 i = 0; i < creditors(); ++i) {
            total += escrow.credits(creditor(i));
        }
    }
}
