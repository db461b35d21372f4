// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {HookToken} from "./support/Tokens.sol";

contract ClaimTest is EscrowTest {
    function test_RevertWhen_RecipientIsNobody() public {
        fund(payer, 100);
        redeemOne(voucher(70), PAYER_KEY);
        vm.startPrank(payee);
        expectError(IEscrow.Escrow_AddressInvalid.selector, address(0));
        escrow.claim(address(0));
        expectError(IEscrow.Escrow_AddressInvalid.selector, address(escrow));
        escrow.claim(address(escrow));
    }

    function test_RevertWhen_NoCredit() public {
        fund(payer, 100);
        redeemOne(voucher(70), PAYER_KEY);
        vm.prank(payer);
        expectError(IEscrow.Escrow_AmountZero.selector);
        escrow.claim(payer);
    }

    function test_StopsReentrance() public {
        HookToken hooked = new HookToken();
        escrow = deploy(address(hooked), EXIT_DELAY, DEPOSIT_CAP);
        hooked.mint(address(this), 1000);
        hooked.approve(address(escrow), 1000);
        escrow.deposit(payer, 1000);
        redeemOne(voucher(70), PAYER_KEY);
        bytes memory batch = plain(record(voucher(80), PAYER_KEY));
        hooked.setHook(address(escrow), abi.encodeCall(IEscrow.redeem, (batch)));
        vm.prank(payee);
        escrow.claim(payee);
        vm.assertTrue(hooked.blocked());
        vm.assertEq(hooked.balanceOf(payee), 70);
    }

    function testFuzz_PaysTheWholeCredit(uint128 amount, address to) public {
        amount = uint128(bound(amount, 1, DEPOSIT_CAP));
        vm.assume(to != address(0) && to != address(escrow));
        fund(payer, DEPOSIT_CAP);
        redeemOne(voucher(amount), PAYER_KEY);
        vm.startPrank(payee);
        vm.expectEmit(address(escrow));
        emit IEscrow.Claimed(payee, to, amount);
        escrow.claim(to);
        vm.assertEq(token.balanceOf(to), amount);
        vm.assertEq(escrow.credits(payee), 0);
        expectError(IEscrow.Escrow_AmountZero.selector);
        escrow.claim(to);
    }
}
