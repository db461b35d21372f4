// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {HookToken} from "./support/Tokens.sol";

contract ReentranceTest is EscrowTest {
    HookToken private hooked;

    function setUp() public override {
        super.setUp();
        hooked = new HookToken();
        escrow = deploy(address(hooked), EXIT_DELAY, DEPOSIT_CAP);
        hooked.mint(address(this), 1000);
        hooked.approve(address(escrow), 1000);
        escrow.deposit(payer, 500);
        redeemOne(voucher(100), PAYER_KEY);
    }

    function assertStopped(bytes memory data) private {
        hooked.setHook(address(escrow), data);
        escrow.deposit(payer, 1);
        vm.assertTrue(hooked.blocked());
    }

    function test_NothingCanBeEntered() public {
        bytes memory signature = new bytes(64);
        bytes32 zero;
        assertStopped(abi.encodeCall(IEscrow.deposit, (payer, 1)));
        assertStopped(abi.encodeCall(IEscrow.depositWithPermit, (payer, 1, START, 27, zero, zero)));
        assertStopped(abi.encodeCall(IEscrow.requestExit, ()));
        assertStopped(abi.encodeCall(IEscrow.cancelExit, ()));
        assertStopped(abi.encodeCall(IEscrow.exit, (payer)));
        assertStopped(abi.encodeCall(IEscrow.submitLock, (lock(1, 1), signature)));
        assertStopped(abi.encodeCall(IEscrow.lowerLock, (payer, 0)));
        assertStopped(abi.encodeCall(IEscrow.submitLockRelease, (release(1, 1), signature)));
        assertStopped(abi.encodeCall(IEscrow.expireLock, (payer, payee)));
        assertStopped(abi.encodeCall(IEscrow.setSigner, (signer, START + 1, 1)));
        assertStopped(abi.encodeCall(IEscrow.thawSigner, (signer)));
        assertStopped(abi.encodeCall(IEscrow.redeem, (plain(record(voucher(200), PAYER_KEY)))));
        assertStopped(abi.encodeCall(IEscrow.claim, (payee)));
    }

    function test_NeitherOnTheWayOut() public {
        bytes memory batch = plain(record(voucher(200), PAYER_KEY));
        hooked.setHook(address(escrow), abi.encodeCall(IEscrow.redeem, (batch)));
        vm.prank(payee);
        escrow.claim(payee);
        vm.assertTrue(hooked.blocked());
        hooked.setHook(address(escrow), abi.encodeCall(IEscrow.redeem, (batch)));
        exitNow();
        vm.assertTrue(hooked.blocked());
        vm.assertEq(hooked.balanceOf(payer), 400);
    }
}
