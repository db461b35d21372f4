// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract ExpireLockTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        fund(payer, 100);
        setLock(60, 3);
    }

    function test_RevertWhen_ThereIsNone() public {
        expectError(IEscrow.Escrow_AmountZero.selector);
        escrow.expireLock(payer, rival);
        redeemOne(voucher(60), PAYER_KEY);
        vm.warp(START + 30 days);
        expectError(IEscrow.Escrow_AmountZero.selector);
        escrow.expireLock(payer, payee);
    }

    function testFuzz_RevertWhen_NotExpired(uint64 time) public {
        vm.warp(bound(time, START, START + 30 days - 1));
        vm.prank(payer);
        expectError(IEscrow.Escrow_LockNotExpired.selector, START + 30 days);
        escrow.expireLock(payer, payee);
    }

    function test_PaysUntilItIsCalled() public {
        vm.warp(START + 30 days);
        vm.assertEq(redeemOne(voucher(100), PAYER_KEY), 100);
    }

    function test_FreesTheLock() public {
        vm.warp(START + 30 days);
        vm.expectEmit(address(escrow));
        emit IEscrow.LockUpdated(payer, payee, 0, 3, START + 30 days);
        vm.prank(stranger);
        escrow.expireLock(payer, payee);
        assertAccount(payer, 100, 0);

        IEscrow.Lock memory old = lock(60, 3);
        old.expiry = START + 60 days;
        bytes memory signature = signed(old, PAYER_KEY);
        expectError(IEscrow.Escrow_NonceStale.selector, 3);
        escrow.submitLock(old, signature);
    }
}
