// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract CancelExitTest is EscrowTest {
    function test_RevertWhen_NotRequested() public {
        vm.prank(payer);
        expectError(IEscrow.Escrow_ExitNotRequested.selector);
        escrow.cancelExit();
    }

    function test_EndsTheExit() public {
        fund(payer, 100);
        vm.startPrank(payer);
        escrow.requestExit();
        vm.warp(START + EXIT_DELAY);
        vm.expectEmit(address(escrow));
        emit IEscrow.ExitCancelled(payer);
        escrow.cancelExit();
        (,, uint64 readyAt) = escrow.accounts(payer);
        vm.assertEq(readyAt, 0);

        expectError(IEscrow.Escrow_ExitNotRequested.selector);
        escrow.exit(payer);
        escrow.requestExit();
        expectError(IEscrow.Escrow_ExitNotReady.selector, START + 2 * EXIT_DELAY);
        escrow.exit(payer);
    }
}
