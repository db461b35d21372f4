// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The escrow of the GPU market
/// @notice Holds payers' deposits in one token and pays payees against signed, cumulative vouchers.
/// It has no owner and cannot be changed. It calls the token and, where an account has code and no
/// ECDSA signature fits, that account's ERC-1271 check under a gas cap; nothing else.
///
/// Money. One deposit per account, divided into *free* funds and *locked* funds; locked is the sum
/// of the account's locks, each reserved for one payee. Payouts become *credits*, which their owner
/// claims. All amounts are in the token's smallest unit ("micro").
///
/// Who is paid from what. A voucher draws on the lock of its own payee first, then on free funds,
/// never on another payee's lock. A payee can thus always collect at least
/// `min(owed, own lock)`, and drawing the lock first loses it nothing: what it is owed and what is
/// reserved for it fall together. It is also the only order that keeps an honest payer solvent. Let
/// a payer be covered when the sum over its payees of `max(lock, owed)` is at most free + locked.
/// Lock first, every redemption lowers both sides alike, so every payee of a covered payer is paid in
/// full, in any order. Free first, a redemption would leave a lock larger than what is owed under it
/// and starve the next payee.
///
/// What is guaranteed. Only the lock: free funds can go to anybody at any moment, the payer's own
/// friends among them. Until its expiry, or until an exit that was asked for EXIT_DELAY before, a
/// lock falls only by its payee's hand or to its payee's credit. A payee that takes vouchers signed
/// by a signer relies on the signer's expiry too, which only {thawSigner} brings nearer, to
/// EXIT_DELAY from then at the earliest.
///
/// Statements. EIP-712 typed data in the domain `GPU Market`, version `1`, this chain, this contract:
///
///     Voucher(address payer,address payee,bytes32 model,bytes32 splits,uint128 cumulative,bytes32 receipts)
///     Lock(address payer,address payee,uint128 total,uint64 nonce,uint64 expiry)
///     LockRelease(address payer,address payee,uint128 total,uint64 nonce)
///
/// Signatures are 64 bytes, EIP-2098 (`r`, `vs`), low s only. A signature for an account is
/// accepted, in this order, from the account's own key, from a signer that the account authorised,
/// or by the account's ERC-1271 check (which gets `r ‖ s ‖ v`, 65 bytes). ECDSA comes first, so that
/// an account that later gains code (EIP-7702) cannot void what its key has signed. What only
/// ERC-1271 accepts, the account's code can revoke at any time: payees should not rely on it.
///
/// Tabs. `tab = keccak256(abi.encode(payer, payee, model, splits))`. `splits` is keccak256 of the
/// concatenation, for each split, of its payee (20 bytes) and basis points (2 bytes, big endian).
///
/// A batch for {redeem} is one or more groups, one after the other, integers big endian:
///
///     offset            bytes  field
///     0                 20     payee
///     20                32     model
///     52                1      S, number of splits, 0 to 8
///     53                2      N, number of records, 1 to 65,535
///     55                22·S   splits: payee (20) ‖ basis points (2)
///     55 + 22·S         132·N  records: payer (20) ‖ cumulative (16) ‖ receipts (32) ‖ r (32) ‖ vs (32)
///
/// Splits are strictly increasing by payee and never name zero, the group's payee or this contract;
/// none has 0 basis points; together at most 5,000. Of a group's total each split is rounded down,
/// and the group's payee gets the rest: paying in ever smaller steps saves it less than one unit per
/// split and step, which no chain is cheap enough to make worth while.
///
/// Every event has as its first indexed argument the account whose state it tells, so that one filter
/// on it follows an account.
interface IEscrow {
    // ------------------------------------------------------------------------------------ types

    /// @notice A payer's promise: `payee` may have `cumulative` in all on this tab.
    /// @param model The model's id (sha256 of its manifest).
    /// @param splits The hash of the split list, keccak256("") for none.
    /// @param cumulative What the tab has earned since its first day; never less than before.
    /// @param receipts The Merkle root of the receipts that the payer accepted; opaque here.
    struct Voucher {
        address payer;
        address payee;
        bytes32 model;
        bytes32 splits;
        uint128 cumulative;
        bytes32 receipts;
    }

    /// @notice A payer's reservation of a part of its deposit for one payee.
    /// @param total What the lock holds afterwards; it replaces, it does not add.
    /// @param nonce Greater than the pair's last one ({lockOf}).
    /// @param expiry Unix seconds; from then on anyone may end the lock.
    struct Lock {
        address payer;
        address payee;
        uint128 total;
        uint64 nonce;
        uint64 expiry;
    }

