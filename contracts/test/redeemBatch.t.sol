// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";

/// @notice Batches that are not what they should be. The cases are in redeem.tree.
contract RedeemBatchTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        fund(payer, 1000);
    }

    function batch() private view returns (bytes memory) {
        bytes memory splits = abi.encodePacked(curator, uint16(300), treasury, uint16(200));
        IEscrow.Voucher memory divided = voucher(100);
        divided.splits = keccak256(splits);
        return abi.encodePacked(
            plain(record(voucher(50), PAYER_KEY)),
            Statements.group(payee, MODEL, splits, record(divided, PAYER_KEY))
        );
    }

    function test_RevertWhen_Empty() public {
        expectError(IEscrow.Escrow_BatchMalformed.selector, 0);
        escrow.redeem("");
    }

    function testFuzz_RevertWhen_CutShort(uint256 length) public {
        bytes memory whole = batch();
        uint256 first = plain(record(voucher(50), PAYER_KEY)).length;
        length = bound(length, 0, whole.length - 1);
        vm.assume(length != first);
        bytes memory part = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            part[i] = whole[i];
        }
        expectError(IEscrow.Escrow_BatchMalformed.selector, length < first ? 0 : first);
        escrow.redeem(part);
    }

    function testFuzz_RevertWhen_BytesFollow(bytes calldata more) public {
        vm.assume(more.length > 0 && more.length < 55);
        bytes memory whole = batch();
        expectError(IEscrow.Escrow_BatchMalformed.selector, whole.length);
        escrow.redeem(abi.encodePacked(whole, more));
    }

    function test_RevertWhen_NoRecords() public {
        bytes memory empty = Statements.group(payee, MODEL, "", "");
        expectError(IEscrow.Escrow_BatchMalformed.selector, 0);
        escrow.redeem(empty);
        bytes memory whole = batch();
        expectError(IEscrow.Escrow_BatchMalformed.selector, whole.length);
        escrow.redeem(abi.encodePacked(whole, empty));
    }

    function test_RevertWhen_TheCountsAreLarger() public {
        bytes memory one = plain(record(voucher(50), PAYER_KEY));
        one[53] = 0xff;
        expectError(IEscrow.Escrow_BatchMalformed.selector, 0);
        escrow.redeem(one);
        one[53] = 0;
        one[52] = 0xff;
        expectError(IEscrow.Escrow_BatchMalformed.selector, 0);
        escrow.redeem(one);
    }

    function test_ReadsNothingBeyondTheBatch() public {
        // The argument is cut, and the rest follows in the calldata, where a loose read would find it.
        bytes memory one = plain(record(voucher(50), PAYER_KEY));
        bytes memory data = abi.encodeCall(IEscrow.redeem, (one));
        // The last byte of the argument's length: one less.
        data[67] = bytes1(uint8(data[67]) - 1);
        (bool success, bytes memory answer) = address(escrow).call(data);
        vm.assertTrue(!success);
        vm.assertEq(
            keccak256(answer),
            keccak256(abi.encodeWithSelector(IEscrow.Escrow_BatchMalformed.selector, 0))
        );
    }

    function testFuzz_NeverPays_RandomBytes(bytes calldata random) public {
        try escrow.redeem(random) returns (uint256 amount, uint256) {
            vm.assertEq(amount, 0);
        } catch {}
        assertAccount(payer, 1000, 0);
    }

    function testFuzz_NeverPays_RandomRecords(uint8 splits, uint16 records, bytes32 seed) public {
        splits = uint8(bound(splits, 0, 8));
        records = uint16(bound(records, 1, 20));
        bytes memory body;
        for (uint160 i = 0; i < splits; ++i) {
            body = abi.encodePacked(body, address(0xC00 + i), uint16(600));
        }
        for (uint256 i = 0; i < records; ++i) {
            bytes32 noise = keccak256(abi.encode(seed, i));
            body = abi.encodePacked(body, payer, uint128(uint256(noise)), noise, noise, noise);
        }
        (uint256 amount, uint256 skipped) =
            escrow.redeem(abi.encodePacked(payee, MODEL, splits, records, body));
        vm.assertEq(amount, 0);
        vm.assertEq(skipped, records);
        assertAccount(payer, 1000, 0);
    }

    function testFuzz_PaysOnlyWhatWasSigned_WithAByteChanged(uint256 position, uint8 change)
        public
    {
        bytes memory changed = batch();
        position = bound(position, 0, changed.length - 1);
        changed[position] ^= bytes1(uint8(bound(change, 1, 255)));
        try escrow.redeem(changed) returns (uint256 amount, uint256 skipped) {
            // Each of the two groups stands for itself.
            vm.assertEq(skipped, 1);
            vm.assertTrue(amount == 50 || amount == 100);
            (uint256 free,,) = escrow.accounts(payer);
            vm.assertEq(free, 1000 - amount);
        } catch {
            assertAccount(payer, 1000, 0);
        }
    }
}
