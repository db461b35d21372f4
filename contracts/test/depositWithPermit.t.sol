// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {OldToken} from "./support/Tokens.sol";

contract DepositWithPermitTest is EscrowTest {
    uint256 private constant AMOUNT = 1000;
    uint256 private constant DEADLINE = START + 1 hours;

    uint8 private v;
    bytes32 private r;
    bytes32 private s;

    function setUp() public override {
        super.setUp();
        token.mint(payer, AMOUNT);
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                ),
                payer,
                address(escrow),
                AMOUNT,
                0,
                DEADLINE
            )
        );
        bytes32 digest =
            keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        (v, r, s) = vm.sign(PAYER_KEY, digest);
    }

    function test_Deposits() public {
        vm.expectEmit(address(escrow));
        emit IEscrow.Deposited(stranger, payer, AMOUNT);
        vm.prank(payer);
        escrow.depositWithPermit(stranger, AMOUNT, DEADLINE, v, r, s);
        assertAccount(stranger, AMOUNT, 0);
        vm.assertEq(token.balanceOf(payer), 0);
    }

    function test_Deposits_WhenThePermitWasUsedUpFirst() public {
        vm.prank(stranger);
        token.permit(payer, address(escrow), AMOUNT, DEADLINE, v, r, s);
        vm.prank(payer);
        escrow.depositWithPermit(payer, AMOUNT, DEADLINE, v, r, s);
        assertAccount(payer, AMOUNT, 0);
    }

    function test_RevertWhen_ThePermitIsAnothers() public {
        token.mint(stranger, AMOUNT);
        vm.prank(stranger);
        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientAllowance(address,uint256,uint256)", address(escrow), 0, AMOUNT
            )
        );
        escrow.depositWithPermit(stranger, AMOUNT, DEADLINE, v, r, s);
    }

    function test_Deposits_WhenTheTokenKnowsNoPermit() public {
        OldToken old = new OldToken();
        escrow = deploy(address(old), EXIT_DELAY, DEPOSIT_CAP);
        old.mint(payer, AMOUNT);
        vm.prank(payer);
        escrow.depositWithPermit(payer, AMOUNT, DEADLINE, v, r, s);
        assertAccount(payer, AMOUNT, 0);
    }

    function test_RevertWhen_ExitPending() public {
        vm.startPrank(payer);
        escrow.requestExit();
        expectError(IEscrow.Escrow_ExitPending.selector, START + EXIT_DELAY);
        escrow.depositWithPermit(payer, AMOUNT, DEADLINE, v, r, s);
    }
}
