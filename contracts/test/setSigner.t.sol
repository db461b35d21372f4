// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract SetSignerTest is EscrowTest {
    function test_RevertWhen_OutOfRange() public {
        vm.startPrank(payer);
        expectError(IEscrow.Escrow_SignerInvalid.selector);
        escrow.setSigner(address(0), START + 1, 1);
        expectError(IEscrow.Escrow_SignerInvalid.selector);
        escrow.setSigner(signer, START, 1);
        expectError(IEscrow.Escrow_SignerInvalid.selector);
        escrow.setSigner(signer, START + 1, uint128(type(uint96).max) + 1);
        escrow.setSigner(signer, START + 1, type(uint96).max);
    }

    function test_RevertWhen_WeakeningALiveSigner() public {
        vm.startPrank(payer);
        escrow.setSigner(signer, START + 100, 50);
        expectError(IEscrow.Escrow_SignerWeakened.selector, START + 100, 50);
        escrow.setSigner(signer, START + 99, 50);
        expectError(IEscrow.Escrow_SignerWeakened.selector, START + 100, 50);
        escrow.setSigner(signer, START + 100, 49);
        vm.warp(START + 99);
        expectError(IEscrow.Escrow_SignerWeakened.selector, START + 100, 50);
        escrow.setSigner(signer, START + 1000, 0);
    }

    function test_SetsAnything_OnceExpired() public {
        fund(payer, 100);
        vm.prank(payer);
        escrow.setSigner(signer, START + 100, 50);
        redeemOne(voucher(30), SIGNER_KEY);
        vm.warp(START + 100);
        vm.prank(payer);
        escrow.setSigner(signer, START + 101, 20);
        assertSigner(START + 101, 20, 30);
        // Below what it has spent: it has nothing left, and nothing underflows.
        assertSkipped(
            plain(record(voucher(31), SIGNER_KEY)), payer, IEscrow.SkipReason.SignerCapReached
        );
        vm.prank(payer);
        escrow.setSigner(signer, START + 101, 31);
        vm.assertEq(redeemOne(voucher(40), SIGNER_KEY), 1);
    }

    function testFuzz_Sets(uint64 expiry, uint128 cap) public {
        expiry = uint64(bound(expiry, START + 1, type(uint64).max));
        cap = uint128(bound(cap, 0, type(uint96).max));
        vm.expectEmit(address(escrow));
        emit IEscrow.SignerSet(payer, signer, expiry, cap);
        vm.prank(payer);
        escrow.setSigner(signer, expiry, cap);
        assertSigner(expiry, cap, 0);
        (uint64 others,,) = escrow.signers(rival, signer);
        vm.assertEq(others, 0);
    }

    function assertSigner(uint64 expiry, uint128 cap, uint128 spent) private view {
        (uint64 actualExpiry, uint128 actualCap, uint128 actualSpent) =
            escrow.signers(payer, signer);
        vm.assertEq(actualExpiry, expiry, "expiry");
        vm.assertEq(actualCap, cap, "cap");
        vm.assertEq(actualSpent, spent, "spent");
    }
}
