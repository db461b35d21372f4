// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {FeeToken, OldToken} from "./support/Tokens.sol";

contract DepositTest is EscrowTest {
    function test_RevertWhen_AccountIsZero() public {
        expectError(IEscrow.Escrow_AddressInvalid.selector, address(0));
        escrow.deposit(address(0), 1);
    }

    function test_RevertWhen_AmountIsZero() public {
        expectError(IEscrow.Escrow_AmountZero.selector);
        escrow.deposit(payer, 0);
    }

    function test_RevertWhen_ExitPending() public {
        token.mint(payer, 1);
        vm.startPrank(payer);
        token.approve(address(escrow), 1);
        escrow.requestExit();
        expectError(IEscrow.Escrow_ExitPending.selector, START + EXIT_DELAY);
        escrow.deposit(payer, 1);
        vm.stopPrank();

        token.mint(address(this), 1);
        token.approve(address(escrow), 1);
        expectError(IEscrow.Escrow_ExitPending.selector, START + EXIT_DELAY);
        escrow.deposit(payer, 1);
    }

    function test_WorksAgain_AfterTheExit() public {
        vm.prank(payer);
        escrow.requestExit();
        vm.prank(payer);
        escrow.cancelExit();
        fund(payer, 5);
        exitNow();
        fund(payer, 6);
        assertAccount(payer, 6, 0);
    }

    function test_RevertWhen_AboveTheCap() public {
        fund(payer, DEPOSIT_CAP - 10);
        setLock(1000, 1);
        token.mint(address(this), 11);
        token.approve(address(escrow), 11);
        expectError(IEscrow.Escrow_DepositCapExceeded.selector, 10);
        escrow.deposit(payer, 11);
        expectError(IEscrow.Escrow_DepositCapExceeded.selector, 10);
        escrow.deposit(payer, type(uint256).max);
        escrow.deposit(payer, 10);
        assertAccount(payer, DEPOSIT_CAP - 1000, 1000);
    }

    function test_RevertWhen_TokenKeepsAFee() public {
        FeeToken taxed = new FeeToken();
        escrow = deploy(address(taxed), EXIT_DELAY, DEPOSIT_CAP);
        taxed.mint(address(this), 1000);
        taxed.approve(address(escrow), 1000);
        expectError(IEscrow.Escrow_TransferMismatch.selector, 1000, 990);
        escrow.deposit(payer, 1000);
    }

    function test_RevertWhen_NotApproved() public {
        token.mint(address(this), 1);
        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientAllowance(address,uint256,uint256)", address(escrow), 0, 1
            )
        );
        escrow.deposit(payer, 1);
    }

    function test_TakesATokenThatReturnsNothing() public {
        OldToken old = new OldToken();
        escrow = deploy(address(old), EXIT_DELAY, DEPOSIT_CAP);
        old.mint(address(this), 7);
        escrow.deposit(payer, 7);
        assertAccount(payer, 7, 0);
        exitNow();
        vm.assertEq(old.balanceOf(payer), 7);
    }

    function testFuzz_AddsToFreeFunds(address account, uint256 first, uint256 second) public {
        vm.assume(account != address(0));
        first = bound(first, 1, DEPOSIT_CAP - 1);
        second = bound(second, 1, DEPOSIT_CAP - first);
        token.mint(stranger, first + second);
        vm.startPrank(stranger);
        token.approve(address(escrow), first + second);
        vm.expectEmit(address(escrow));
        emit IEscrow.Deposited(account, stranger, first);
        escrow.deposit(account, first);
        escrow.deposit(account, second);

        assertAccount(account, first + second, 0);
        vm.assertEq(token.balanceOf(address(escrow)), first + second);
        vm.assertEq(token.balanceOf(stranger), 0);
    }
}
