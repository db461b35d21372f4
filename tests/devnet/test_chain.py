import os
import platform
import time

import pytest

from devnet.chain import Anvil, DevChain, DevChainError, Funding, running


def test_it_comes_and_goes_with_the_block() -> None:
    with running() as chain:
        pid = chain.anvil.pid
        assert chain.chain_id == 31337
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_accounts_are_funded_in_one_block(chain: DevChain) -> None:
    before = chain.web3.eth.block_number
    accounts = [bytes([0x40 + n]) * 20 for n in range(5)]
    chain.fund([Funding(address=a, native_wei=7, token_micro=5, deposit_micro=9) for a in accounts])
    assert chain.web3.eth.block_number - before == 1
    escrow = chain.contract("Escrow", chain.contracts.escrow)
    token = chain.contract("TestToken", chain.contracts.token)
    for account in accounts:
        assert chain.web3.eth.get_balance(chain.web3.to_checksum_address(account)) == 7
        assert token.functions.balanceOf(account).call() == 5
        assert escrow.functions.accounts(account).call() == [9, 0, 0]


def test_a_deposit_that_the_escrow_refuses_is_an_error(chain: DevChain) -> None:
    with pytest.raises(DevChainError, match="deposit reverted"):
        chain.fund([Funding(address=b"\x3f" * 20, deposit_micro=10**15)])


def test_blocks_on_demand_and_by_the_clock() -> None:
    anvil = Anvil.start(chain_id=1337)
    try:
        chain = DevChain(anvil)
        assert chain.chain_id == 1337
        chain.mine(3)
        assert chain.web3.eth.block_number == 3
        chain.mine_every(1)
        deadline_s = time.monotonic() + 5
        while chain.web3.eth.block_number == 3 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert chain.web3.eth.block_number > 3
    finally:
        anvil.stop()


def test_a_port_that_is_taken_is_said(chain: DevChain) -> None:
    with pytest.raises(DevChainError, match="did not start"):
        Anvil.start(port=chain.anvil.port)


def test_without_the_tools_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(DevChainError, match="scripts/setup"):
        Anvil.start()
