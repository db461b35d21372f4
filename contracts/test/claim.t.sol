// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

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
