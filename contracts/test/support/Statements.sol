// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Vm} from "./Vm.sol";

/// @notice Typed data and packed batches, made from the specification and not by the escrow's code.
library Statements {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    struct Split {
        address payee;
        uint16 bps;
    }

    function domain(uint256 chainId, address escrow) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("GPU Market"),
                keccak256("1"),
                chainId,
                escrow
            )
        );
    }

    function digest(bytes32 separator, IEscrow.Voucher memory voucher)
        internal
        pure
        returns (bytes32)
    {
        return typed(
            separator,
            abi.encode(
                keccak256(
                    "Voucher(address payer,address payee,bytes32 model,bytes32 splits,uint128 cumulative,bytes32 receipts)"
                ),
                voucher.payer,
                voucher.payee,
                voucher.model,
                voucher.splits,
                voucher.cumulative,
                voucher.receipts
            )
        );
    }

    function digest(bytes32 separator, IEscrow.Lock memory lock) internal pure returns (bytes32) {
        return typed(
            separator,
            abi.encode(
                keccak256(
                    "Lock(address payer,address payee,uint128 total,uint64 nonce,uint64 expiry)"
                ),
                lock.payer,
                lock.payee,
                lock.total,
                lock.nonce,
                lock.expiry
            )
        );
    }

    function digest(bytes32 separator, IEscrow.LockRelease memory release)
        internal
        pure
        returns (bytes32)
    {
        return typed(
            separator,
            abi.encode(
                keccak256("LockRelease(address payer,address payee,uint128 total,uint64 nonce)"),
                release.payer,
                release.payee,
                release.total,
                release.nonce
            )
        );
    }

    function typed(bytes32 separator, bytes memory encoded) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", separator, keccak256(encoded)));
    }

    /// @notice A 64-byte EIP-2098 signature.
    function sign(uint256 key, bytes32 digest_) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest_);
        return abi.encodePacked(r, uint256(s) | (uint256(v - 27) << 255));
    }

    function pack(Split[] memory splits) internal pure returns (bytes memory packed) {
        for (uint256 i = 0; i < splits.length; ++i) {
            packed = abi.encodePacked(packed, splits[i].payee, splits[i].bps);
        }
    }

    function record(IEscrow.Voucher memory voucher, bytes memory signature)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodePacked(voucher.payer, voucher.cumulative, voucher.receipts, signature);
    }

    function group(address payee, bytes32 model, bytes memory splits, bytes memory records)
        internal
        pure
        returns (bytes memory)
    {
        // forge-lint: disable-next-line(unsafe-typecast) what does not fit is meant to be wrong
        bytes memory counts =
            abi.encodePacked(uint8(splits.length / 22), uint16(records.length / 132));
        return abi.encodePacked(payee, model, counts, splits, records);
    }
}
