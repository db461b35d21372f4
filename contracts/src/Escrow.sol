// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IEscrow} from "./interfaces/IEscrow.sol";
import {Signatures} from "./Signatures.sol";
import {VoucherBatch} from "./VoucherBatch.sol";

/// @title The escrow of the GPU market
contract Escrow is IEscrow, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @dev `free` and `locked` together never exceed DEPOSIT_CAP, which fits a uint88.
    /// `generation` counts exits: a lock of an earlier generation holds nothing.
    struct Account {
        uint88 free;
        uint88 locked;
        uint48 exitReadyAt;
        uint32 generation;
    }

    struct LockState {
        uint96 amount;
        uint64 nonce;
        uint64 expiry;
        uint32 generation;
    }

    struct Signer {
        uint96 cap;
        uint96 spent;
        uint64 expiry;
    }

    /// @dev Below a minute not even a devnet's redemption (a block, a finality depth, a fee bump) is
    /// sure to land. Where money is real, a day is short.
    uint256 private constant EXIT_DELAY_MIN = 1 minutes;

    /// @dev Above a month a slip of the deployer would hold everybody's money.
    uint256 private constant EXIT_DELAY_MAX = 30 days;

    bytes32 private constant LOCK_TYPEHASH =
        keccak256("Lock(address payer,address payee,uint128 total,uint64 nonce,uint64 expiry)");
    bytes32 private constant LOCK_RELEASE_TYPEHASH =
        keccak256("LockRelease(address payer,address payee,uint128 total,uint64 nonce)");

    IERC20 private immutable TOKEN;
    /// @inheritdoc IEscrow
    uint64 public immutable EXIT_DELAY;
    /// @inheritdoc IEscrow
    uint128 public immutable DEPOSIT_CAP;

    /// @inheritdoc IEscrow
    mapping(bytes32 tab => uint256 paid) public tabPaid;
    /// @inheritdoc IEscrow
    mapping(address account => uint256 amount) public credits;

    mapping(address account => Account) private _accounts;
    mapping(address payer => mapping(address payee => LockState)) private _locks;
    // Slither doesn't follow writes through a storage pointer: setSigner fills it.
    // slither-disable-next-line uninitialized-state
    mapping(address account => mapping(address signer => Signer)) private _signers;

    /// @param token_ The token that everything is paid in: an ERC-20 without fees or rebases.
    /// @param exitDelay In seconds, from 1 minute to 30 days.
    /// @param depositCap The most that an account may hold, in micro.
    constructor(address token_, uint64 exitDelay, uint128 depositCap) EIP712("GPU Market", "1") {
        if (token_.code.length == 0) revert Escrow_ConfigInvalid();
        if (exitDelay < EXIT_DELAY_MIN || exitDelay > EXIT_DELAY_MAX) {
            revert Escrow_ConfigInvalid();
        }
        if (depositCap == 0 || depositCap > type(uint88).max) revert Escrow_ConfigInvalid();
        TOKEN = IERC20(token_);
        EXIT_DELAY = exitDelay;
        DEPOSIT_CAP = depositCap;
    }

    // ---------------------------------------------------------------------------------- deposit

    /// @inheritdoc IEscrow
    function deposit(address account, uint256 amount) external nonReentrant {
        _deposit(account, amount);
    }

    /// @inheritdoc IEscrow
    function depositWithPermit(
        address account,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        try IERC20Permit(address(TOKEN))
            .permit(msg.sender, address(this), amount, deadline, v, r, s) {}
            catch {}
        _deposit(account, amount);
    }

    function _deposit(address account, uint256 amount) private {
        if (account == address(0)) revert Escrow_AddressInvalid(account);
        if (amount == 0) revert Escrow_AmountZero();
        Account storage holder = _accounts[account];
        if (holder.exitReadyAt != 0) revert Escrow_ExitPending(holder.exitReadyAt);
        uint256 room = DEPOSIT_CAP - holder.free - holder.locked;
        if (amount > room) revert Escrow_DepositCapExceeded(room);

        // forge-lint: disable-next-line(unsafe-typecast) no more than DEPOSIT_CAP
        holder.free += uint88(amount);
        emit Deposited(account, msg.sender, amount);

        uint256 balanceBefore = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - balanceBefore;
        if (received != amount) revert Escrow_TransferMismatch(amount, received);
    }

    // ------------------------------------------------------------------------------------- exit

    /// @inheritdoc IEscrow
    function requestExit() external nonReentrant {
        Account storage holder = _accounts[msg.sender];
        if (holder.exitReadyAt != 0) revert Escrow_ExitPending(holder.exitReadyAt);
        // forge-lint: disable-next-line(unsafe-typecast) good for 8.9 million years
        uint48 readyAt = uint48(block.timestamp + EXIT_DELAY);
        holder.exitReadyAt = readyAt;
        emit ExitRequested(msg.sender, readyAt);
    }

    /// @inheritdoc IEscrow
    function cancelExit() external nonReentrant {
        Account storage holder = _accounts[msg.sender];
        if (holder.exitReadyAt == 0) revert Escrow_ExitNotRequested();
        holder.exitReadyAt = 0;
        emit ExitCancelled(msg.sender);
    }

    /// @inheritdoc IEscrow
    function exit(address to) external nonReentrant {
        _requireRecipient(to);
        Account memory holder = _accounts[msg.sender];
        if (holder.exitReadyAt == 0) revert Escrow_ExitNotRequested();
        if (block.timestamp < holder.exitReadyAt) revert Escrow_ExitNotReady(holder.exitReadyAt);
        uint256 amount = uint256(holder.free) + holder.locked;
        uint32 generation = holder.generation + 1;

        _accounts[msg.sender] =
            Account({free: 0, locked: 0, exitReadyAt: 0, generation: generation});
        emit ExitCompleted(msg.sender, to, amount, generation);

        // Vouchers may have taken everything: the exit still ends the locks.
        if (amount != 0) TOKEN.safeTransfer(to, amount);
    }

    // ------------------------------------------------------------------------------------ locks

    /// @inheritdoc IEscrow
    function submitLock(Lock calldata lock, bytes calldata signature) external nonReentrant {
        if (lock.expiry <= block.timestamp) revert Escrow_LockExpired(lock.expiry);
        (uint128 amount, uint64 nonce, uint64 expiry) = lockOf(lock.payer, lock.payee);
        if (lock.nonce <= nonce) revert Escrow_NonceStale(nonce);
        if (
            amount != 0 && expiry > block.timestamp && (lock.total < amount || lock.expiry < expiry)
                && !_actsFor(lock.payee)
        ) revert Escrow_LockWeakened(amount, expiry);
        address signer = _requireSignature(lock.payer, hashLock(lock), signature);
        if (signer != lock.payer && lock.total > amount) {
            uint256 left = _capLeft(lock.payer, signer);
            if (lock.total - amount > left) revert Escrow_SignerCapExceeded(left);
            _countSpent(lock.payer, signer, lock.total - amount);
        }
        _setLock(lock.payer, lock.payee, lock.total, lock.nonce, lock.expiry);
    }

    /// @inheritdoc IEscrow
    function lowerLock(address payer, uint128 total) external nonReentrant {
        (uint128 amount, uint64 nonce, uint64 expiry) = lockOf(payer, msg.sender);
        if (total >= amount) revert Escrow_LockNotLowered(amount);
        _setLock(payer, msg.sender, total, nonce, expiry);
    }

    /// @inheritdoc IEscrow
    function submitLockRelease(LockRelease calldata release, bytes calldata signature)
        external
        nonReentrant
    {
        (uint128 amount, uint64 nonce, uint64 expiry) = lockOf(release.payer, release.payee);
        if (release.nonce <= nonce) revert Escrow_NonceStale(nonce);
        _requireSignature(release.payee, hashLockRelease(release), signature);
        if (release.total >= amount) revert Escrow_LockNotLowered(amount);
        _setLock(release.payer, release.payee, release.total, release.nonce, expiry);
    }

    /// @inheritdoc IEscrow
    function expireLock(address payer, address payee) external nonReentrant {
        (uint128 amount, uint64 nonce, uint64 expiry) = lockOf(payer, payee);
        if (amount == 0) revert Escrow_AmountZero();
        if (block.timestamp < expiry) revert Escrow_LockNotExpired(expiry);
        _setLock(payer, payee, 0, nonce, expiry);
    }

    /// @dev Moves the difference to the lock's present amount between free and locked funds.
    function _setLock(address payer, address payee, uint128 total, uint64 nonce, uint64 expiry)
        private
    {
        Account storage holder = _accounts[payer];
        LockState storage state = _locks[payer][payee];
        uint256 amount = _lockedFor(payer, payee);
        uint256 reach = holder.free + amount;
        if (total > reach) revert Escrow_FreeFundsTooLow(holder.free);

        // forge-lint: disable-start(unsafe-typecast) all within free + locked, thus DEPOSIT_CAP
        holder.free = uint88(reach - total);
        holder.locked = uint88(holder.locked - amount + total);
        state.amount = uint96(total);
        // forge-lint: disable-end(unsafe-typecast)
        state.nonce = nonce;
        state.expiry = expiry;
        state.generation = holder.generation;
        emit LockUpdated(payer, payee, total, nonce, expiry);
    }

    // ---------------------------------------------------------------------------------- signers

    /// @inheritdoc IEscrow
    function setSigner(address signer, uint64 expiry, uint128 cap) external nonReentrant {
        if (signer == address(0) || expiry <= block.timestamp || cap > type(uint96).max) {
            revert Escrow_SignerInvalid();
        }
        Signer storage state = _signers[msg.sender][signer];
        if (state.expiry > block.timestamp && (expiry < state.expiry || cap < state.cap)) {
            revert Escrow_SignerWeakened(state.expiry, state.cap);
        }
        state.expiry = expiry;
        // forge-lint: disable-next-line(unsafe-typecast) checked above
        state.cap = uint96(cap);
        emit SignerSet(msg.sender, signer, expiry, cap);
    }

    /// @inheritdoc IEscrow
    function thawSigner(address signer) external nonReentrant {
        Signer storage state = _signers[msg.sender][signer];
        if (state.expiry <= block.timestamp) revert Escrow_SignerUnknown();
        uint64 end = uint64(block.timestamp) + EXIT_DELAY;
        if (end > state.expiry) end = state.expiry;
        state.expiry = end;
        emit SignerThawed(msg.sender, signer, end);
    }

    // ----------------------------------------------------------------------------------- redeem

    /// @inheritdoc IEscrow
    function redeem(bytes calldata batch)
        external
        nonReentrant
        returns (uint256 amount, uint256 skipped)
    {
        bytes32 domain = _domainSeparatorV4();
        // One zeroed buffer, which readRecord fills for each record before it is looked at.
        // slither-disable-next-line uninitialized-local
        VoucherBatch.Record memory record;
        uint256 index = 0;
        uint256 offset = 0;
        do {
            VoucherBatch.Group memory group = VoucherBatch.openGroup(batch, offset);
            bool drawsLocks = group.splitsAt == group.recordsAt || _actsFor(group.payee);
            uint256 total = 0;
            for (offset = group.recordsAt; offset < group.end; offset += VoucherBatch.RECORD_BYTES) {
                VoucherBatch.readRecord(batch, offset, group, record);
                (uint256 paid, SkipReason reason) = _redeem(domain, group, record, drawsLocks);
                if (reason != SkipReason.None) {
                    emit VoucherSkipped(record.payer, group.payee, index, reason);
                    ++skipped;
                }
                total += paid;
                ++index;
            }
            if (total != 0) _creditSplits(batch, group, total);
            amount += total;
        } while (offset < batch.length);
    }

    /// @dev Pays what can be paid of one voucher; a reason other than None means nothing was.
    function _redeem(
        bytes32 domain,
        VoucherBatch.Group memory group,
        VoucherBatch.Record memory record,
        bool drawsLocks
    ) private returns (uint256 amount, SkipReason reason) {
        bytes32 tab = VoucherBatch.tab(group);
        uint256 paid = tabPaid[tab];
        if (record.cumulative <= paid) return (0, SkipReason.NothingOwed);
        Account storage holder = _accounts[record.payer];
        // An account that locked nothing has no lock to look up.
        uint256 fromLock = holder.locked == 0 ? 0 : _lockedFor(record.payer, group.payee);
        if (fromLock != 0 && !drawsLocks) return (0, SkipReason.LockReserved);
        fromLock = _min(record.cumulative - paid, fromLock);
        uint256 fromFree = _min(record.cumulative - paid - fromLock, holder.free);
        if (fromLock + fromFree == 0) return (0, SkipReason.Unfunded);
        bytes32 digest = MessageHashUtils.toTypedDataHash(domain, VoucherBatch.structHash(group));
        (fromFree, reason) = _authorise(record, digest, fromLock, fromFree);
        if (reason != SkipReason.None) return (0, reason);

        amount = fromLock + fromFree;
        tabPaid[tab] = paid + amount;
        _draw(group, record, tab, fromLock, fromFree);
    }

    /// @dev Checks a voucher's signature, and lowers `fromFree` to what a signer may still take.
    function _authorise(
        VoucherBatch.Record memory record,
        bytes32 digest,
        uint256 fromLock,
        uint256 fromFree
    ) private returns (uint256, SkipReason) {
        (address signer, SkipReason reason) = _signerOf(record.payer, digest, record.r, record.vs);
        if (reason != SkipReason.None || signer == record.payer || fromFree == 0) {
            return (fromFree, reason);
        }
        fromFree = _min(fromFree, _capLeft(record.payer, signer));
        if (fromLock + fromFree == 0) return (0, SkipReason.SignerCapReached);
        _countSpent(record.payer, signer, fromFree);
        return (fromFree, SkipReason.None);
    }

    /// @dev Takes a payment, which the tab has been told of, out of the payer's funds.
    function _draw(
        VoucherBatch.Group memory group,
        VoucherBatch.Record memory record,
        bytes32 tab,
        uint256 fromLock,
        uint256 fromFree
    ) private {
        Account storage holder = _accounts[record.payer];
        // forge-lint: disable-start(unsafe-typecast) what is drawn is there, and in a deposit
        if (fromLock != 0) {
            holder.locked -= uint88(fromLock);
            _locks[record.payer][group.payee].amount -= uint96(fromLock);
        }
        if (fromFree != 0) holder.free -= uint88(fromFree);
        emit VoucherRedeemed(
            record.payer,
            group.payee,
            tab,
            uint128(fromLock + fromFree),
            uint128(fromLock),
            uint128(tabPaid[tab]),
            record.receipts
        );
        // forge-lint: disable-end(unsafe-typecast)
    }

    /// @dev Each split is rounded down; the payee has the rest.
    function _creditSplits(bytes calldata batch, VoucherBatch.Group memory group, uint256 total)
        private
    {
        uint256 rest = total;
        for (
            uint256 offset = group.splitsAt;
            offset < group.recordsAt;
            offset += VoucherBatch.SPLIT_BYTES
        ) {
            (address account, uint256 bps) = VoucherBatch.splitAt(batch, offset);
            uint256 share = (total * bps) / VoucherBatch.BPS;
            if (share != 0) {
                rest -= share;
                _credit(account, group.payee, share);
            }
        }
        _credit(group.payee, group.payee, rest);
    }

    function _credit(address account, address payee, uint256 amount) private {
        credits[account] += amount;
        emit Credited(account, payee, amount);
    }

    /// @inheritdoc IEscrow
    function claim(address to) external nonReentrant {
        _requireRecipient(to);
        uint256 amount = credits[msg.sender];
        if (amount == 0) revert Escrow_AmountZero();

        credits[msg.sender] = 0;
        emit Claimed(msg.sender, to, amount);

        TOKEN.safeTransfer(to, amount);
    }

    // ------------------------------------------------------------------------------------ views

    /// @inheritdoc IEscrow
    function token() external view returns (address) {
        return address(TOKEN);
    }

    /// @inheritdoc IEscrow
    function accounts(address account)
        external
        view
        returns (uint256 free, uint256 locked, uint64 exitReadyAt)
    {
        Account storage holder = _accounts[account];
        return (holder.free, holder.locked, holder.exitReadyAt);
    }

    /// @inheritdoc IEscrow
    function lockOf(address payer, address payee)
        public
        view
        returns (uint128 amount, uint64 nonce, uint64 expiry)
    {
        LockState storage state = _locks[payer][payee];
        uint32 generation = _accounts[payer].generation;
        if (state.generation == generation) {
            amount = state.amount;
            expiry = state.expiry;
        }
        uint64 least = uint64(generation) << 32;
        nonce = state.nonce > least ? state.nonce : least;
    }

    /// @inheritdoc IEscrow
    function signers(address account, address signer)
        external
        view
        returns (uint64 expiry, uint128 cap, uint128 spent)
    {
        Signer storage state = _signers[account][signer];
        return (state.expiry, state.cap, state.spent);
    }

    /// @inheritdoc IEscrow
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IEscrow
    function tabOf(address payer, address payee, bytes32 model, bytes32 splits)
        public
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(payer, payee, model, splits));
    }

    /// @inheritdoc IEscrow
    function hashVoucher(Voucher calldata voucher) external view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VoucherBatch.VOUCHER_TYPEHASH, voucher)));
    }

    /// @inheritdoc IEscrow
    function hashLock(Lock calldata lock) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(LOCK_TYPEHASH, lock)));
    }

    /// @inheritdoc IEscrow
    function hashLockRelease(LockRelease calldata release) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(LOCK_RELEASE_TYPEHASH, release)));
    }

    // ------------------------------------------------------------------------------- signatures

    /// @dev Who signed for `account`: itself, or a live signer of it. ECDSA first: an account that
    /// gains code later (EIP-7702) cannot void what its key signed.
    function _signerOf(address account, bytes32 digest, bytes32 r, bytes32 vs)
        private
        view
        returns (address, SkipReason)
    {
        address signer = Signatures.recover(digest, r, vs);
        // A signature that recovers to nobody is not the zero address's.
        if (signer == account && signer != address(0)) return (account, SkipReason.None);
        // setSigner refuses zero, so that nobody is nobody's signer.
        uint64 expiry = _signers[account][signer].expiry;
        if (expiry > block.timestamp) return (signer, SkipReason.None);
        if (Signatures.isValidERC1271(account, digest, r, vs)) return (account, SkipReason.None);
        return (address(0), expiry == 0 ? SkipReason.BadSignature : SkipReason.SignerExpired);
    }

    function _requireSignature(address account, bytes32 digest, bytes calldata signature)
        private
        view
        returns (address signer)
    {
        if (signature.length != 64) revert Escrow_SignatureInvalid(account);
        SkipReason reason;
        (signer, reason) =
            _signerOf(account, digest, bytes32(signature[:32]), bytes32(signature[32:]));
        if (reason != SkipReason.None) revert Escrow_SignatureInvalid(account);
    }

    // ------------------------------------------------------------------------------------ parts

    /// @dev Whether the caller is `account`, or a live signer of it.
    function _actsFor(address account) private view returns (bool) {
        return msg.sender == account || _signers[account][msg.sender].expiry > block.timestamp;
    }

    function _capLeft(address account, address signer) private view returns (uint256) {
        Signer storage state = _signers[account][signer];
        return state.spent < state.cap ? state.cap - state.spent : 0;
    }

    /// @dev Counts what left the free funds by the hand of `signer`: to a payee, or into a lock.
    function _countSpent(address account, address signer, uint256 amount) private {
        if (amount == 0) return;
        Signer storage state = _signers[account][signer];
        // forge-lint: disable-start(unsafe-typecast) no more than is left of the cap
        state.spent += uint96(amount);
        emit SignerSpent(account, signer, uint128(amount), state.spent);
        // forge-lint: disable-end(unsafe-typecast)
    }

    /// @dev What the lock of `payer` holds for `payee`; nothing, if an exit ended it.
    function _lockedFor(address payer, address payee) private view returns (uint256) {
        LockState storage state = _locks[payer][payee];
        return state.generation == _accounts[payer].generation ? state.amount : 0;
    }

    /// @dev What is paid to the escrow itself would belong to nobody.
    function _requireRecipient(address to) private view {
        if (to == address(0) || to == address(this)) revert Escrow_AddressInvalid(to);
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}
