// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";
import {
    BombWallet,
    BurningWallet,
    OwnedWallet,
    RawWallet,
    RefusingWallet,
    RevertingWallet,
    MAGIC
} from "./support/Wallets.sol";

/// @notice Whose signature is taken for a payer's. The cases are in redeem.tree.
contract RedeemSignaturesTest is EscrowTest {
    /// @dev What one check of an account's code may cost: its cap, and what goes on around it.
    uint256 private constant CHECK_GAS_MAX = 50_000 + 30_000;

    function setUp() public override {
        super.setUp();
        fund(payer, 1000);
    }

    function assertBadSignature(IEscrow.Voucher memory statement, bytes memory signature) private {
        bytes memory batch = Statements.group(
            statement.payee, statement.model, "", Statements.record(statement, signature)
        );
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherSkipped(
            statement.payer, statement.payee, 0, IEscrow.SkipReason.BadSignature
        );
        (uint256 amount,) = escrow.redeem(batch);
        vm.assertEq(amount, 0);
    }

    function signatureOf(IEscrow.Voucher memory statement, uint256 key)
        private
        view
        returns (bytes memory)
    {
        return Statements.sign(key, Statements.digest(separator(), statement));
    }

    // ---------------------------------------------------------------------------------- replay

    function test_Skips_WhatWasNotSigned() public {
        bytes memory good = signatureOf(voucher(10), PAYER_KEY);
        fund(rival, 1000);
        IEscrow.Voucher memory altered = voucher(10);
        altered.payer = rival;
        assertBadSignature(altered, good);
        altered = voucher(10);
        altered.payee = rival;
        assertBadSignature(altered, good);
        altered = voucher(10);
        altered.model = keccak256("other model");
        assertBadSignature(altered, good);
        altered = voucher(10);
        altered.cumulative = 11;
        assertBadSignature(altered, good);
        altered = voucher(10);
        altered.receipts = keccak256("other receipts");
        assertBadSignature(altered, good);
        // Signed for splits, redeemed without.
        altered = voucher(10);
        altered.splits = keccak256(abi.encodePacked(curator, uint16(100)));
        assertBadSignature(voucher(10), signatureOf(altered, PAYER_KEY));

        (uint256 amount,) = escrow.redeem(plain(Statements.record(voucher(10), good)));
        vm.assertEq(amount, 10);
    }

    function test_Skips_AnotherSplit() public {
        bytes memory splits = abi.encodePacked(curator, uint16(100));
        IEscrow.Voucher memory statement = voucher(10);
        statement.splits = keccak256(splits);
        bytes memory records = record(statement, PAYER_KEY);
        bytes memory other = abi.encodePacked(curator, uint16(99));
        assertSkipped(
            Statements.group(payee, MODEL, other, records), payer, IEscrow.SkipReason.BadSignature
        );
        assertSkipped(plain(records), payer, IEscrow.SkipReason.BadSignature);
        (uint256 amount,) = escrow.redeem(Statements.group(payee, MODEL, splits, records));
        vm.assertEq(amount, 10);
    }

    function test_Skips_AnotherDomain() public {
        bytes32 otherChain = Statements.domain(block.chainid + 1, address(escrow));
        bytes32 otherContract = Statements.domain(block.chainid, address(token));
        assertBadSignature(
            voucher(10), Statements.sign(PAYER_KEY, Statements.digest(otherChain, voucher(10)))
        );
        assertBadSignature(
            voucher(10), Statements.sign(PAYER_KEY, Statements.digest(otherContract, voucher(10)))
        );
        bytes memory good = signatureOf(voucher(10), PAYER_KEY);
        vm.chainId(block.chainid + 1);
        assertBadSignature(voucher(10), good);
        vm.chainId(block.chainid - 1);
        (uint256 amount,) = escrow.redeem(plain(Statements.record(voucher(10), good)));
        vm.assertEq(amount, 10);
    }

    function test_Skips_SomebodyElses() public {
        assertBadSignature(voucher(10), signatureOf(voucher(10), PAYEE_KEY));
        assertBadSignature(voucher(10), signatureOf(voucher(10), SIGNER_KEY));
        assertBadSignature(voucher(10), new bytes(64));
        // A lock is no voucher.
        assertBadSignature(voucher(10), signed(lock(10, 1), PAYER_KEY));
    }

    function test_Skips_TheZeroPayer() public {
        // Nobody can fund it, so it is skipped before its signature is looked at.
        IEscrow.Voucher memory statement = voucher(10);
        statement.payer = address(0);
        assertSkipped(
            plain(Statements.record(statement, new bytes(64))),
            address(0),
            IEscrow.SkipReason.Unfunded
        );
    }

    function testFuzz_Skips_RandomSignatures(bytes32 r, bytes32 vs, uint128 cumulative) public {
        cumulative = uint128(bound(cumulative, 1, type(uint128).max));
        assertBadSignature(voucher(cumulative), abi.encodePacked(r, vs));
    }

    // ---------------------------------------------------------------------------------- signers

    function test_PaysASigner_UpToItsCap() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 50);
        vm.expectEmit(address(escrow));
        emit IEscrow.SignerSpent(payer, signer, 20, 20);
        vm.assertEq(redeemOne(voucher(20), SIGNER_KEY), 20);
        // What the payer signs itself does not count.
        vm.assertEq(redeemOne(voucher(100), PAYER_KEY), 80);
        vm.expectEmit(address(escrow));
        emit IEscrow.SignerSpent(payer, signer, 30, 50);
        vm.assertEq(redeemOne(voucher(200), SIGNER_KEY), 30);
        assertSkipped(
            plain(record(voucher(200), SIGNER_KEY)), payer, IEscrow.SkipReason.SignerCapReached
        );
        // Another tab or payee is no way round it.
        IEscrow.Voucher memory elsewhere = voucher(1);
        elsewhere.model = keccak256("other model");
        vm.assertEq(redeemOne(elsewhere, SIGNER_KEY), 0);

        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 60);
        vm.assertEq(redeemOne(voucher(200), SIGNER_KEY), 10);
        (, uint128 cap, uint128 spent) = escrow.signers(payer, signer);
        vm.assertEq(cap, 60);
        vm.assertEq(spent, 60);
    }

    function test_CountsWhatWasPaid_NotWhatWasSigned() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 5000);
        vm.assertEq(redeemOne(voucher(3000), SIGNER_KEY), 1000);
        (,, uint128 spent) = escrow.signers(payer, signer);
        vm.assertEq(spent, 1000);
    }

    function test_Skips_AnExpiredSigner() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 50);
        vm.warp(START + 9);
        vm.assertEq(redeemOne(voucher(10), SIGNER_KEY), 10);
        vm.warp(START + 10);
        assertSkipped(
            plain(record(voucher(20), SIGNER_KEY)), payer, IEscrow.SkipReason.SignerExpired
        );
    }

    function test_Skips_AnothersSigner() public {
        vm.prank(rival);
        escrow.setSigner(signer, START + 10, 50);
        assertBadSignature(voucher(10), signatureOf(voucher(10), SIGNER_KEY));
    }

    function test_Skips_ASignerWhoseSIsHigh() public {
        uint256 n = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        bytes32 digest = Statements.digest(separator(), voucher(10));
        address high = ecrecover(digest, 28, bytes32(uint256(1)), bytes32(n / 2 + 1));
        vm.assertTrue(high != address(0));
        vm.prank(payer);
        escrow.setSigner(high, START + 10, 50);
        assertBadSignature(
            voucher(10), abi.encodePacked(uint256(1), (n / 2 + 1) | (uint256(1) << 255))
        );
    }

    // ------------------------------------------------------------------------ accounts with code

    function test_PaysADelegatedAccount_WhateverItsCodeSays() public {
        // EIP-7702: a client signs, is served, and then gives its account code that says no.
        bytes memory batch = plain(record(voucher(10), PAYER_KEY));
        vm.signAndAttachDelegation(address(new RefusingWallet()), PAYER_KEY);
        // The delegation is attached to the next call.
        escrow.redeem(plain(record(voucher(1), PAYER_KEY)));
        vm.assertEq(payer.code.length, 23);
        (uint256 amount,) = escrow.redeem(batch);
        vm.assertEq(amount, 9);
    }

    function wallet(bytes memory runtime) private returns (IEscrow.Voucher memory statement) {
        address account = address(uint160(uint256(keccak256(runtime))));
        vm.etch(account, runtime);
        fund(account, 100);
        statement = voucher(10);
        statement.payer = account;
    }

    function test_PaysWhatTheCodeAccepts() public {
        OwnedWallet owned = new OwnedWallet(payer);
        fund(address(owned), 100);
        IEscrow.Voucher memory statement = voucher(10);
        statement.payer = address(owned);
        bytes memory good = signatureOf(statement, PAYER_KEY);
        vm.assertEq(redeemOne(statement, PAYER_KEY), 10);
        // Both parities reach the account's code: another message, another v.
        for (uint128 i = 11; i < 20; ++i) {
            statement.cumulative = i;
            vm.assertEq(redeemOne(statement, PAYER_KEY), 1);
        }
        statement.cumulative = 30;
        assertBadSignature(statement, good);
        assertBadSignature(statement, signatureOf(statement, RIVAL_KEY));
        owned.setOff();
        assertBadSignature(statement, signatureOf(statement, PAYER_KEY));
    }

    function test_Skips_WhatTheCodeDoesNotAccept() public {
        assertRefused(address(new RefusingWallet()).code);
        assertRefused(address(new RevertingWallet()).code);
        assertRefused(address(new BombWallet(false)).code);
        // Code that is there but stops at once: success, no data.
        assertRefused(hex"00");
    }

    function test_Skips_AnAnswerThatIsNotTheMagicWord() public {
        assertRawRefused("");
        assertRawRefused(abi.encodePacked(MAGIC));
        assertRawRefused(abi.encodePacked(MAGIC, new bytes(27)));
        assertRawRefused(abi.encode(uint32(MAGIC)));
        assertRawRefused(abi.encode(true));
        assertRawRefused(abi.encodePacked(MAGIC, new bytes(27), uint8(1)));
        assertRawRefused(abi.encode(type(uint256).max));
        vm.assertEq(redeemRaw(abi.encode(MAGIC)), 10);
    }

    function assertRawRefused(bytes memory answer) private {
        vm.assertEq(redeemRaw(answer), 0);
    }

    function redeemRaw(bytes memory answer) private returns (uint256) {
        IEscrow.Voucher memory statement = voucher(10);
        statement.payer = address(new RawWallet(answer));
        fund(statement.payer, 100);
        return redeemOne(statement, PAYER_KEY);
    }

    function assertRefused(bytes memory runtime) private {
        IEscrow.Voucher memory statement = wallet(runtime);
        assertBadSignature(statement, signatureOf(statement, PAYER_KEY));
    }

    function test_Skips_Griefers_AtABoundedCost() public {
        assertBounded(address(new BurningWallet()).code);
        assertBounded(address(new BombWallet(false)).code);
        assertBounded(address(new BombWallet(true)).code);
        // invalid: all the gas of the call
        assertBounded(hex"fe");
    }

    function assertBounded(bytes memory runtime) private {
        IEscrow.Voucher memory statement = wallet(runtime);
        bytes memory griefer = record(statement, PAYER_KEY);
        bytes memory batch =
            plain(abi.encodePacked(griefer, griefer, griefer, record(voucher(10), PAYER_KEY)));
        uint256 before = gasleft();
        (, uint256 skipped) = escrow.redeem(batch);
        vm.assertLe(before - gasleft(), 3 * CHECK_GAS_MAX + 150_000);
        vm.assertGe(skipped, 3, "skipped");
    }

    function test_RevertWhen_TooLittleGasIsLeftToAsk() public {
        OwnedWallet owned = new OwnedWallet(payer);
        fund(address(owned), 100);
        IEscrow.Voucher memory statement = voucher(10);
        statement.payer = address(owned);
        bytes memory batch = plain(record(statement, PAYER_KEY));
        // With any gas at all: either it is paid in full, or nothing happens.
        uint256 reverted = 0;
        for (uint256 limit = 40_000; limit < 200_000; limit += 2_500) {
            try escrow.redeem{gas: limit}(batch) returns (uint256 amount, uint256) {
                vm.assertEq(amount, 10);
                break;
            } catch {
                ++reverted;
            }
        }
        vm.assertEq(escrow.credits(payee), 10);
        vm.assertGe(reverted, 1, "reverted");
        expectError(IEscrow.Escrow_GasTooLow.selector);
        statement.cumulative = 20;
        batch = plain(record(statement, PAYER_KEY));
        escrow.redeem{gas: 60_000}(batch);
    }
}
