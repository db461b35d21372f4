// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract ThawSignerTest is EscrowTest {
    function test_RevertWhen_Unknown() public {
        vm.startPrank(payer);
        expectError(IEscrow.Escrow_SignerUnknown.selector);
        escrow.thawSigner(signer);
        escrow.setSigner(signer, START + 10, 1);
        vm.warp(START + 10);
        expectError(IEscrow.Escrow_SignerUnknown.selector);
        escrow.thawSigner(signer);
    }

    function test_RevertWhen_AnothersSigner() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 1);
        vm.prank(rival);
        expectError(IEscrow.Escrow_SignerUnknown.selector);
        escrow.thawSigner(signer);
    }

    function testFuzz_NeverExtends(uint64 expiry, uint64 wait) public {
        expiry = uint64(bound(expiry, START + 1, START + 3 * EXIT_DELAY));
        wait = uint64(bound(wait, 0, expiry - START - 1));
        vm.startPrank(payer);
        escrow.setSigner(signer, expiry, 1);
        escrow.thawSigner(signer);
        (uint64 first,,) = escrow.signers(payer, signer);
        vm.assertEq(first, expiry < START + EXIT_DELAY ? expiry : START + EXIT_DELAY);
        vm.warp(START + wait);
        if (START + wait >= first) return;
        escrow.thawSigner(signer);
        (uint64 second,,) = escrow.signers(payer, signer);
        vm.assertEq(second, first);
    }

    function test_PaysWhatWasSignedUntilThen() public {
        fund(payer, 100);
        vm.startPrank(payer);
        escrow.setSigner(signer, START + 100 days, 1000);
        vm.expectEmit(address(escrow));
        emit IEscrow.SignerThawed(payer, signer, START + EXIT_DELAY);
        escrow.thawSigner(signer);
        vm.stopPrank();
        vm.warp(START + EXIT_DELAY - 1);
        vm.assertEq(redeemOne(voucher(10), SIGNER_KEY), 10);
        vm.warp(START + EXIT_DELAY);
        assertSkipped(
            plain(record(voucher(20), SIGNER_KEY)), payer, IEscrow.SkipReason.SignerExpired
        );
    }

    function test_LetsTheAccountChangeItsMind() public {
        fund(payer, 100);
        vm.startPrank(payer);
        escrow.setSigner(signer, START + 100 days, 1000);
        escrow.thawSigner(signer);
        escrow.setSigner(signer, START + 100 days, 1000);
        vm.stopPrank();
        vm.warp(START + 2 * EXIT_DELAY);
        vm.assertEq(redeemOne(voucher(10), SIGNER_KEY), 10);
    }
}
