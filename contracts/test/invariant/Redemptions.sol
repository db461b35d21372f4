// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Statements} from "../support/Statements.sol";
import {Market} from "./Market.sol";

/// @notice Redemptions of all sorts, each looked at from before and after: who paid, out of what, and
/// who was credited, to the unit.
abstract contract Redemptions is Market {
    uint256 private constant GROUPS = PAYEES * TABS_PER_PAIR;
    uint256 private constant CURATOR_BPS = 700;
    uint256 private constant TREASURY_BPS = 4300;
    uint256 private constant BPS = 10_000;

    struct Snapshot {
        uint256[TABS] paid;
        uint256[PAYERS] free;
        uint256[PAYERS] spent;
        uint256[PAYERS * PAYEES] locks;
    }

    struct Choice {
        uint256 by;
        uint256 to;
        uint256 kind;
        uint8 key;
        uint8 hand;
    }

    uint256 private lastCumulative;

    /// @notice One voucher of a random size and signature, and what must come of it.
    function redeemOne(uint256 by, uint256 to, uint256 kind, uint128 rise, uint8 key, uint8 hand_)
        external
        atItsTime
    {
        redeemOne(
            Choice(by % PAYERS, to % PAYEES, kind % TABS_PER_PAIR, signedBy(key), hand_), rise
        );
    }

    function redeemOne(Choice memory c, uint256 rise) private {
        bytes memory record = recordOf(c.by, c.to, c.kind, rise, c.key);
        (address caller, bool forPayee) = callerFor(c.to, c.hand);
        (Snapshot memory before, uint256 amount, uint256 skipped) =
            redeemAs(caller, groupOf(c.to, c.kind, record), 1);

        uint256 pair = c.by * PAYEES + c.to;
        bool reserved = before.locks[pair] != 0 && c.kind == 2 && !forPayee;
        uint256 reach = reserved ? 0 : reachOf(before, c);
        uint256 owed = owedOn(before.paid[pair * TABS_PER_PAIR + c.kind]);
        vm.assertEq(amount, min(owed, reach), "all that is owed, signed for and there");
        vm.assertEq(skipped, amount == 0 ? 1 : 0, "skipped");
    }

    function owedOn(uint256 paid) private view returns (uint256) {
        return lastCumulative > paid ? lastCumulative - paid : 0;
    }

    /// @dev A lock pays whatever signer the payer has; free funds, up to the signer's cap.
    function reachOf(Snapshot memory before, Choice memory c) private view returns (uint256) {
        uint256 locked = before.locks[c.by * PAYEES + c.to];
        uint256 held = before.free[c.by];
        if (c.key == 0 && keyCounts(c.by)) return locked + held;
        if (c.key != 1 || !signerLive(c.by)) return 0;
        return locked + min(held, capLeft(c.by, before.spent[c.by]));
    }

    /// @notice A batch of one to three groups with records of all sorts.
    function redeemMany(uint256 seed, uint8 groups, bool backwards, uint8 hand_)
        external
        atItsTime
    {
        bytes memory batch;
        uint256 count = 0;
        uint256 group = seed % GROUPS;
        for (uint256 i = 0; i < bound(groups, 1, 3); ++i) {
            // Each at most once in a batch, so that what is rounded off is known from outside.
            group = (group + (backwards ? GROUPS - 1 : 1)) % GROUPS;
            seed = uint256(keccak256(abi.encode(seed)));
            batch = abi.encodePacked(batch, randomGroup(group, seed));
            count += recordsIn(seed);
        }
        (address caller,) = callerFor(0, hand_);
        (, uint256 amount, uint256 skipped) = redeemAs(caller, batch, count);
        if (skipped == count) vm.assertEq(amount, 0, "paid for what was skipped");
    }

    function recordsIn(uint256 seed) private pure returns (uint256) {
        return 1 + seed % 4;
    }

    function randomGroup(uint256 group, uint256 seed) private returns (bytes memory) {
        (uint256 to, uint256 kind) = (group / TABS_PER_PAIR, group % TABS_PER_PAIR);
        bytes memory records;
        for (uint256 i = recordsIn(seed); i > 0; --i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint8 key = signedBy(uint8(seed >> 8));
            records = abi.encodePacked(records, recordOf(seed % PAYERS, to, kind, seed >> 24, key));
        }
        return groupOf(to, kind, records);
    }

    // ------------------------------------------------------------------------------------ checks

    function redeemAs(address caller, bytes memory batch, uint256 records)
        private
        returns (Snapshot memory before, uint256 amount, uint256 skipped)
    {
        before = look();
        vm.prank(caller);
        (amount, skipped) = escrow.redeem(batch);
        vm.assertLe(skipped, records, "skipped more than there was");
        vm.assertTrue(amount != 0 || skipped == records, "neither paid nor skipped");
        Snapshot memory afterwards = look();
        uint256 total = 0;
        for (uint256 i = 0; i < PAYERS; ++i) {
            total += checkPayer(i, before, afterwards);
        }
        vm.assertEq(total, amount, "the tabs' rises");
        for (uint256 i = 0; i < GROUPS; ++i) {
            countCredits(i, before, afterwards);
        }
    }

    function look() private view returns (Snapshot memory seen) {
        for (uint256 i = 0; i < TABS; ++i) {
            seen.paid[i] = escrow.tabPaid(tabAt(i));
        }
        for (uint256 i = 0; i < PAYERS; ++i) {
            seen.free[i] = free(i);
            (,, seen.spent[i]) = escrow.signers(payer(i), signer(i));
            for (uint256 j = 0; j < PAYEES; ++j) {
                (seen.locks[i * PAYEES + j],,) = escrow.lockOf(payer(i), payee(j));
            }
        }
    }

    /// @dev What a payer's tabs rose by came out of the lock of each payee first, and then out of
    /// free funds, of which its signer took no more than its cap.
    function checkPayer(uint256 i, Snapshot memory before, Snapshot memory afterwards)
        private
        view
        returns (uint256 rises)
    {
        uint256 fromLocks = 0;
        for (uint256 j = i * PAYEES; j < (i + 1) * PAYEES; ++j) {
            uint256 rise = 0;
            for (uint256 k = j * TABS_PER_PAIR; k < (j + 1) * TABS_PER_PAIR; ++k) {
                vm.assertGe(afterwards.paid[k], before.paid[k], "what a tab was paid fell");
                rise += afterwards.paid[k] - before.paid[k];
            }
            uint256 fromLock = before.locks[j] - afterwards.locks[j];
            vm.assertEq(fromLock, min(rise, before.locks[j]), "its own lock first");
            fromLocks += fromLock;
            rises += rise;
        }
        uint256 fromFree = before.free[i] - afterwards.free[i];
        vm.assertEq(fromFree, rises - fromLocks, "the rest from free funds");
        uint256 bySigner = afterwards.spent[i] - before.spent[i];
        vm.assertLe(bySigner, min(fromFree, capLeft(i, before.spent[i])), "beyond the signer's cap");
    }

    function countCredits(uint256 group, Snapshot memory before, Snapshot memory afterwards)
        private
    {
        uint256 total = 0;
        for (uint256 i = 0; i < PAYERS; ++i) {
            uint256 tab = i * GROUPS + group;
            total += afterwards.paid[tab] - before.paid[tab];
        }
        uint256 rest = total;
        if (group % TABS_PER_PAIR == 2) {
            credited[curator()] += total * CURATOR_BPS / BPS;
            credited[treasury()] += total * TREASURY_BPS / BPS;
            rest -= total * CURATOR_BPS / BPS + total * TREASURY_BPS / BPS;
        }
        credited[payee(group / TABS_PER_PAIR)] += rest;
    }

    function capLeft(uint256 i, uint256 spent) private view returns (uint256) {
        (, uint128 cap,) = escrow.signers(payer(i), signer(i));
        return spent < cap ? cap - spent : 0;
    }

    // ------------------------------------------------------------------------------------- parts

    /// @notice The payee, its signer (live or not), or somebody else; and whether that acts for it.
    function callerFor(uint256 to, uint256 hand_) internal view returns (address, bool) {
        hand_ %= 3;
        if (hand_ == 0) return (payee(to), true);
        if (hand_ == 1) return (signer(PAYERS + to), signerLive(PAYERS + to));
        return (address(0xBAD), false);
    }

    function groupOf(uint256 to, uint256 kind, bytes memory records)
        private
        view
        returns (bytes memory)
    {
        return Statements.group(payee(to), model(kind), packedSplits(kind), records);
    }

    /// @dev Mostly the payer, often its signer, at times somebody who has no say: 0 the payer, 1 its
    /// signer, 2 the payee, 3 noise.
    function signedBy(uint8 key) private pure returns (uint8) {
        key %= 8;
        return key < 4 ? 0 : key < 6 ? 1 : key - 4;
    }

    function recordOf(uint256 by, uint256 to, uint256 kind, uint256 rise, uint256 who)
        private
        returns (bytes memory)
    {
        bytes32 id = tabId(by, to, kind);
        // Around what is signed already: lower, equal and higher.
        uint128 cumulative = uint128(signedMost[id] * 3 / 4 + bound(rise, 0, DEPOSIT_MAX / 2));
        IEscrow.Voucher memory voucher = IEscrow.Voucher(
            payer(by), payee(to), model(kind), keccak256(packedSplits(kind)), cumulative, id
        );
        lastCumulative = cumulative;
        bytes32 digest = Statements.digest(SEPARATOR, voucher);
        if (who == 3) return Statements.record(voucher, abi.encodePacked(digest, id));
        uint256 key =
            (who == 0 ? PAYER_KEYS : who == 1 ? SIGNER_KEYS : PAYEE_KEYS) + (who == 2 ? to : by);
        bool counts = (who == 0 && keyCounts(by)) || (who == 1 && signerLive(by));
        if (counts && cumulative > signedMost[id]) signedMost[id] = cumulative;
        return Statements.record(voucher, Statements.sign(key, digest));
    }
}