    /// @notice A payee's consent to a smaller lock.
    /// @param total What the lock holds afterwards.
    /// @param nonce Greater than the pair's last one; locks and releases share the sequence.
    struct LockRelease {
        address payer;
        address payee;
        uint128 total;
        uint64 nonce;
    }

    /// @notice Why a voucher of a batch was skipped. A skipped voucher stays claimable.
    /// @param None Not skipped; never in an event.
    /// @param NothingOwed Its cumulative is not above what the tab was paid.
    /// @param Unfunded The payer has neither free funds nor a lock for this payee.
    /// @param BadSignature Signed neither by the payer nor by a signer of the payer.
    /// @param SignerExpired Signed by a signer of the payer whose authority has ended.
    /// @param SignerCapReached The signer's cap is used up.
    /// @param LockReserved The payer has a lock for this payee, the group has splits, and the caller
    /// is neither the payee nor a signer of it: see {redeem}.
    enum SkipReason {
        None,
        NothingOwed,
        Unfunded,
        BadSignature,
        SignerExpired,
        SignerCapReached,
        LockReserved
    }

    // ----------------------------------------------------------------------------------- events

    /// @notice `from` added `amount` to the free funds of `account`.
    event Deposited(address indexed account, address indexed from, uint256 amount);

    /// @notice `account` may exit from `readyAt` (unix seconds) on.
    event ExitRequested(address indexed account, uint64 readyAt);

    /// @notice `account` stays.
    event ExitCancelled(address indexed account);

    /// @notice `account` took out `amount`, free and locked; its locks and their unused signatures
    /// ended. `generation` counts its exits.
    event ExitCompleted(
        address indexed account, address indexed to, uint256 amount, uint32 generation
    );

    /// @notice The lock of `payer` for `payee` was set to this. Redemptions that draw on a lock are
    /// in `VoucherRedeemed.fromLock` instead.
    event LockUpdated(
        address indexed payer, address indexed payee, uint128 amount, uint64 nonce, uint64 expiry
    );

    /// @notice `signer` may sign for `account` until `expiry`, and take `cap` out of its free funds
    /// in its whole life.
    event SignerSet(address indexed account, address indexed signer, uint64 expiry, uint128 cap);

    /// @notice The authority of `signer` now ends at `expiry`.
    event SignerThawed(address indexed account, address indexed signer, uint64 expiry);

    /// @notice `amount` left the free funds of `account` on the word of `signer`: to a payee, or into
    /// a lock. `spent` is its total so far.
    event SignerSpent(
        address indexed account, address indexed signer, uint128 amount, uint128 spent
    );

    /// @notice A voucher was paid, before splits.
    /// @param amount Paid now; `fromLock` of it out of the lock, the rest out of free funds.
    /// @param paid The tab's total so far. Below the voucher's cumulative, the rest stays owed.
    /// @param receipts The receipts root of the voucher.
    event VoucherRedeemed(
        address indexed payer,
        address indexed payee,
        bytes32 indexed tab,
        uint128 amount,
        uint128 fromLock,
        uint128 paid,
        bytes32 receipts
    );

    /// @notice The record number `index` of the batch (from 0, over all groups) was skipped.
    event VoucherSkipped(
        address indexed payer, address indexed payee, uint256 index, SkipReason reason
    );

    /// @notice `account` was credited its part of what a group of vouchers paid `payee`.
    event Credited(address indexed account, address indexed payee, uint256 amount);

    /// @notice `account` had its whole credit paid out to `to`.
    event Claimed(address indexed account, address indexed to, uint256 amount);

    // ----------------------------------------------------------------------------------- errors

