// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract LowerLockTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        fund(payer, 100);
        setLock(60, 3);
    }

    function test_RevertWhen_NotLower() public {
        vm.startPrank(payee);
        expectError(IEscrow.Escrow_LockNotLowered.selector, 60);
        escrow.lowerLock(payer, 60);
        expectError(IEscrow.Escrow_LockNotLowered.selector, 60);
        escrow.lowerLock(payer, type(uint128).max);
    }

    function test_RevertWhen_TheCallerHasNoLock() public {
        vm.prank(payer);
        expectError(IEscrow.Escrow_LockNotLowered.selector, 0);
        escrow.lowerLock(payer, 0);
        vm.prank(rival);
        expectError(IEscrow.Escrow_LockNotLowered.selector, 0);
        escrow.lowerLock(payer, 0);
    }

    function testFuzz_FreesTheDifference(uint128 total) public {
        total = uint128(bound(total, 0, 59));
        setRivalLock(15, 1);
        vm.expectEmit(address(escrow));
        emit IEscrow.LockUpdated(payer, payee, total, 3, START + 30 days);
        vm.prank(payee);
        escrow.lowerLock(payer, total);
        assertLock(payer, payee, total, 3, START + 30 days);
        assertLock(payer, rival, 15, 1, START + 30 days);
        assertAccount(payer, 100 - total - 15, total + 15);
    }
}
