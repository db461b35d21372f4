// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Statements} from "../support/Statements.sol";
import {OwnedWallet} from "../support/Wallets.sol";
import {Market} from "./Market.sol";
import {Redemptions} from "./Redemptions.sol";

/// @notice What anybody may do, in any order. Each action keeps to the rules that it knows, so that
/// a revert is a finding, and checks what one step must keep.
contract Handler is Redemptions {
    constructor(IEscrow escrow_) Market(escrow_) {}

    function warp(uint256 seconds_) external {
        clock += bound(seconds_, 1, 30 hours);
    }

    // ------------------------------------------------------------------------ deposits and exits

    /// @dev How much of `amount` the account may take now.
    function depositable(uint256 to, uint256 amount) private view returns (uint256) {
        if (exitReadyAt(to) != 0) return 0;
        (uint256 held, uint256 locked,) = escrow.accounts(payer(to));
        uint256 room = escrow.DEPOSIT_CAP() - held - locked;
        return room == 0 ? 0 : bound(amount, 1, min(DEPOSIT_MAX, room));
    }

    function deposit(uint256 to, uint256 amount) external atItsTime {
        to %= PAYERS;
        amount = depositable(to, amount);
        if (amount == 0) return;
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(payer(to), amount);
        deposited[to] += amount;
    }

    /// @dev By the first payer, which has a key of its own, for any.
    function depositWithPermit(uint256 to, uint256 amount, bool usedUp) external atItsTime {
        to %= PAYERS;
        amount = depositable(to, amount);
        if (amount == 0) return;
        token.mint(payer(0), amount);
        (uint8 v, bytes32 r, bytes32 s) = permit(amount);
        if (usedUp) token.permit(payer(0), address(escrow), amount, block.timestamp, v, r, s);
        vm.prank(payer(0));
        escrow.depositWithPermit(payer(to), amount, block.timestamp, v, r, s);
        deposited[to] += amount;
    }

    function permit(uint256 amount) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 statement = keccak256(
            abi.encode(
                keccak256(
                    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                ),
                payer(0),
                address(escrow),
                amount,
                token.nonces(payer(0)),
                block.timestamp
            )
        );
        return vm.sign(
            PAYER_KEYS, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), statement))
        );
    }

    function requestExit(uint256 by) external atItsTime {
        by %= PAYERS;
        if (exitReadyAt(by) != 0) return;
        vm.prank(payer(by));
        escrow.requestExit();
        exitAskedAt[by] = block.timestamp;
    }

    /// @param mind Mostly an exit goes on.
    function cancelExit(uint256 by, uint256 mind) external atItsTime {
        by %= PAYERS;
        if (exitReadyAt(by) == 0 || mind % 4 != 0) return;
        vm.prank(payer(by));
        escrow.cancelExit();
        exitAskedAt[by] = 0;
    }

    /// @dev Tried at any time: it must work after the delay, and never before.
    function exit(uint256 by) external atItsTime {
        by %= PAYERS;
        (uint256 held, uint256 locked,) = escrow.accounts(payer(by));
        uint256 askedAt = exitAskedAt[by];
        bool due = askedAt != 0 && askedAt + escrow.EXIT_DELAY() <= block.timestamp;
        vm.prank(payer(by));
        try escrow.exit(EXITS) {
            vm.assertTrue(due, "an exit before its time");
            exited[by] += held + locked;
            exitAskedAt[by] = 0;
        } catch {
            vm.assertTrue(!due, "an exit held up");
        }
    }

    // ------------------------------------------------------------------------------------ locks

    struct Draft {
        uint256 payer;
        uint256 payee;
        uint256 key;
        uint128 amount;
        uint64 nonce;
        uint64 expiry;
    }

    function draft(uint256 by, uint256 to) private view returns (Draft memory d) {
        d.payer = by % PAYERS;
        d.payee = to % PAYEES;
        (d.amount, d.nonce, d.expiry) = escrow.lockOf(payer(d.payer), payee(d.payee));
        d.key = PAYER_KEYS + d.payer;
    }

    /// @dev Tried at any size: a live lock falls only by its payee's hand.
    function submitLock(uint256 by, uint256 to, uint128 total, uint64 time, bool hot, uint8 hand_)
        external
        atItsTime
    {
        Draft memory d = draft(by, to);
        total = uint128(bound(total, 0, free(d.payer) + d.amount));
        if (hot) {
            if (!signerLive(d.payer)) return;
            if (total > d.amount && total - d.amount > signerCapLeft(d.payer)) return;
            d.key = SIGNER_KEYS + d.payer;
        }
        uint64 expiry = uint64(block.timestamp + bound(time, 1, 3 days));
        IEscrow.Lock memory lock =
            IEscrow.Lock(payer(d.payer), payee(d.payee), total, d.nonce + 1, expiry);
        bytes memory signature = Statements.sign(d.key, Statements.digest(SEPARATOR, lock));
        bool weaker =
            d.amount != 0 && d.expiry > block.timestamp && (total < d.amount || expiry < d.expiry);
        (address caller, bool byPayee) = callerFor(d.payee, hand_);
        bool counts = hot || keyCounts(d.payer);
        vm.prank(caller);
        try escrow.submitLock(lock, signature) {
            vm.assertTrue(counts, "a lock that nobody signed");
            vm.assertTrue(byPayee || !weaker, "a lock weakened by others than its payee");
        } catch {
            vm.assertTrue(!counts || (!byPayee && weaker), "a lock held up");
        }
    }

    function lowerLock(uint256 by, uint256 to, uint128 total) external atItsTime {
        Draft memory d = draft(by, to);
        if (d.amount == 0) return;
        vm.prank(payee(d.payee));
        escrow.lowerLock(payer(d.payer), uint128(bound(total, 0, d.amount - 1)));
    }

    function release(uint256 by, uint256 to, uint128 total, bool hot) external atItsTime {
        Draft memory d = draft(by, to);
        if (d.amount == 0) return;
        if (hot && !signerLive(PAYERS + d.payee)) return;
        total = uint128(bound(total, 0, d.amount - 1));
        IEscrow.LockRelease memory statement =
            IEscrow.LockRelease(payer(d.payer), payee(d.payee), total, d.nonce + 1);
        bytes32 digest = Statements.digest(SEPARATOR, statement);
        uint256 key = hot ? SIGNER_KEYS + PAYERS : PAYEE_KEYS;
        escrow.submitLockRelease(statement, Statements.sign(key + d.payee, digest));
    }

    function expireLock(uint256 by, uint256 to) external atItsTime {
        Draft memory d = draft(by, to);
        bool due = d.amount != 0 && d.expiry <= block.timestamp;
        try escrow.expireLock(payer(d.payer), payee(d.payee)) {
            vm.assertTrue(due, "a lock expired before its time");
        } catch {
            vm.assertTrue(!due, "an expired lock held up");
        }
    }

    // ---------------------------------------------------------------------------------- signers

    function setSigner(uint256 by, uint64 time, uint128 cap) external atItsTime {
        by %= PAYERS + PAYEES;
        (uint64 expiry, uint128 oldCap,) = escrow.signers(party(by), signer(by));
        uint64 next = uint64(block.timestamp + bound(time, 1, 5 days));
        cap = uint128(bound(cap, 0, 3 * DEPOSIT_MAX));
        if (expiry > block.timestamp) {
            if (next < expiry) next = expiry;
            if (cap < oldCap) cap = oldCap;
        }
        vm.prank(party(by));
        escrow.setSigner(signer(by), next, cap);
    }

    function thawSigner(uint256 by) external atItsTime {
        by %= PAYERS + PAYEES;
        if (!signerLive(by)) return;
        (uint64 before,,) = escrow.signers(party(by), signer(by));
        vm.prank(party(by));
        escrow.thawSigner(signer(by));
        (uint64 expiry,,) = escrow.signers(party(by), signer(by));
        vm.assertEq(expiry, min(before, block.timestamp + escrow.EXIT_DELAY()), "thawed");
    }

    /// @dev What only the code of an account accepts, its code can refuse at any time.
    function turnWallet(uint8 mind) external {
        OwnedWallet wallet = OwnedWallet(payer(WALLET));
        if (mind % 4 == 0) wallet.setOff();
        else wallet.setOn();
    }

    // ------------------------------------------------------------------------------------ claim

    function claim(uint256 who) external atItsTime {
        address account = creditor(who % creditors());
        uint256 amount = escrow.credits(account);
        if (amount == 0) return;
        vm.prank(account);
        escrow.claim(CLAIMS);
        claimed[account] += amount;
    }
}
