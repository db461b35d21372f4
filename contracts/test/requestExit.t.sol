// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract RequestExitTest is EscrowTest {
    function test_RevertWhen_Pending() public {
        vm.startPrank(payer);
        escrow.requestExit();
        vm.warp(START + 2 * EXIT_DELAY);
        expectError(IEscrow.Escrow_ExitPending.selector, START + EXIT_DELAY);
        escrow.requestExit();
    }

    function test_StartsTheDelay() public {
        fund(payer, 100);
        vm.expectEmit(address(escrow));
        emit IEscrow.ExitRequested(payer, START + EXIT_DELAY);
        vm.prank(payer);
        escrow.requestExit();
        (,, uint64 readyAt) = escrow.accounts(payer);
        vm.assertEq(readyAt, START + EXIT_DELAY);
        assertAccount(payer, 100, 0);
    }

    function test_LeavesTheFundsToVouchers() public {
        fund(payer, 100);
        setLock(60, 1);
        vm.prank(payer);
        escrow.requestExit();
        vm.assertEq(redeemOne(voucher(70), PAYER_KEY), 70);
        // After the delay too, for as long as the exit is not done.
        vm.warp(START + EXIT_DELAY + 1);
        vm.assertEq(redeemOne(voucher(75), PAYER_KEY), 5);
        assertAccount(payer, 25, 0);
    }
}
