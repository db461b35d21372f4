// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EscrowTest} from "./support/EscrowTest.sol";

contract TokenTest is EscrowTest {
    function test_IsADevnetStablecoin() public {
        vm.assertEq(token.decimals(), 6);
        vm.prank(stranger);
        token.mint(payer, 5);
        vm.assertEq(token.balanceOf(payer), 5);
        vm.assertEq(token.totalSupply(), 5);
    }
}
