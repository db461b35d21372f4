// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";
import {OwnedWallet} from "./support/Wallets.sol";

contract SubmitLockReleaseTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        fund(payer, 100);
        setLock(60, 3);
    }

    function test_RevertWhen_NonceIsStale() public {
        IEscrow.LockRelease memory statement = release(10, 3);
        bytes memory signature = signed(statement, PAYEE_KEY);
        expectError(IEscrow.Escrow_NonceStale.selector, 3);
        escrow.submitLockRelease(statement, signature);
    }

    function test_RevertWhen_Replayed() public {
        IEscrow.LockRelease memory statement = release(10, 4);
        bytes memory signature = signed(statement, PAYEE_KEY);
        escrow.submitLockRelease(statement, signature);
        setLock(60, 5);
        expectError(IEscrow.Escrow_NonceStale.selector, 5);
        escrow.submitLockRelease(statement, signature);
    }

    function test_RevertWhen_NotThePayees() public {
        IEscrow.LockRelease memory statement = release(10, 4);
        assertSignatureInvalid(statement, signed(statement, PAYER_KEY));
        assertSignatureInvalid(statement, signed(statement, RIVAL_KEY));
        assertSignatureInvalid(statement, signed(release(11, 4), PAYEE_KEY));
        bytes32 otherChain = Statements.domain(block.chainid + 1, address(escrow));
        assertSignatureInvalid(
            statement, Statements.sign(PAYEE_KEY, Statements.digest(otherChain, statement))
        );
        // A signer of the payer is none of the payee.
        vm.prank(payer);
        escrow.setSigner(signer, START + 1 days, 100);
        assertSignatureInvalid(statement, signed(statement, SIGNER_KEY));
        // The zero address has no lock, and no signature either.
        statement.payee = address(0);
        assertSignatureInvalid(statement, new bytes(64));
    }

    function assertSignatureInvalid(IEscrow.LockRelease memory statement, bytes memory signature)
        private
    {
        expectError(IEscrow.Escrow_SignatureInvalid.selector, statement.payee);
        escrow.submitLockRelease(statement, signature);
    }

    function test_RevertWhen_NotLower() public {
        IEscrow.LockRelease memory statement = release(60, 4);
        bytes memory signature = signed(statement, PAYEE_KEY);
        expectError(IEscrow.Escrow_LockNotLowered.selector, 60);
        escrow.submitLockRelease(statement, signature);
    }

    function test_TakesASigner() public {
        vm.prank(payee);
        escrow.setSigner(signer, START + 1 days, 0);
        IEscrow.LockRelease memory statement = release(10, 4);
        escrow.submitLockRelease(statement, signed(statement, SIGNER_KEY));
        assertAccount(payer, 90, 10);

        vm.warp(START + 1 days);
        statement = release(5, 5);
        assertSignatureInvalid(statement, signed(statement, SIGNER_KEY));
    }

    function test_TakesAnAccountWithCode() public {
        address wallet = address(new OwnedWallet(payee));
        IEscrow.Lock memory locked = lock(30, 1);
        locked.payee = wallet;
        escrow.submitLock(locked, signed(locked, PAYER_KEY));
        IEscrow.LockRelease memory statement = release(10, 2);
        statement.payee = wallet;
        escrow.submitLockRelease(statement, signed(statement, PAYEE_KEY));
        assertLock(payer, wallet, 10, 2, START + 30 days);
    }

    function testFuzz_FreesTheDifference(uint128 total, uint64 nonce, address sender) public {
        total = uint128(bound(total, 0, 59));
        nonce = uint64(bound(nonce, 4, type(uint64).max));
        IEscrow.LockRelease memory statement = release(total, nonce);
        bytes memory signature = signed(statement, PAYEE_KEY);
        vm.expectEmit(address(escrow));
        emit IEscrow.LockUpdated(payer, payee, total, nonce, START + 30 days);
        vm.prank(sender);
        escrow.submitLockRelease(statement, signature);
        assertLock(payer, payee, total, nonce, START + 30 days);
        assertAccount(payer, 100 - total, total);
    }
}
