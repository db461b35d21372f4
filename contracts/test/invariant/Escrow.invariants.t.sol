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
        fundsAreDepositsLessWhatWentOut();
        creditsAreWhatWasEarnedLessClaims();
        lockedIsTheSumOfLocks();
        paidIsWhatWasSignedAtMost();
        nobodyHoldsMoreThanTheCap();
        exitsWaitTheWholeDelay();
    }

    function balanceCoversPromises() private view {
        vm.assertEq(token.balanceOf(address(escrow)), funds() + handler.creditsTotal());
    }

    /// @dev Tabs keep what they were paid, so a payer's funds are known from them at any time.
    function fundsAreDepositsLessWhatWentOut() private view {
        uint256 exits = 0;
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            uint256 paid = 0;
            uint256 each = handler.TABS() / handler.PAYERS();
            for (uint256 j = i * each; j < (i + 1) * each; ++j) {
                paid += escrow.tabPaid(handler.tabAt(j));
            }
            (uint256 free, uint256 locked,) = escrow.accounts(handler.payer(i));
            vm.assertEq(free + locked + paid + handler.exited(i), handler.deposited(i), "funds");
            exits += handler.exited(i);
        }
        vm.assertEq(token.balanceOf(handler.EXITS()), exits, "exits paid out");
    }

    function creditsAreWhatWasEarnedLessClaims() private view {
        uint256 claims = 0;
        for (uint256 i = 0; i < handler.creditors(); ++i) {
            address account = handler.creditor(i);
            uint256 claimed = handler.claimed(account);
            vm.assertEq(escrow.credits(account) + claimed, handler.credited(account), "credits");
            claims += claimed;
        }
        vm.assertEq(token.balanceOf(handler.CLAIMS()), claims, "claims paid out");
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
        for (uint256 i = 0; i < handler.TABS(); ++i) {
            bytes32 id = handler.tabAt(i);
            vm.assertLe(escrow.tabPaid(id), handler.signedMost(id), "more than signed");
        }
    }

    function nobodyHoldsMoreThanTheCap() private view {
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            (uint256 free, uint256 locked,) = escrow.accounts(handler.payer(i));
            vm.assertLe(free + locked, escrow.DEPOSIT_CAP());
        }
    }

    function exitsWaitTheWholeDelay() private view {
        for (uint256 i = 0; i < handler.PAYERS(); ++i) {
            (,, uint64 readyAt) = escrow.accounts(handler.payer(i));
            uint256 askedAt = handler.exitAskedAt(i);
            vm.assertEq(readyAt, askedAt == 0 ? 0 : askedAt + DELAY);
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