    /// @notice A constructor argument is out of its range.
    error Escrow_ConfigInvalid();
    /// @notice Money cannot go to this address.
    error Escrow_AddressInvalid(address account);
    /// @notice There is nothing to move.
    error Escrow_AmountZero();
    /// @notice The account may hold only `room` more.
    error Escrow_DepositCapExceeded(uint256 room);
    /// @notice The token moved another amount than asked (a fee on transfer, a rebase).
    error Escrow_TransferMismatch(uint256 expected, uint256 received);
    /// @notice The account has asked to exit.
    error Escrow_ExitPending(uint64 readyAt);
    /// @notice The account has not asked to exit.
    error Escrow_ExitNotRequested();
    /// @notice The exit has to wait.
    error Escrow_ExitNotReady(uint64 readyAt);
    /// @notice The statement is not signed by, or for, `account`.
    error Escrow_SignatureInvalid(address account);
    /// @notice The nonce must be greater than `current`.
    error Escrow_NonceStale(uint64 current);
    /// @notice The lock would be expired already.
    error Escrow_LockExpired(uint64 expiry);
    /// @notice The lock has not expired.
    error Escrow_LockNotExpired(uint64 expiry);
    /// @notice Only the payee may make a live lock smaller or shorter.
    error Escrow_LockWeakened(uint128 amount, uint64 expiry);
    /// @notice A release must lower the lock, which holds `amount`.
    error Escrow_LockNotLowered(uint128 amount);
    /// @notice There are only `free` free funds to lock.
    error Escrow_FreeFundsTooLow(uint256 free);
    /// @notice Of the signer's cap only this is left.
    error Escrow_SignerCapExceeded(uint256 left);
    /// @notice The caller is neither `account` nor a signer of it.
    error Escrow_NotAuthorised(address account);
    /// @notice The signer, its expiry or its cap is out of range.
    error Escrow_SignerInvalid();
    /// @notice A live signer's cap or expiry can be lowered only by {thawSigner}.
    error Escrow_SignerWeakened(uint64 expiry, uint128 cap);
    /// @notice The signer has no authority to thaw.
    error Escrow_SignerUnknown();
    /// @notice The batch's structure is wrong in the group that begins at `offset`.
    error Escrow_BatchMalformed(uint256 offset);
    /// @notice The payee or the splits of the group that begins at `offset` break the rules.
    error Escrow_SplitsInvalid(uint256 offset);
    /// @notice Too little gas is left for a full ERC-1271 check.
    error Escrow_GasTooLow();

    // ---------------------------------------------------------------------------------- deposit

    /// @notice Moves `amount` of the token from the caller to the free funds of `account`.
    /// Refused while an exit is pending: else an account could ask to exit while empty, wait, and
    /// then take work with an exit at hand.
    /// @dev Errors: AddressInvalid, AmountZero, ExitPending, DepositCapExceeded, TransferMismatch,
    /// and the token's own.
    function deposit(address account, uint256 amount) external;

