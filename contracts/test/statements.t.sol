// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {IEscrow} from "../src/interfaces/IEscrow.sol";
import {EscrowTest} from "./support/EscrowTest.sol";
import {Statements} from "./support/Statements.sol";

contract StatementsTest is EscrowTest {
    function test_DomainSeparator() public {
        vm.assertEq(escrow.domainSeparator(), separator());
        vm.chainId(10);
        vm.assertEq(escrow.domainSeparator(), Statements.domain(10, address(escrow)));
    }

    function testFuzz_HashVoucher(IEscrow.Voucher calldata statement) public view {
        vm.assertEq(escrow.hashVoucher(statement), Statements.digest(separator(), statement));
    }

    function testFuzz_HashLock(IEscrow.Lock calldata statement) public view {
        vm.assertEq(escrow.hashLock(statement), Statements.digest(separator(), statement));
    }

    function testFuzz_HashLockRelease(IEscrow.LockRelease calldata statement) public view {
        vm.assertEq(escrow.hashLockRelease(statement), Statements.digest(separator(), statement));
    }

    function testFuzz_TabOf(IEscrow.Voucher calldata statement) public view {
        vm.assertEq(
            escrow.tabOf(statement.payer, statement.payee, statement.model, statement.splits),
            tab(statement)
        );
    }

    function test_Eip712Domain() public view {
        (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,,
        ) = IERC5267(address(escrow)).eip712Domain();
        vm.assertEq(uint8(fields), 0x0f);
        vm.assertEq(keccak256(bytes(name)), keccak256("GPU Market"));
        vm.assertEq(keccak256(bytes(version)), keccak256("1"));
        vm.assertEq(chainId, block.chainid);
        vm.assertEq(verifyingContract, address(escrow));
    }
}
