// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";
import {OwnedWallet} from "./support/Wallets.sol";

contract SubmitLockTest is EscrowTest {
    uint256 private constant N = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    function setUp() public override {
        super.setUp();
        fund(payer, 100);
    }

    function test_RevertWhen_Expired() public {
        IEscrow.Lock memory statement = lock(10, 1);
        statement.expiry = START;
        bytes memory signature = signed(statement, PAYER_KEY);
        expectError(IEscrow.Escrow_LockExpired.selector, START);
        escrow.submitLock(statement, signature);
    }

    function test_RevertWhen_NonceIsStale() public {
        assertNonceStale(lock(10, 0), 0);
        setLock(10, 5);
        assertNonceStale(lock(20, 5), 5);
        assertNonceStale(lock(20, 4), 5);
        IEscrow.LockRelease memory released = release(0, 7);
        escrow.submitLockRelease(released, signed(released, PAYEE_KEY));
        assertNonceStale(lock(20, 7), 7);
        setLock(20, 8);
    }

    function assertNonceStale(IEscrow.Lock memory statement, uint64 last) private {
        bytes memory signature = signed(statement, PAYER_KEY);
        expectError(IEscrow.Escrow_NonceStale.selector, last);
        escrow.submitLock(statement, signature);
    }

    // ------------------------------------------------------------------------------ signatures

    function test_RevertWhen_SignatureHasAnotherLength() public {
        IEscrow.Lock memory statement = lock(10, 1);
        bytes memory signature = signed(statement, PAYER_KEY);
        assertSignatureInvalid(statement, "");
        assertSignatureInvalid(statement, abi.encodePacked(signature, uint8(27)));
        bytes memory shorter = new bytes(63);
        for (uint256 i = 0; i < 63; ++i) {
            shorter[i] = signature[i];
        }
        assertSignatureInvalid(statement, shorter);
    }

    /// @dev Above half the order lies each signature's twin. Such an s is made here by choosing it,
    /// and authorising as a signer whomever it recovers to.
    function test_RevertWhen_SIsHigh() public {
        IEscrow.Lock memory statement = lock(10, 1);
        bytes32 digest = Statements.digest(separator(), statement);
        bytes32 r = bytes32(uint256(1));
        address low = ecrecover(digest, 27, r, bytes32(N / 2));
        address high = ecrecover(digest, 27, r, bytes32(N / 2 + 1));
        vm.assertTrue(low != address(0) && high != address(0));
        vm.startPrank(payer);
        escrow.setSigner(low, START + 1, 100);
        escrow.setSigner(high, START + 1, 100);
        vm.stopPrank();
        assertSignatureInvalid(statement, abi.encodePacked(r, N / 2 + 1));
        escrow.submitLock(statement, abi.encodePacked(r, N / 2));
    }

    function test_RevertWhen_ParityIsFlipped() public {
        IEscrow.Lock memory statement = lock(10, 1);
        bytes memory signature = signed(statement, PAYER_KEY);
        signature[32] ^= 0x80;
        assertSignatureInvalid(statement, signature);
    }

    function test_RevertWhen_SignatureIsEmpty() public {
        IEscrow.Lock memory statement = lock(10, 1);
        assertSignatureInvalid(statement, new bytes(64));
        // An account of nobody: what recovers to zero is not its signature.
        statement.payer = address(0);
        assertSignatureInvalid(statement, new bytes(64));
    }

    function test_RevertWhen_StatementIsAltered() public {
        IEscrow.Lock memory statement = lock(10, 1);
        bytes memory signature = signed(statement, PAYER_KEY);
        statement.total = 11;
        assertSignatureInvalid(statement, signature);
        statement = lock(10, 1);
        statement.payee = rival;
        assertSignatureInvalid(statement, signature);
        statement = lock(10, 2);
        assertSignatureInvalid(statement, signature);
        statement = lock(10, 1);
        statement.expiry += 1;
        assertSignatureInvalid(statement, signature);
        statement = lock(10, 1);
        statement.payer = rival;
        assertSignatureInvalid(statement, signature);
    }

    function test_RevertWhen_SignedBySomebodyElse() public {
        assertSignatureInvalid(lock(10, 1), signed(lock(10, 1), PAYEE_KEY));
        assertSignatureInvalid(lock(10, 1), signed(lock(10, 1), SIGNER_KEY));
        // A release is not a lock, even if its fields are.
        IEscrow.LockRelease memory other = release(10, 1);
        assertSignatureInvalid(lock(10, 1), signed(other, PAYER_KEY));
    }

    function test_RevertWhen_SignerExpired() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 10, 100);
        vm.warp(START + 10);
        assertSignatureInvalid(lock(10, 1), signed(lock(10, 1), SIGNER_KEY));
    }

    function test_RevertWhen_SignedForAnotherDomain() public {
        IEscrow.Lock memory statement = lock(10, 1);
        bytes32 otherChain = Statements.domain(block.chainid + 1, address(escrow));
        bytes32 otherContract = Statements.domain(block.chainid, stranger);
        assertSignatureInvalid(
            statement, Statements.sign(PAYER_KEY, Statements.digest(otherChain, statement))
        );
        assertSignatureInvalid(
            statement, Statements.sign(PAYER_KEY, Statements.digest(otherContract, statement))
        );
        // The other way round: this chain's signature after a fork.
        bytes memory signature = signed(statement, PAYER_KEY);
        vm.chainId(block.chainid + 1);
        assertSignatureInvalid(statement, signature);
        escrow.submitLock(statement, signed(statement, PAYER_KEY));
    }

    function assertSignatureInvalid(IEscrow.Lock memory statement, bytes memory signature) private {
        expectError(IEscrow.Escrow_SignatureInvalid.selector, statement.payer);
        escrow.submitLock(statement, signature);
    }

    function test_TakesASigner_UpToItsCap() public {
        vm.prank(payer);
        escrow.setSigner(signer, START + 100 days, 50);
        vm.assertEq(redeemOne(voucher(20), SIGNER_KEY), 20);

        assertCapExceeded(lock(31, 1), 30);
        IEscrow.Lock memory statement = lock(25, 1);
        bytes memory signature = signed(statement, SIGNER_KEY);
        vm.expectEmit(address(escrow));
        emit IEscrow.SignerSpent(payer, signer, 25, 45);
        escrow.submitLock(statement, signature);
        assertAccount(payer, 55, 25);

        // What the payer locks itself doesn't count; what the signer adds to it does.
        setLock(40, 2);
        assertCapExceeded(lock(46, 3), 5);
        statement = lock(45, 3);
        escrow.submitLock(statement, signed(statement, SIGNER_KEY));
        assertAccount(payer, 35, 45);
        (,, uint128 spent) = escrow.signers(payer, signer);
        vm.assertEq(spent, 50);
        assertCapExceeded(lock(46, 4), 0);

        // What it cannot raise it can keep, and with the payee's consent lower.
        statement = lock(45, 4);
        statement.expiry += 1;
        vm.recordLogs();
        escrow.submitLock(statement, signed(statement, SIGNER_KEY));
        statement = lock(40, 5);
        statement.expiry += 1;
        signature = signed(statement, SIGNER_KEY);
        vm.prank(payee);
        escrow.submitLock(statement, signature);
        vm.assertEq(vm.getRecordedLogs().length, 2);
        assertAccount(payer, 40, 40);

        // Lowered is not given back.
        assertCapExceeded(lock(41, 6), 0);
    }

    function assertCapExceeded(IEscrow.Lock memory statement, uint256 left) private {
        statement.expiry = START + 60 days;
        bytes memory signature = signed(statement, SIGNER_KEY);
        expectError(IEscrow.Escrow_SignerCapExceeded.selector, left);
        escrow.submitLock(statement, signature);
    }

    function test_TakesAnAccountWithCode() public {
        OwnedWallet wallet = new OwnedWallet(payer);
        fund(address(wallet), 100);
        IEscrow.Lock memory statement = lock(10, 1);
        statement.payer = address(wallet);
        bytes memory signature = signed(statement, PAYER_KEY);
        escrow.submitLock(statement, signature);
        assertAccount(address(wallet), 90, 10);

        wallet.setOff();
        statement.nonce = 2;
        assertSignatureInvalid(statement, signed(statement, PAYER_KEY));
    }

    // ------------------------------------------------------------------------------- weakening

    function test_RevertWhen_ThePayerWeakensALock() public {
        setLock(60, 1);
        IEscrow.Lock memory smaller = lock(59, 2);
        IEscrow.Lock memory shorter = lock(60, 2);
        shorter.expiry -= 1;
        IEscrow.Lock memory largerButShorter = lock(61, 2);
        largerButShorter.expiry = START + 1;
        assertWeakened(smaller, payer);
        assertWeakened(shorter, payer);
        assertWeakened(largerButShorter, payer);
        assertWeakened(smaller, stranger);
        // Another signer of the payer is no consent of the payee.
        vm.prank(payer);
        escrow.setSigner(signer, START + 100 days, 50);
        assertWeakened(smaller, signer);
    }

    function assertWeakened(IEscrow.Lock memory statement, address sender) private {
        bytes memory signature = signed(statement, PAYER_KEY);
        vm.prank(sender);
        expectError(IEscrow.Escrow_LockWeakened.selector, 60, START + 30 days);
        escrow.submitLock(statement, signature);
    }

    function test_Weakens_ForThePayee() public {
        setLock(60, 1);
        IEscrow.Lock memory smaller = lock(50, 2);
        bytes memory signature = signed(smaller, PAYER_KEY);
        vm.prank(payee);
        escrow.submitLock(smaller, signature);
        assertAccount(payer, 50, 50);

        vm.prank(payee);
        escrow.setSigner(signer, START + 1, 0);
        IEscrow.Lock memory shorter = lock(50, 3);
        shorter.expiry = START + 5;
        signature = signed(shorter, PAYER_KEY);
        vm.prank(signer);
        escrow.submitLock(shorter, signature);
        assertLock(payer, payee, 50, 3, START + 5);

        // That signer's time has ended.
        vm.warp(START + 1);
        IEscrow.Lock memory again = lock(40, 4);
        signature = signed(again, PAYER_KEY);
        vm.prank(signer);
        expectError(IEscrow.Escrow_LockWeakened.selector, 50, START + 5);
        escrow.submitLock(again, signature);
    }

    function test_Weakens_WhenExpired() public {
        setLock(60, 1);
        vm.warp(START + 30 days);
        IEscrow.Lock memory smaller = lock(10, 2);
        smaller.expiry = START + 31 days;
        bytes memory signature = signed(smaller, PAYER_KEY);
        vm.prank(stranger);
        escrow.submitLock(smaller, signature);
        assertAccount(payer, 90, 10);
    }

    function test_Weakens_WhenEmpty() public {
        setLock(60, 1);
        redeemOne(voucher(60), PAYER_KEY);
        assertLock(payer, payee, 0, 1, START + 30 days);
        IEscrow.Lock memory shorter = lock(20, 2);
        shorter.expiry = START + 5;
        escrow.submitLock(shorter, signed(shorter, PAYER_KEY));
        assertAccount(payer, 20, 20);
    }

    // ------------------------------------------------------------------------------------ money

    function test_RevertWhen_TooLittleFree() public {
        setRivalLock(30, 1);
        IEscrow.Lock memory statement = lock(71, 1);
        bytes memory signature = signed(statement, PAYER_KEY);
        expectError(IEscrow.Escrow_FreeFundsTooLow.selector, 70);
        escrow.submitLock(statement, signature);
        setLock(70, 1);
        assertAccount(payer, 0, 100);

        // What the lock holds already counts; what the rival's holds does not.
        statement = lock(type(uint128).max, 2);
        signature = signed(statement, PAYER_KEY);
        expectError(IEscrow.Escrow_FreeFundsTooLow.selector, 0);
        escrow.submitLock(statement, signature);
    }

    function testFuzz_ReplacesTheLock(uint128 first, uint128 second, address sender) public {
        vm.assume(sender != address(0));
        first = uint128(bound(first, 0, 100));
        second = uint128(bound(second, first, 100));
        vm.expectEmit(address(escrow));
        emit IEscrow.LockUpdated(payer, payee, first, 3, START + 30 days);
        setLock(first, 3);
        assertAccount(payer, 100 - first, first);

        IEscrow.Lock memory statement = lock(second, 4);
        statement.expiry += 7;
        bytes memory signature = signed(statement, PAYER_KEY);
        vm.prank(sender);
        escrow.submitLock(statement, signature);
        assertAccount(payer, 100 - second, second);
        assertLock(payer, payee, second, 4, START + 30 days + 7);
        vm.assertEq(token.balanceOf(address(escrow)), 100);
    }
}
