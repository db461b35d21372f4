// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {TestToken} from "../../src/TestToken.sol";

bytes4 constant GUARD = bytes4(keccak256("ReentrancyGuardReentrantCall()"));

/// @notice Keeps 1 % of every transfer.
contract FeeToken is TestToken {
    function _update(address from, address to, uint256 value) internal override {
        if (from != address(0) && to != address(0)) {
            super._update(from, address(0xFEE), value / 100);
            value -= value / 100;
        }
        super._update(from, to, value);
    }
}

/// @notice Calls `target` whenever it moves.
contract HookToken is TestToken {
    address private target;
    bytes private data;
    bool public blocked;

    function setHook(address target_, bytes calldata data_) external {
        target = target_;
        data = data_;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (target != address(0)) {
            (bool success, bytes memory answer) = target.call(data);
            // forge-lint: disable-next-line(unsafe-typecast) the selector of the error
            blocked = !success && bytes4(answer) == GUARD;
        }
    }
}

/// @notice Returns nothing from transfers, as some old stablecoins do, and knows no permit.
contract OldToken {
    mapping(address account => uint256 amount) public balanceOf;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}
