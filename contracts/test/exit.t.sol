// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract ExitTest is EscrowTest {
    function test_RevertWhen_RecipientIsNobody() public {
        vm.startPrank(payer);
        expectError(IEscrow.Escrow_AddressInvalid.selector, address(0));
        escrow.exit(address(0));
        expectError(IEscrow.Escrow_AddressInvalid.selector, address(escrow));
        escrow.exit(address(escrow));
    }

    function test_RevertWhen_NotRequested() public {
        fund(payer, 100);
        vm.prank(payer);
        expectError(IEscrow.Escrow_ExitNotRequested.selector);
        escrow.exit(payer);
    }

    function testFuzz_RevertWhen_TooEarly(uint64 wait) public {
        fund(payer, 100);
        vm.startPrank(payer);
        escrow.requestExit();
        vm.warp(START + bound(wait, 0, EXIT_DELAY - 1));
        expectError(IEscrow.Escrow_ExitNotReady.selector, START + EXIT_DELAY);
        escrow.exit(payer);
        vm.warp(START + EXIT_DELAY);
        escrow.exit(payer);
    }

    function test_EndsTheLocks_WhenVouchersTookEverything() public {
        fund(payer, 100);
        setLock(100, 1);
        redeemOne(voucher(100), PAYER_KEY);
        exitNow();
        assertAccount(payer, 0, 0);
        assertLock(payer, payee, 0, uint64(1) << 32, 0);
    }

    function testFuzz_PaysEverything(uint256 amount, uint128 locked) public {
        amount = bound(amount, 1, DEPOSIT_CAP);
        locked = uint128(bound(locked, 0, amount));
        fund(payer, amount);
        setLock(locked, 1);
        assertAccount(payer, amount - locked, locked);
        vm.startPrank(payer);
        escrow.requestExit();
        vm.warp(START + EXIT_DELAY);
        vm.expectEmit(address(escrow));
        emit IEscrow.ExitCompleted(payer, stranger, amount, 1);
        escrow.exit(stranger);

        vm.assertEq(token.balanceOf(stranger), amount);
        assertAccount(payer, 0, 0);
        (,, uint64 readyAt) = escrow.accounts(payer);
        vm.assertEq(readyAt, 0);
        expectError(IEscrow.Escrow_ExitNotRequested.selector);
        escrow.exit(stranger);
    }

    function test_EndsTheLocks_OfThisAccountOnly() public {
        fund(payer, 100);
        setLock(40, 1);
        setRivalLock(30, 1);
        fund(rival, 50);
        IEscrow.Lock memory others = lock(20, 1);
        others.payer = rival;
        escrow.submitLock(others, signed(others, RIVAL_KEY));

        exitNow();
        fund(payer, 100);
        assertAccount(payer, 100, 0);
        assertLock(payer, payee, 0, uint64(1) << 32, 0);
        assertLock(payer, rival, 0, uint64(1) << 32, 0);
        assertLock(rival, payee, 20, 1, others.expiry);

        // What an ended lock held is not to be had: not lowered, not expired, not drawn.
        vm.prank(payee);
        expectError(IEscrow.Escrow_LockNotLowered.selector, 0);
        escrow.lowerLock(payer, 0);
        vm.warp(others.expiry);
        expectError(IEscrow.Escrow_AmountZero.selector);
        escrow.expireLock(payer, payee);
        setFreshLock(100);
        assertAccount(payer, 0, 100);
        vm.assertEq(redeemOne(voucher(500), PAYER_KEY), 100);
    }

    function setFreshLock(uint128 total) private {
        (, uint64 nonce,) = escrow.lockOf(payer, payee);
        IEscrow.Lock memory statement = lock(total, nonce + 1);
        statement.expiry = uint64(block.timestamp) + 1;
        escrow.submitLock(statement, signed(statement, PAYER_KEY));
    }

    function test_VoidsLocksSignedBefore() public {
        fund(payer, 100);
        IEscrow.Lock memory submitted = lock(40, 1);
        IEscrow.Lock memory kept = lock(50, 2);
        IEscrow.Lock memory elsewhere = lock(60, 1);
        elsewhere.payee = rival;
        bytes memory submittedSig = signed(submitted, PAYER_KEY);
        bytes memory keptSig = signed(kept, PAYER_KEY);
        bytes memory elsewhereSig = signed(elsewhere, PAYER_KEY);
        escrow.submitLock(submitted, submittedSig);
        exitNow();
        fund(payer, 100);

        expectError(IEscrow.Escrow_NonceStale.selector, uint64(1) << 32);
        escrow.submitLock(submitted, submittedSig);
        expectError(IEscrow.Escrow_NonceStale.selector, uint64(1) << 32);
        escrow.submitLock(kept, keptSig);
        expectError(IEscrow.Escrow_NonceStale.selector, uint64(1) << 32);
        escrow.submitLock(elsewhere, elsewhereSig);

        setLock(70, (uint64(1) << 32) + 1);
        assertLock(payer, payee, 70, (uint64(1) << 32) + 1, START + 30 days);
    }

    function test_NeverLowersANonce() public {
        fund(payer, 100);
        // Far out of sequence, but the payer's to choose: it must not come back either.
        setLock(40, type(uint64).max - 1);
        exitNow();
        fund(payer, 100);
        assertLock(payer, payee, 0, type(uint64).max - 1, 0);
        IEscrow.Lock memory again = lock(40, type(uint64).max - 1);
        bytes memory signature = signed(again, PAYER_KEY);
        expectError(IEscrow.Escrow_NonceStale.selector, type(uint64).max - 1);
        escrow.submitLock(again, signature);
    }

    function test_LeavesWhatIsOwed() public {
        fund(payer, 100);
        vm.assertEq(redeemOne(voucher(150), PAYER_KEY), 100);
        exitNow();
        fund(payer, 200);
        vm.assertEq(redeemOne(voucher(150), PAYER_KEY), 50);
        assertAccount(payer, 150, 0);
    }

    function test_CountsExits() public {
        for (uint32 i = 1; i <= 3; ++i) {
            fund(payer, 10);
            vm.prank(payer);
            escrow.requestExit();
            vm.warp(block.timestamp + EXIT_DELAY);
            vm.expectEmit(address(escrow));
            emit IEscrow.ExitCompleted(payer, payer, 10, i);
            vm.prank(payer);
            escrow.exit(payer);
        }
        assertLock(payer, payee, 0, uint64(3) << 32, 0);
    }
}
