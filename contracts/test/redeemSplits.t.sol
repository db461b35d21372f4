// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";
import {Vm} from "./support/Vm.sol";

/// @notice How a payment is divided. The cases are in redeem.tree.
contract RedeemSplitsTest is EscrowTest {
    function setUp() public override {
        super.setUp();
        fund(payer, DEPOSIT_CAP);
    }

    function batchOf(address payee_, bytes memory splits, uint128 cumulative)
        private
        view
        returns (bytes memory)
    {
        IEscrow.Voucher memory statement = voucher(cumulative);
        statement.payee = payee_;
        statement.splits = keccak256(splits);
        return Statements.group(payee_, MODEL, splits, record(statement, PAYER_KEY));
    }

    function assertInvalid(address payee_, bytes memory splits) private {
        bytes memory batch = batchOf(payee_, splits, 100);
        expectError(IEscrow.Escrow_SplitsInvalid.selector, 0);
        escrow.redeem(batch);
        // The group is named by its offset.
        bytes memory first = batchOf(payee, "", 100);
        expectError(IEscrow.Escrow_SplitsInvalid.selector, first.length);
        escrow.redeem(abi.encodePacked(first, batch));
    }

    function equalSplits(uint256 count, uint16 bps) private pure returns (bytes memory splits) {
        for (uint160 i = 1; i <= count; ++i) {
            splits = abi.encodePacked(splits, address(i), bps);
        }
    }

    function test_RevertWhen_ThePayeeIsNobody() public {
        assertInvalid(address(0), "");
        assertInvalid(address(escrow), "");
    }

    function test_RevertWhen_TooMany() public {
        assertInvalid(payee, equalSplits(9, 1));
        assertInvalid(payee, equalSplits(255, 1));
        (uint256 amount,) = escrow.redeem(batchOf(payee, equalSplits(8, 1), 100));
        vm.assertEq(amount, 100);
    }

    function test_RevertWhen_NotStrictlyRising() public {
        assertInvalid(payee, abi.encodePacked(treasury, uint16(10), curator, uint16(10)));
        assertInvalid(payee, abi.encodePacked(curator, uint16(10), curator, uint16(10)));
        assertInvalid(
            payee,
            abi.encodePacked(address(1), uint16(1), address(3), uint16(1), address(2), uint16(1))
        );
    }

    function test_RevertWhen_SplitsTakeMoreThanHalf() public {
        assertInvalid(payee, abi.encodePacked(curator, uint16(5001)));
        assertInvalid(payee, abi.encodePacked(curator, uint16(2501), treasury, uint16(2500)));
        assertInvalid(payee, equalSplits(8, type(uint16).max));
        (uint256 amount,) = escrow.redeem(
            batchOf(payee, abi.encodePacked(curator, uint16(2500), treasury, uint16(2500)), 100)
        );
        vm.assertEq(amount, 100);
        vm.assertEq(escrow.credits(payee), 50);
    }

    function test_RevertWhen_ASplitIsEmpty() public {
        assertInvalid(payee, abi.encodePacked(curator, uint16(0)));
        assertInvalid(payee, abi.encodePacked(curator, uint16(10), treasury, uint16(0)));
    }

    function test_RevertWhen_ASplitNamesNobodyOrThePayee() public {
        assertInvalid(payee, abi.encodePacked(address(0), uint16(10)));
        assertInvalid(payee, abi.encodePacked(payee, uint16(10)));
        assertInvalid(payee, abi.encodePacked(address(escrow), uint16(10)));
        bytes memory last = payee > curator
            ? abi.encodePacked(curator, uint16(10), payee, uint16(10))
            : abi.encodePacked(payee, uint16(10), curator, uint16(10));
        assertInvalid(payee, last);
    }

    function testFuzz_RoundsDown_AndThePayeeHasTheRest(
        uint128 amount,
        uint16 firstBps,
        uint16 secondBps
    ) public {
        amount = uint128(bound(amount, 1, DEPOSIT_CAP));
        firstBps = uint16(bound(firstBps, 1, 4999));
        secondBps = uint16(bound(secondBps, 1, 5000 - firstBps));
        bytes memory splits = abi.encodePacked(curator, firstBps, treasury, secondBps);
        (uint256 paid,) = escrow.redeem(batchOf(payee, splits, amount));
        vm.assertEq(paid, amount);
        uint256 first = uint256(amount) * firstBps / 10_000;
        uint256 second = uint256(amount) * secondBps / 10_000;
        vm.assertEq(escrow.credits(curator), first);
        vm.assertEq(escrow.credits(treasury), second);
        vm.assertEq(escrow.credits(payee), amount - first - second);
    }

    function test_CreditsOncePerGroup() public {
        bytes memory splits = abi.encodePacked(curator, uint16(300), treasury, uint16(1));
        fund(rival, 100);
        IEscrow.Voucher memory one = voucher(99);
        one.splits = keccak256(splits);
        IEscrow.Voucher memory two = voucher(1);
        two.splits = keccak256(splits);
        two.payer = rival;
        bytes memory records = abi.encodePacked(record(one, PAYER_KEY), record(two, RIVAL_KEY));
        vm.recordLogs();
        vm.expectEmit(address(escrow));
        // 3 % of 100 together; of 99 and of 1 apart it would be 2.
        emit IEscrow.Credited(curator, payee, 3);
        vm.expectEmit(address(escrow));
        emit IEscrow.Credited(payee, payee, 97);
        escrow.redeem(Statements.group(payee, MODEL, splits, records));
        // Two vouchers, two credits; none for a share of nothing.
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 count = 0;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(escrow)) ++count;
        }
        vm.assertEq(count, 4);
        vm.assertEq(escrow.credits(treasury), 0);
    }

    function testFuzz_LosesLessThanOnePerStep(uint128[6] calldata rises, uint16 bps) public {
        bps = uint16(bound(bps, 1, 5000));
        bytes memory splits = abi.encodePacked(curator, bps);
        uint128 cumulative = 0;
        for (uint256 i = 0; i < 6; ++i) {
            cumulative += uint128(bound(rises[i], 1, 30));
            escrow.redeem(batchOf(payee, splits, cumulative));
        }
        uint256 whole = uint256(cumulative) * bps / 10_000;
        vm.assertLe(escrow.credits(curator), whole);
        vm.assertGe(escrow.credits(curator) + 6, whole, "share");
        vm.assertEq(escrow.credits(curator) + escrow.credits(payee), cumulative);
    }
}
