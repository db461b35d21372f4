// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";

/// @notice Which funds a voucher draws on. The cases are in redeem.tree.
contract RedeemLocksTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        fund(payer, 100);
    }

    function toRival(uint128 cumulative) private view returns (IEscrow.Voucher memory statement) {
        statement = voucher(cumulative);
        statement.payee = rival;
    }

    function withSplit(uint128 cumulative) private view returns (bytes memory) {
        bytes memory splits = abi.encodePacked(curator, uint16(5000));
        IEscrow.Voucher memory statement = voucher(cumulative);
        statement.splits = keccak256(splits);
        return Statements.group(payee, MODEL, splits, record(statement, PAYER_KEY));
    }

    function test_DrawsTheLockFirst() public {
        setLock(40, 1);
        vm.assertEq(redeemOne(voucher(30), PAYER_KEY), 30);
        assertAccount(payer, 60, 10);
        assertLock(payer, payee, 10, 1, START + 30 days);
        vm.assertEq(redeemOne(voucher(45), PAYER_KEY), 15);
        assertAccount(payer, 55, 0);
        assertLock(payer, payee, 0, 1, START + 30 days);
        vm.assertEq(redeemOne(voucher(1000), PAYER_KEY), 55);
        assertAccount(payer, 0, 0);
    }

    function test_LeavesAnothersLock() public {
        setLock(40, 1);
        vm.assertEq(redeemOne(toRival(90), PAYER_KEY), 60);
        assertAccount(payer, 0, 40);
        vm.assertEq(redeemOne(voucher(60), PAYER_KEY), 40);
        // The shortfalls are paid from a later deposit, by the same vouchers.
        fund(payer, 100);
        vm.assertEq(redeemOne(voucher(60), PAYER_KEY), 20);
        vm.assertEq(redeemOne(toRival(90), PAYER_KEY), 30);
        assertAccount(payer, 50, 0);
    }

    function test_DrawsALockForSplits_OnlyForThePayee() public {
        setLock(100, 1);
        // Splits that the payee never agreed to would hand half of its lock to the payer's friend.
        vm.prank(payer);
        assertSkippedHere(withSplit(80));
        vm.assertEq(escrow.credits(curator), 0);
        assertLock(payer, payee, 100, 1, START + 30 days);

        vm.prank(payee);
        (uint256 amount,) = escrow.redeem(withSplit(80));
        vm.assertEq(amount, 80);
        vm.assertEq(escrow.credits(curator), 40);
        assertAccount(payer, 0, 20);
    }

    function assertSkippedHere(bytes memory batch) private {
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherSkipped(payer, payee, 0, IEscrow.SkipReason.LockReserved);
        (uint256 amount, uint256 skipped) = escrow.redeem(batch);
        vm.assertEq(amount, 0);
        vm.assertEq(skipped, 1);
    }

    function test_DrawsALockForSplits_ForASignerOfThePayee() public {
        setLock(100, 1);
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 1000);
        vm.prank(signer);
        assertSkippedHere(withSplit(10));

        vm.prank(payee);
        escrow.setSigner(signer, START + 10, 0);
        vm.prank(signer);
        escrow.redeem(withSplit(10));
        assertAccount(payer, 0, 90);
        vm.warp(START + 10);
        vm.prank(signer);
        assertSkippedHere(withSplit(20));
    }

    /// @dev Nor free funds: they would be paid instead of the lock, and lack to another payee.
    function test_DrawsNothingForSplits_ForAnyone_WhereThereIsALock() public {
        setLock(70, 1);
        vm.prank(stranger);
        assertSkippedHere(withSplit(80));
        assertAccount(payer, 30, 70);
        vm.prank(payee);
        escrow.redeem(withSplit(80));
        assertAccount(payer, 20, 0);
    }

    function test_DrawsFreeFundsForSplits_ForAnyone() public {
        setRivalLock(70, 1);
        vm.prank(stranger);
        (uint256 amount,) = escrow.redeem(withSplit(80));
        vm.assertEq(amount, 30);
        assertAccount(payer, 0, 70);
    }

    /// @dev A payer must not void a lock by using its signer's cap up elsewhere.
    function test_DrawsTheLock_WhateverIsLeftOfTheSignersCap() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 40);
        setLock(50, 1);
        vm.assertEq(redeemOne(toRival(1000), SIGNER_KEY), 40);
        // 50 out of the lock; for the 10 that are free the cap has no room.
        vm.assertEq(redeemOne(voucher(1000), SIGNER_KEY), 50);
        assertAccount(payer, 10, 0);
        assertSkipped(
            plain(record(voucher(1000), SIGNER_KEY)), payer, IEscrow.SkipReason.SignerCapReached
        );
        (,, uint128 spent) = escrow.signers(payer, signer);
        vm.assertEq(spent, 40);
    }

    function test_CountsFreeFundsOnly_AgainstTheSignersCap() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 45);
        setLock(30, 1);
        vm.recordLogs();
        vm.assertEq(redeemOne(voucher(20), SIGNER_KEY), 20);
        vm.assertEq(vm.getRecordedLogs().length, 2);
        vm.expectEmit(address(escrow));
        emit IEscrow.SignerSpent(payer, signer, 40, 40);
        vm.assertEq(redeemOne(voucher(70), SIGNER_KEY), 50);
        vm.assertEq(redeemOne(voucher(90), SIGNER_KEY), 5);
    }

    function test_CountsNothing_WhenALockPaysASignerWhoseCapIsUsedUp() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 0);
        setLock(30, 1);
        vm.recordLogs();
        vm.assertEq(redeemOne(voucher(50), SIGNER_KEY), 30);
        vm.assertEq(vm.getRecordedLogs().length, 2, "VoucherRedeemed and Credited");
    }

    function test_DrawsALockWithoutSplits_ForAnyone() public {
        setLock(100, 1);
        vm.prank(stranger);
        vm.assertEq(redeemOne(voucher(80), PAYER_KEY), 80);
    }

    function test_SkipsAsUnfunded_WhenTheLockIsAnothers_WithSplits() public {
        setRivalLock(100, 1);
        assertSkipped(withSplit(10), payer, IEscrow.SkipReason.Unfunded);
    }

    /// @dev The reason for drawing the lock first: an honest payer's payees are paid in any order.
    function testFuzz_PaysEveryone_WhoIsCovered(
        uint128 lockA,
        uint128 owedA,
        uint128 lockB,
        uint128 owedB,
        uint8 order
    ) public {
        // max(lock, owed) of both together is at most the deposit of 100.
        lockA = uint128(bound(lockA, 0, 100));
        owedA = uint128(bound(owedA, 1, 100));
        uint128 room = 100 - (lockA > owedA ? lockA : owedA);
        vm.assume(room > 0);
        lockB = uint128(bound(lockB, 0, room));
        owedB = uint128(bound(owedB, 1, room));
        setLock(lockA, 1);
        setRivalLock(lockB, 1);
        uint128 partA = uint128(bound(order, 1, owedA));
        if (order % 2 == 0) vm.assertEq(redeemOne(voucher(partA), PAYER_KEY), partA);
        vm.assertEq(redeemOne(toRival(owedB), PAYER_KEY), owedB);
        redeemOne(voucher(owedA), PAYER_KEY);
        vm.assertEq(escrow.credits(payee), owedA);
        vm.assertEq(escrow.credits(rival), owedB);
    }

    function testFuzz_PaysTheLockedPart_WhoeverComesFirst(
        uint128 locked,
        uint128 owed,
        uint128 rivalOwed
    ) public {
        locked = uint128(bound(locked, 0, 100));
        owed = uint128(bound(owed, 1, 1000));
        setLock(locked, 1);
        redeemOne(toRival(rivalOwed), PAYER_KEY);
        vm.assertGe(
            redeemOne(voucher(owed), PAYER_KEY), owed < locked ? owed : locked, "guaranteed"
        );
    }
}
