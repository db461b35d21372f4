// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestToken} from "../../src/TestToken.sol";
import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Statements} from "./Statements.sol";
import {Vm} from "./Vm.sol";

/// @notice A deployed escrow, some parties, and what tests of several actions do.
abstract contract EscrowTest {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint64 internal constant EXIT_DELAY = 1 days;
    uint128 internal constant DEPOSIT_CAP = 1_000_000e6;
    uint64 internal constant START = 1_800_000_000;
    bytes32 internal constant MODEL = keccak256("model");
    bytes32 internal constant NO_SPLITS = keccak256("");

    uint256 internal constant PAYER_KEY = 0xA11CE;
    uint256 internal constant PAYEE_KEY = 0xB0B;
    uint256 internal constant RIVAL_KEY = 0xCAFE;
    uint256 internal constant SIGNER_KEY = 0x51;

    address internal payer;
    address internal payee;
    address internal rival;
    address internal signer;
    address internal stranger = address(0xBAD);
    address internal curator = address(0xC1);
    address internal treasury = address(0xC2);

    TestToken internal token;
    IEscrow internal escrow;

    function setUp() public virtual {
        vm.warp(START);
        payer = vm.addr(PAYER_KEY);
        payee = vm.addr(PAYEE_KEY);
        rival = vm.addr(RIVAL_KEY);
        signer = vm.addr(SIGNER_KEY);
        token = new TestToken();
        escrow = deploy(address(token), EXIT_DELAY, DEPOSIT_CAP);
        vm.label(payer, "payer");
        vm.label(payee, "payee");
    }

    // --------------------------------------------------------------------------------- actions

    /// @notice Deploys the artifact: what the compiler made of the escrow for its users.
    function deploy(address token_, uint64 exitDelay, uint128 cap) internal returns (IEscrow) {
        return create(initcode(token_, exitDelay, cap));
    }

    function initcode(address token_, uint64 exitDelay, uint128 cap)
        internal
        view
        returns (bytes memory)
    {
        return abi.encodePacked(vm.getCode("Escrow.sol:Escrow"), abi.encode(token_, exitDelay, cap));
    }

    function create(bytes memory code) internal returns (IEscrow created) {
        assembly {
            created := create(0, add(code, 0x20), mload(code))
            if iszero(created) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }

    function fund(address account, uint256 amount) internal {
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(account, amount);
    }

    function voucher(uint128 cumulative) internal view returns (IEscrow.Voucher memory) {
        return IEscrow.Voucher({
            payer: payer,
            payee: payee,
            model: MODEL,
            splits: NO_SPLITS,
            cumulative: cumulative,
            receipts: keccak256(abi.encode("receipts", cumulative))
        });
    }

    function lock(uint128 total, uint64 nonce) internal view returns (IEscrow.Lock memory) {
        return IEscrow.Lock({
            payer: payer, payee: payee, total: total, nonce: nonce, expiry: START + 30 days
        });
    }

    function release(uint128 total, uint64 nonce)
        internal
        view
        returns (IEscrow.LockRelease memory)
    {
        return IEscrow.LockRelease({payer: payer, payee: payee, total: total, nonce: nonce});
    }

    function separator() internal view returns (bytes32) {
        return Statements.domain(block.chainid, address(escrow));
    }

    function signed(IEscrow.Lock memory statement, uint256 key)
        internal
        view
        returns (bytes memory)
    {
        return Statements.sign(key, Statements.digest(separator(), statement));
    }

    function signed(IEscrow.LockRelease memory statement, uint256 key)
        internal
        view
        returns (bytes memory)
    {
        return Statements.sign(key, Statements.digest(separator(), statement));
    }

    function record(IEscrow.Voucher memory statement, uint256 key)
        internal
        view
        returns (bytes memory)
    {
        bytes memory signature = Statements.sign(key, Statements.digest(separator(), statement));
        return Statements.record(statement, signature);
    }

    /// @notice A batch of one group without splits, for `payee` and MODEL.
    function plain(bytes memory records) internal view returns (bytes memory) {
        return Statements.group(payee, MODEL, "", records);
    }

    /// @notice Redeems one voucher that `key` signed; the rest of the batch is as it says.
    function redeemOne(IEscrow.Voucher memory statement, uint256 key)
        internal
        returns (uint256 amount)
    {
        bytes memory records = record(statement, key);
        (amount,) = escrow.redeem(Statements.group(statement.payee, statement.model, "", records));
    }

    function setLock(uint128 total, uint64 nonce) internal {
        IEscrow.Lock memory statement = lock(total, nonce);
        escrow.submitLock(statement, signed(statement, PAYER_KEY));
    }

    function setRivalLock(uint128 total, uint64 nonce) internal {
        IEscrow.Lock memory statement = lock(total, nonce);
        statement.payee = rival;
        escrow.submitLock(statement, signed(statement, PAYER_KEY));
    }

    /// @notice Takes everything out of the payer's account.
    function exitNow() internal {
        vm.prank(payer);
        escrow.requestExit();
        vm.warp(block.timestamp + EXIT_DELAY);
        vm.prank(payer);
        escrow.exit(payer);
    }

    function tab(IEscrow.Voucher memory statement) internal pure returns (bytes32) {
        return
            keccak256(
                abi.encode(statement.payer, statement.payee, statement.model, statement.splits)
            );
    }

    // ------------------------------------------------------------------------------ assertions

    function expectError(bytes4 selector) internal {
        vm.expectRevert(abi.encodeWithSelector(selector));
    }

    function expectError(bytes4 selector, uint256 argument) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, argument));
    }

    function expectError(bytes4 selector, address argument) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, argument));
    }

    function expectError(bytes4 selector, uint256 first, uint256 second) internal {
        vm.expectRevert(abi.encodeWithSelector(selector, first, second));
    }

    function assertAccount(address account, uint256 free, uint256 locked) internal view {
        (uint256 actualFree, uint256 actualLocked,) = escrow.accounts(account);
        vm.assertEq(actualFree, free, "free");
        vm.assertEq(actualLocked, locked, "locked");
    }

    function assertLock(address payer_, address payee_, uint128 amount, uint64 nonce, uint64 expiry)
        internal
        view
    {
        (uint128 actualAmount, uint64 actualNonce, uint64 actualExpiry) =
            escrow.lockOf(payer_, payee_);
        vm.assertEq(actualAmount, amount, "lock amount");
        vm.assertEq(actualNonce, nonce, "lock nonce");
        vm.assertEq(actualExpiry, expiry, "lock expiry");
    }

    /// @notice Redeems, and checks that nothing but this one skip happened.
    function assertSkipped(bytes memory batch, address payer_, IEscrow.SkipReason reason) internal {
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherSkipped(payer_, payee, 0, reason);
        (uint256 amount, uint256 skipped) = escrow.redeem(batch);
        vm.assertEq(amount, 0, "paid");
        vm.assertEq(skipped, 1, "skipped");
    }

    function bound(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + value % (most - least + 1);
    }
}
