// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestToken} from "../../src/TestToken.sol";
import {IEscrow} from "../../src/interfaces/IEscrow.sol";
import {Statements} from "../support/Statements.sol";
import {Vm} from "../support/Vm.sol";
import {OwnedWallet} from "../support/Wallets.sol";

/// @notice The parties of a small market, and what an onlooker knows of it: who signed what, and
/// what came in and went out. {Handler} acts on it, and the invariants look at it.
abstract contract Market {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 public constant PAYERS = 3;
    uint256 public constant PAYEES = 2;
    /// @dev The last payer and the last payee are accounts with code; their owners' keys sign.
    uint256 internal constant WALLET = PAYERS - 1;
    uint256 public constant TABS_PER_PAIR = 3;
    uint256 public constant TABS = PAYERS * PAYEES * TABS_PER_PAIR;
    uint256 internal constant PAYER_KEYS = 0x1000;
    uint256 internal constant PAYEE_KEYS = 0x2000;
    uint256 internal constant SIGNER_KEYS = 0x3000;
    bytes32 internal constant MODEL = keccak256("model");
    bytes32 internal constant OTHER_MODEL = keccak256("other model");
    uint256 internal constant DEPOSIT_MAX = 10_000;
    /// @dev Where everybody has paid out what they take out.
    address public constant EXITS = address(0xE);
    address public constant CLAIMS = address(0xF);

    IEscrow public immutable escrow;
    TestToken public immutable token;
    bytes32 internal immutable SEPARATOR;

    /// @dev forge forgets a warp between two calls.
    uint256 public clock = block.timestamp;
    mapping(uint256 payer => uint256 amount) public deposited;
    mapping(uint256 payer => uint256 amount) public exited;
    mapping(uint256 payer => uint256 time) public exitAskedAt;
    mapping(address account => uint256 amount) public claimed;
    mapping(address account => uint256 amount) public credited;
    mapping(bytes32 tab => uint256 cumulative) public signedMost;

    // Kept: deriving an address from a key is the slowest thing here.
    address[] private payers;
    address[] private payees;
    address[] private signers;
    bytes32[] private tabs;

    constructor(IEscrow escrow_) {
        escrow = escrow_;
        for (uint256 i = 0; i < PAYERS; ++i) {
            payers.push(i == WALLET ? walletOf(PAYER_KEYS + i) : vm.addr(PAYER_KEYS + i));
        }
        for (uint256 i = 0; i < PAYEES; ++i) {
            payees.push(i == PAYEES - 1 ? walletOf(PAYEE_KEYS + i) : vm.addr(PAYEE_KEYS + i));
        }
        for (uint256 i = 0; i < PAYERS + PAYEES; ++i) {
            signers.push(vm.addr(SIGNER_KEYS + i));
        }
        for (uint256 i = 0; i < TABS; ++i) {
            uint256 kind = i % TABS_PER_PAIR;
            address payer_ = payers[i / TABS_PER_PAIR / PAYEES];
            address payee_ = payees[(i / TABS_PER_PAIR) % PAYEES];
            bytes32 splits = keccak256(packedSplits(kind));
            tabs.push(keccak256(abi.encode(payer_, payee_, model(kind), splits)));
        }
        token = TestToken(escrow_.token());
        SEPARATOR = Statements.domain(block.chainid, address(escrow_));
    }

    function walletOf(uint256 key) private returns (address) {
        return address(new OwnedWallet(vm.addr(key)));
    }

    modifier atItsTime() {
        vm.warp(clock);
        _;
    }

    // --------------------------------------------------------------------------------- parties

    function payer(uint256 i) public view returns (address) {
        return payers[i];
    }

    function payee(uint256 i) public view returns (address) {
        return payees[i];
    }

    /// @notice Payers first, then payees.
    function party(uint256 i) public view returns (address) {
        return i < PAYERS ? payers[i] : payees[i - PAYERS];
    }

    /// @notice The hot key of a party.
    function signer(uint256 i) public view returns (address) {
        return signers[i];
    }

    function curator() public pure returns (address) {
        return address(0xC1);
    }

    /// @notice A payee of the others too: payees may be in each other's splits, and payers may be
    /// credited.
    function treasury() public view returns (address) {
        return payer(0);
    }

    /// @notice Everybody who can have credit.
    function creditor(uint256 i) public view returns (address) {
        if (i < PAYEES) return payee(i);
        return i == PAYEES ? curator() : treasury();
    }

    function creditors() public pure returns (uint256) {
        return PAYEES + 2;
    }

    function creditsTotal() public view returns (uint256 total) {
        for (uint256 i = 0; i < creditors(); ++i) {
            total += escrow.credits(creditor(i));
        }
    }

    /// @notice Tab 0 and 1 have no splits and different models; tab 2 has two splits.
    function packedSplits(uint256 kind) public view returns (bytes memory) {
        if (kind != 2) return "";
        (address low, address high) =
            curator() < treasury() ? (curator(), treasury()) : (treasury(), curator());
        return abi.encodePacked(low, uint16(700), high, uint16(4300));
    }

    function model(uint256 kind) public pure returns (bytes32) {
        return kind == 1 ? OTHER_MODEL : MODEL;
    }

    function tabAt(uint256 i) public view returns (bytes32) {
        return tabs[i];
    }

    function tabId(uint256 payer_, uint256 payee_, uint256 kind) internal view returns (bytes32) {
        return tabs[(payer_ * PAYEES + payee_) * TABS_PER_PAIR + kind];
    }

    // ---------------------------------------------------------------------------------- shorthand

    function free(uint256 i) internal view returns (uint256 amount) {
        (amount,,) = escrow.accounts(payer(i));
    }

    function exitReadyAt(uint256 i) internal view returns (uint64 readyAt) {
        (,, readyAt) = escrow.accounts(payer(i));
    }

    function signerLive(uint256 i) internal view returns (bool) {
        (uint64 expiry,,) = escrow.signers(party(i), signer(i));
        return expiry > block.timestamp;
    }

    function signerCapLeft(uint256 i) internal view returns (uint256) {
        (, uint128 cap, uint128 spent) = escrow.signers(payer(i), signer(i));
        return spent < cap ? cap - spent : 0;
    }

    /// @dev Whether what the payer's own key signs counts now.
    function keyCounts(uint256 i) internal view returns (bool) {
        return i != WALLET || !OwnedWallet(payer(i)).off();
    }

    function bound(uint256 value, uint256 least, uint256 most) internal pure returns (uint256) {
        return least + value % (most - least + 1);
    }

    function min(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }
}
