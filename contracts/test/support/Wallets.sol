// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

bytes4 constant MAGIC = 0x1626ba7e;

/// @notice A smart account with one owner, who can turn it off.
contract OwnedWallet {
    address public immutable OWNER;
    bool public off;

    constructor(address owner) {
        OWNER = owner;
    }

    function setOff() external {
        off = true;
    }

    function setOn() external {
        off = false;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        return !off && ECDSA.recover(hash, signature) == OWNER ? MAGIC : bytes4(0xffffffff);
    }
}

/// @notice Says no to everything: the code of an account that wants to void its signatures.
contract RefusingWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return 0xffffffff;
    }
}

/// @notice Burns all the gas it gets.
contract BurningWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        while (true) {}
        return MAGIC;
    }
}

/// @notice Returns, or reverts with, as much data as its gas allows.
contract BombWallet {
    bool private immutable REVERTS;

    constructor(bool reverts) {
        REVERTS = reverts;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        bool reverts = REVERTS;
        assembly {
            // 100,000 bytes cost about 29,000 gas here, and as much again to whoever copies them.
            if reverts { revert(0, 100000) }
            return(0, 100000)
        }
    }
}

/// @notice Answers `answer`, whatever its length.
contract RawWallet {
    bytes private answer;

    constructor(bytes memory answer_) {
        answer = answer_;
    }

    fallback() external {
        bytes memory data = answer;
        assembly {
            return(add(data, 0x20), mload(data))
        }
    }
}

/// @notice Reverts with the magic value as data.
contract RevertingWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        bytes32 magic = MAGIC;
        assembly {
            mstore(0, magic)
            revert(0, 32)
        }
    }
}
