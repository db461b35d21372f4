// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {EscrowTest} from "../support/EscrowTest.sol";
import {Handler} from "./Handler.sol";

/// @notice What holds after any sequence of actions of {Handler}.
contract EscrowInvariants is EscrowTest {
    uint64 private constant DELAY = 6 hours;
    Handler private handler;

    function setUp() public override {
        super.setUp();
        // A cap and a delay within reach.
        escrow = deploy(address(token), DELAY, 25_000);
        handler = new Handler(escrow);
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            handler.deposit(i, i * 1237);
        }
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function funds() private view returns (uint256 total) {
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            (uint256 free, uint256 locked,) = escrow.accounts(handler.payer(i));
            total += free + locked;
        }
    }

    /// @dev One function, since forge runs a campaign of its own for each.
    function invariant_everyUnitIsAccountedFor() external view {
        balanceCoversPromises();
        whatCameInIsThereOrWentOut();
        lockedIsTheSumOfLocks();
        paidIsWhatWasSignedAtMost();
        nobodyHoldsMoreThanTheCap();
    }

    function balanceCoversPromises() private view {
        vm.assertEq(token.balanceOf(address(escrow)), funds() + handler.creditsTotal());
    }

    function whatCameInIsThereOrWentOut() private view {
        vm.assertEq(
            handler.deposited(),
            funds() + handler.creditsTotal() + handler.exited() + handler.claimed()
        );
        vm.assertEq(handler.credited(), handler.creditsTotal() + handler.claimed());
    }

    function lockedIsTheSumOfLocks() private view {
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            uint256 locks = 0;
            for (uint256 j = 0; j < handler.PAYEES(); ++j) {
                (uint128 amount,,) = escrow.lockOf(handler.payer(i), handler.payee(j));
                locks += amount;
            }
            (, uint256 locked,) = escrow.accounts(handler.payer(i));
            vm.assertEq(locked, locks);
        }
    }

    function paidIsWhatWasSignedAtMost() private view {
        uint256 total = 0;
        for (uint256 i = 0; i < handler.TABS(); ++i) {
            bytes32 id = handler.tabAt(i);
            vm.assertLe(escrow.tabPaid(id), handler.signedMost(id), "more than signed");
            total += escrow.tabPaid(id);
        }
        vm.assertEq(total, handler.credited());
    }

    function nobodyHoldsMoreThanTheCap() private view {
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            (uint256 free, uint256 locked,) = escrow.accounts(handler.payer(i));
            vm.assertLe(free + locked, escrow.DEPOSIT_CAP());
        }
    }

    /// @notice Every unit can be withdrawn: whatever happened, everybody leaves and nothing stays.
    function afterInvariant() external {
        vm.warp(handler.clock());
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            (,, uint64 readyAt) = escrow.accounts(handler.payer(i));
            if (readyAt != 0) continue;
            vm.prank(handler.payer(i));
            escrow.requestExit();
        }
        vm.warp(handler.clock() + DELAY);
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            vm.prank(handler.payer(i));
            escrow.exit(stranger);
        }
        for (uint256 i = 0; i < handler.creditors(); ++i) {
            address account = handler.creditor(i);
            if (escrow.credits(account) == 0) continue;
            vm.prank(account);
            escrow.claim(stranger);
        }
        vm.assertEq(token.balanceOf(address(escrow)), 0, "left behind");
    }
}
