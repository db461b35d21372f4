// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";

contract ConstructorTest is EscrowTest {
    function test_RevertWhen_TokenHasNoCode() public {
        assertRefused(stranger, EXIT_DELAY, DEPOSIT_CAP);
    }

    function test_RevertWhen_ExitDelayOutOfRange() public {
        assertRefused(address(token), 1 minutes - 1, DEPOSIT_CAP);
        assertRefused(address(token), 30 days + 1, DEPOSIT_CAP);
    }

    function test_RevertWhen_DepositCapOutOfRange() public {
        assertRefused(address(token), EXIT_DELAY, 0);
        assertRefused(address(token), EXIT_DELAY, uint128(type(uint88).max) + 1);
    }

    function assertRefused(address token_, uint64 exitDelay, uint128 cap) private {
        bytes memory code = initcode(token_, exitDelay, cap);
        expectError(IEscrow.Escrow_ConfigInvalid.selector);
        this.createExternally(code);
    }

    function createExternally(bytes calldata code) external {
        create(code);
    }

    function test_KeepsItsConfig() public {
        IEscrow least = deploy(address(token), 1 minutes, 1);
        vm.assertEq(least.token(), address(token));
        vm.assertEq(least.EXIT_DELAY(), 60);
        vm.assertEq(least.DEPOSIT_CAP(), 1);
        IEscrow most = deploy(address(token), 30 days, type(uint88).max);
        vm.assertEq(most.EXIT_DELAY(), 30 days);
        vm.assertEq(most.DEPOSIT_CAP(), type(uint88).max);
    }
}
