// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";

contract RedeemTest is EscrowTest {
    function test_Skips_WhenNothingIsOwed() public {
        fund(payer, 100);
        bytes memory records = record(voucher(60), PAYER_KEY);
        escrow.redeem(plain(records));
        assertSkipped(plain(records), payer, IEscrow.SkipReason.NothingOwed);
        assertSkipped(plain(record(voucher(59), PAYER_KEY)), payer, IEscrow.SkipReason.NothingOwed);
        assertSkipped(plain(record(voucher(0), PAYER_KEY)), payer, IEscrow.SkipReason.NothingOwed);
        assertAccount(payer, 40, 0);
        vm.assertEq(escrow.credits(payee), 60);
    }

    function test_Skips_WhenUnfunded() public {
        assertSkipped(plain(record(voucher(1), PAYER_KEY)), payer, IEscrow.SkipReason.Unfunded);
        fund(payer, 100);
        setRivalLock(100, 1);
        assertSkipped(plain(record(voucher(1), PAYER_KEY)), payer, IEscrow.SkipReason.Unfunded);
    }

    function testFuzz_PaysInPart_AndTheRestLater(uint128 owed, uint256 first, uint256 second)
        public
    {
        owed = uint128(bound(owed, 3, type(uint128).max));
        first = bound(first, 1, owed - 2 < DEPOSIT_CAP ? owed - 2 : DEPOSIT_CAP);
        second = bound(second, 1, DEPOSIT_CAP);
        bytes memory batch = plain(record(voucher(owed), PAYER_KEY));
        fund(payer, first);
        (uint256 amount, uint256 skipped) = escrow.redeem(batch);
        vm.assertEq(amount, first);
        vm.assertEq(skipped, 0);
        vm.assertEq(escrow.tabPaid(tab(voucher(owed))), first);
        assertSkipped(batch, payer, IEscrow.SkipReason.Unfunded);

        fund(payer, second);
        (amount,) = escrow.redeem(batch);
        vm.assertEq(amount, second < owed - first ? second : owed - first);
        assertAccount(payer, second - amount, 0);
        vm.assertEq(escrow.credits(payee), first + amount);
    }

    function testFuzz_PaysNothingTwice_InAnyOrder(uint128[4] calldata cumulatives) public {
        fund(payer, DEPOSIT_CAP);
        uint256 highest = 0;
        for (uint256 i = 0; i < 4; ++i) {
            uint128 cumulative = uint128(bound(cumulatives[i], 0, DEPOSIT_CAP));
            if (cumulative > highest) highest = cumulative;
            redeemOne(voucher(cumulative), PAYER_KEY);
            vm.assertEq(escrow.tabPaid(tab(voucher(0))), highest);
            vm.assertEq(escrow.credits(payee), highest);
        }
    }

    function test_PaysATabOnce_ThatComesTwice() public {
        fund(payer, 100);
        bytes memory records = abi.encodePacked(
            record(voucher(30), PAYER_KEY),
            record(voucher(30), PAYER_KEY),
            record(voucher(50), PAYER_KEY),
            record(voucher(40), PAYER_KEY)
        );
        (uint256 amount, uint256 skipped) = escrow.redeem(plain(records));
        vm.assertEq(amount, 50);
        vm.assertEq(skipped, 2);
        vm.assertEq(escrow.credits(payee), 50);
    }

    function test_KeepsTabsApart() public {
        fund(payer, 100);
        IEscrow.Voucher memory other = voucher(20);
        other.model = keccak256("other model");
        vm.assertEq(redeemOne(voucher(30), PAYER_KEY), 30);
        vm.assertEq(redeemOne(other, PAYER_KEY), 20);
        other.payee = rival;
        vm.assertEq(redeemOne(other, PAYER_KEY), 20);
        assertAccount(payer, 30, 0);
        vm.assertEq(escrow.credits(payee), 50);
        vm.assertEq(escrow.credits(rival), 20);
    }

    function test_PaysSeveralGroups_PastWhatItSkips() public {
        fund(payer, 100);
        fund(rival, 100);
        IEscrow.Voucher memory byRival = voucher(7);
        byRival.payer = rival;
        IEscrow.Voucher memory toRival = voucher(11);
        toRival.payee = rival;
        toRival.model = keccak256("other model");
        bytes memory batch = abi.encodePacked(
            plain(
                abi.encodePacked(
                    record(voucher(5), PAYEE_KEY), // 0: not the payer's
                    record(voucher(5), PAYER_KEY),
                    record(byRival, RIVAL_KEY),
                    record(byRival, RIVAL_KEY) // 3: again
                )
            ),
            Statements.group(
                rival,
                toRival.model,
                "",
                abi.encodePacked(
                    record(toRival, PAYER_KEY),
                    record(toRival, PAYER_KEY) // 5: again
                )
            )
        );
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherSkipped(payer, payee, 0, IEscrow.SkipReason.BadSignature);
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherSkipped(rival, payee, 3, IEscrow.SkipReason.NothingOwed);
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherSkipped(payer, rival, 5, IEscrow.SkipReason.NothingOwed);
        vm.prank(stranger);
        (uint256 amount, uint256 skipped) = escrow.redeem(batch);
        vm.assertEq(amount, 23);
        vm.assertEq(skipped, 3);
        vm.assertEq(escrow.credits(payee), 12);
        vm.assertEq(escrow.credits(rival), 11);
        vm.assertEq(escrow.credits(stranger), 0);
        assertAccount(payer, 84, 0);
        assertAccount(rival, 93, 0);
    }

    function test_CreditsNobody_WhenNothingIsPaid() public {
        vm.recordLogs();
        escrow.redeem(plain(record(voucher(5), PAYER_KEY)));
        vm.assertEq(vm.getRecordedLogs().length, 1);
    }

    function test_Emits() public {
        fund(payer, 100);
        setLock(10, 1);
        redeemOne(voucher(4), PAYER_KEY);
        vm.expectEmit(address(escrow));
        emit IEscrow.VoucherRedeemed(
            payer, payee, tab(voucher(30)), 26, 6, 30, voucher(30).receipts
        );
        vm.expectEmit(address(escrow));
        emit IEscrow.Credited(payee, payee, 26);
        redeemOne(voucher(30), PAYER_KEY);
    }

    function test_PaysTheLargestBatch() public {
        fund(payer, 1000);
        bytes memory records;
        for (uint128 i = 1; i <= 300; ++i) {
            records = abi.encodePacked(records, record(voucher(i), PAYER_KEY));
        }
        // More than one byte's worth of records.
        (uint256 amount, uint256 skipped) = escrow.redeem(plain(records));
        vm.assertEq(amount, 300);
        vm.assertEq(skipped, 0);
    }
}