    /// @notice {deposit} with an ERC-2612 permit by the caller. A permit that fails is ignored, since
    /// anybody can use it up first: then the allowance is there already.
    function depositWithPermit(
        address account,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    // ------------------------------------------------------------------------------------- exit

    /// @notice Starts the caller's exit delay. Vouchers go on being paid meanwhile, and after it until
    /// the exit is done. An exit that is due stays due: whoever serves an account with one pending may
    /// find it empty a block later.
    /// @dev Errors: ExitPending.
    function requestExit() external;

    /// @notice Ends the caller's exit without taking anything out.
    /// @dev Errors: ExitNotRequested.
    function cancelExit() external;

    /// @notice Pays all of the caller's funds, free and locked, to `to`, and ends its locks. A lock or
    /// release signed before, with a nonce in sequence, can never be submitted afterwards. Tabs and
    /// signers stay: what vouchers are still owed can be collected from a later deposit.
    /// @dev Errors: AddressInvalid, ExitNotRequested, ExitNotReady.
    function exit(address to) external;

    // ------------------------------------------------------------------------------------ locks

    /// @notice Sets a lock to `lock.total`, as its payer signed; the difference moves between free
    /// and locked funds. Anyone may submit what keeps or strengthens a lock. A smaller total, or an
    /// earlier expiry, of a lock that is live and not empty takes effect only when the payee or
    /// a signer of it sends it. What a signer of the payer adds to a lock counts against its cap.
    /// @dev Errors: LockExpired, NonceStale, LockWeakened, SignatureInvalid, SignerCapExceeded,
    /// FreeFundsTooLow, GasTooLow.
    function submitLock(Lock calldata lock, bytes calldata signature) external;

    /// @notice Lowers the lock of `payer` for `payee`, the caller, to `total`.
    /// @dev Errors: LockNotLowered.
    function lowerLock(address payer, uint128 total) external;

    /// @notice Lowers a lock as its payee signed. Anyone may submit it.
    /// @dev Errors: NonceStale, SignatureInvalid, LockNotLowered, GasTooLow.
    function submitLockRelease(LockRelease calldata release, bytes calldata signature) external;

    /// @notice Frees what is in a lock that has expired. Until somebody calls it, it still pays its
    /// payee. Anyone may call.
    /// @dev Errors: AmountZero (no lock), LockNotExpired.
    function expireLock(address payer, address payee) external;

    // ---------------------------------------------------------------------------------- signers

    /// @notice Lets `signer` sign vouchers, locks and releases for the caller until `expiry`, and act
    /// for it as a payee. `cap` limits what it may move out of free funds over its whole life, to
    /// payees or into locks; neither what it has spent nor what a lock gives back is reset. What is
    /// in a lock already it may spend on that lock's payee without limit: else a payer could use the
    /// cap up elsewhere, and void the lock. While the signer is live expiry and cap may only rise,
    /// since payees rely on them.
    /// @param cap At most type(uint96).max.
    /// @dev Errors: SignerInvalid, SignerWeakened.
    function setSigner(address signer, uint64 expiry, uint128 cap) external;

    /// @notice Ends the authority of the caller's `signer` after EXIT_DELAY, or at its expiry if that
    /// is earlier: the time that payees need to redeem what it signed.
    /// @dev Errors: SignerUnknown.
    function thawSigner(address signer) external;

    // ----------------------------------------------------------------------------------- redeem

    /// @notice Pays the vouchers of a packed batch (format above) into credits. Anyone may call.
    ///
    /// What depends on the bytes alone reverts: wrong lengths, invalid splits. What depends on a
    /// payer or on the chain's state never does: such a voucher is skipped, with an event. A voucher
    /// that cannot be paid in full is paid in part, and the rest stays owed under the same voucher.
    ///
    /// Where the payer has a lock for the payee, a group with splits is paid only to a caller that is
    /// the payee or a signer of it. Otherwise a payer could sign, and redeem, a voucher on splits that
    /// the payee never agreed to, and pass half of the lock to itself.
    /// @return amount What was paid in all.
    /// @return skipped How many records were skipped.
    /// @dev Errors: BatchMalformed, SplitsInvalid, GasTooLow.
    function redeem(bytes calldata batch) external returns (uint256 amount, uint256 skipped);

    /// @notice Pays the caller's whole credit to `to`.
    /// @dev Errors: AddressInvalid, AmountZero.
    function claim(address to) external;

    // ------------------------------------------------------------------------------------ views

    /// @notice The token that everything is paid in.
    function token() external view returns (address);

    /// @notice Seconds between the request of an exit and the exit, and between thaw and end of
    /// a signer. Longer than the longest redemption may take.
    // forge-lint: disable-next-line(mixed-case-function)
    function EXIT_DELAY() external view returns (uint64);

    /// @notice The most that an account may hold, free and locked, after a deposit.
    // forge-lint: disable-next-line(mixed-case-function)
    function DEPOSIT_CAP() external view returns (uint128);

    /// @notice An account's funds, and from when it may exit (unix seconds; 0 with no exit pending).
    function accounts(address account)
        external
        view
        returns (uint256 free, uint256 locked, uint64 exitReadyAt);

    /// @notice The lock of `payer` for `payee`. The next lock or release takes `nonce + 1`: the upper
    /// 32 bits of the least nonce count the payer's exits, so that older signatures end with them.
    function lockOf(address payer, address payee)
        external
        view
        returns (uint128 amount, uint64 nonce, uint64 expiry);

    /// @notice What `account` has authorised `signer` to. Valid while the time is below `expiry`.
    function signers(address account, address signer)
        external
        view
        returns (uint64 expiry, uint128 cap, uint128 spent);

    /// @notice What a tab was paid so far.
    function tabPaid(bytes32 tab) external view returns (uint256);

    /// @notice What `account` may claim.
    function credits(address account) external view returns (uint256);

    /// @notice The EIP-712 domain separator, for the chain id of now.
    function domainSeparator() external view returns (bytes32);

    /// @notice The id of a tab.
    function tabOf(address payer, address payee, bytes32 model, bytes32 splits)
        external
        pure
        returns (bytes32);

    /// @notice The EIP-712 digest of a voucher.
    function hashVoucher(Voucher calldata voucher) external view returns (bytes32);

    /// @notice The EIP-712 digest of a lock.
    function hashLock(Lock calldata lock) external view returns (bytes32);

    /// @notice The EIP-712 digest of a lock release.
    function hashLockRelease(LockRelease calldata release) external view returns (bytes32);
}
