// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "./interfaces/IEscrow.sol";

/// @title Reads the packed batches of {IEscrow-redeem}
/// @dev {openGroup} checks the bounds of a group once; the reads after it rely on that.
library VoucherBatch {
    uint256 internal constant HEADER_BYTES = 55;
    uint256 internal constant SPLIT_BYTES = 22;
    uint256 internal constant RECORD_BYTES = 132;
    uint256 internal constant SPLITS_MAX = 8;
    uint256 internal constant BPS = 10_000;
    uint256 internal constant SPLITS_BPS_MAX = 5_000;

    bytes32 internal constant VOUCHER_TYPEHASH = keccak256(
        "Voucher(address payer,address payee,bytes32 model,bytes32 splits,uint128 cumulative,bytes32 receipts)"
    );

    /// @param voucher The words of a voucher's EIP-712 encoding: type hash, payer, payee, model,
    /// splits, cumulative, receipts. One buffer for all records of a group: each overwrites payer,
    /// cumulative and receipts. Words 1 to 4 are what the tab's id hashes.
    /// @param splitsAt Where the splits begin, in bytes from the start of the batch.
    /// @param recordsAt Where the splits end and the records begin.
    /// @param end Where the records end.
    struct Group {
        bytes32[7] voucher;
        address payee;
        uint256 splitsAt;
        uint256 recordsAt;
        uint256 end;
    }

    struct Record {
        address payer;
        uint128 cumulative;
        bytes32 receipts;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice Reads and checks the group that begins at `offset`.
    function openGroup(bytes calldata batch, uint256 offset)
        internal
        view
        returns (Group memory group)
    {
        if (batch.length < offset + HEADER_BYTES) revert IEscrow.Escrow_BatchMalformed(offset);
        uint256 splitCount = uint8(bytes1(_word(batch, offset + 52)));
        uint256 recordCount = uint16(bytes2(_word(batch, offset + 53)));
        group.payee = address(bytes20(_word(batch, offset)));
        group.splitsAt = offset + HEADER_BYTES;
        group.recordsAt = group.splitsAt + splitCount * SPLIT_BYTES;
        group.end = group.recordsAt + recordCount * RECORD_BYTES;
        if (recordCount == 0 || batch.length < group.end) {
            revert IEscrow.Escrow_BatchMalformed(offset);
        }
        if (splitCount > SPLITS_MAX || !_splitsValid(batch, group)) {
            revert IEscrow.Escrow_SplitsInvalid(offset);
        }
        group.voucher[0] = VOUCHER_TYPEHASH;
        group.voucher[2] = bytes32(uint256(uint160(group.payee)));
        group.voucher[3] = _word(batch, offset + 20);
        group.voucher[4] = keccak256(batch[group.splitsAt:group.recordsAt]);
    }

    /// @notice Reads the record at `offset`, which lies within the group, into `record` and the
    /// group's voucher.
    function readRecord(
        bytes calldata batch,
        uint256 offset,
        Group memory group,
        Record memory record
    ) internal pure {
        record.payer = address(bytes20(_word(batch, offset)));
        record.cumulative = uint128(bytes16(_word(batch, offset + 20)));
        record.receipts = _word(batch, offset + 36);
        record.r = _word(batch, offset + 68);
        record.vs = _word(batch, offset + 100);
        group.voucher[1] = bytes32(uint256(uint160(record.payer)));
        group.voucher[5] = bytes32(uint256(record.cumulative));
        group.voucher[6] = record.receipts;
    }

    /// @notice The split at `offset`, which lies within an open group.
    function splitAt(bytes calldata batch, uint256 offset)
        internal
        pure
        returns (address payee, uint256 bps)
    {
        bytes32 word = _word(batch, offset);
        // forge-lint: disable-next-line(unsafe-typecast) the first 20 bytes are meant
        payee = address(bytes20(word));
        bps = uint16(uint256(word) >> 80);
    }

    /// @notice The id of the tab of the record read last: {IEscrow-tabOf}.
    function tab(Group memory group) internal pure returns (bytes32 id) {
        bytes32[7] memory voucher = group.voucher;
        assembly ("memory-safe") {
            id := keccak256(add(voucher, 0x20), 0x80)
        }
    }

    /// @notice The EIP-712 struct hash of the record read last.
    function structHash(Group memory group) internal pure returns (bytes32 hash) {
        bytes32[7] memory voucher = group.voucher;
        assembly ("memory-safe") {
            hash := keccak256(voucher, 0xe0)
        }
    }

    /// @dev Strictly rising from zero: unique, and never the zero address. Nobody could claim what
    /// is credited to the escrow itself.
    function _splitsValid(bytes calldata batch, Group memory group) private view returns (bool) {
        if (group.payee == address(0) || group.payee == address(this)) return false;
        address previous = address(0);
        uint256 bpsTotal = 0;
        for (uint256 offset = group.splitsAt; offset < group.recordsAt; offset += SPLIT_BYTES) {
            (address payee, uint256 bps) = splitAt(batch, offset);
            if (payee <= previous || payee == group.payee || payee == address(this)) return false;
            if (bps == 0) return false;
            bpsTotal += bps;
            previous = payee;
        }
        return bpsTotal <= SPLITS_BPS_MAX;
    }

    function _word(bytes calldata batch, uint256 offset) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := calldataload(add(batch.offset, offset))
        }
    }
}
