// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";

/// @title Checks of 64-byte EIP-2098 signatures
library Signatures {
    /// @dev What an account's own check may burn. A one-owner wallet needs a fifth of it.
    uint256 internal constant ERC1271_GAS = 50_000;

    /// @dev A call passes on at most 63/64 of the gas, and touching a cold account costs 2,600. With
    /// less than this left, a starved check would look like a bad signature.
    uint256 private constant ERC1271_GAS_LEFT_MIN = (ERC1271_GAS * 64) / 63 + 5_000;

    /// @dev Half the order of secp256k1: above it lies each signature's malleable twin.
    uint256 private constant S_MAX =
        0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    uint256 private constant S_MASK = type(uint256).max >> 1;

    /// @notice Who signed `digest`, or zero.
    function recover(bytes32 digest, bytes32 r, bytes32 vs) internal pure returns (address) {
        uint256 s = uint256(vs) & S_MASK;
        if (s > S_MAX) return address(0);
        return ecrecover(digest, uint8(27 + (uint256(vs) >> 255)), r, bytes32(s));
    }

    /// @notice Whether `account` has code, and that code accepts the signature.
    function isValidERC1271(address account, bytes32 digest, bytes32 r, bytes32 vs)
        internal
        view
        returns (bool valid)
    {
        if (account.code.length == 0) return false;
        bytes memory signature =
            abi.encodePacked(r, uint256(vs) & S_MASK, uint8(27 + (uint256(vs) >> 255)));
        bytes memory data = abi.encodeCall(IERC1271.isValidSignature, (digest, signature));
        if (gasleft() < ERC1271_GAS_LEFT_MIN) revert IEscrow.Escrow_GasTooLow();
        // One word is copied back, however much the account returns.
        assembly ("memory-safe") {
            mstore(0x00, 0)
            let ok := staticcall(ERC1271_GAS, account, add(data, 0x20), mload(data), 0x00, 0x20)
            // The whole word, so that `true` or an address cannot pass for the magic value.
            let magic := shl(224, 0x1626ba7e)
            valid := and(ok, and(gt(returndatasize(), 0x1f), eq(mload(0x00), magic)))
        }
    }
}
