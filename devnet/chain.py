"""A local chain: Anvil started by path, the contracts deployed, accounts funded.

Nothing waits for a block time here: until `mine_every` is called, blocks are made by `mine` alone,
so that setting up takes two blocks however many accounts there are.
"""

import json
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from web3 import HTTPProvider, Web3
from web3.types import RPCEndpoint, TxParams

from devnet.leash import leashed

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
CHAIN_ID = 31337
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 3.0
EXIT_DELAY_S = 3600
DEPOSIT_CAP_MICRO = 1_000_000 * 10**6
DEPLOY_GAS = 8_000_000
CALL_GAS = 300_000
CALLS_PER_BLOCK = 80
"""Calls of `CALL_GAS` that fit a block of 30 million."""
ETHER_WEI = 10**18

_LISTENING = re.compile(r"Listening on \S+:(\d+)")


class DevChainError(Exception):
    """Anvil is missing, did not start, or refused a transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contracts:
    """Where the contracts are, as hexadecimal text with checksum."""

    escrow: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding:
    """What one account gets."""

    address: bytes
    native_wei: int = 10 * ETHER_WEI
    token_micro: int = 0
    deposit_micro: int = 0
    """Put into the escrow for it, on top of `token_micro`."""


def anvil_path() -> Path:
    """The native program: its npm shim would run whatever `node` comes first on PATH.

    Raises:
        DevChainError: The chain tools are not installed.
    """
    arch = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "")
    name = f"anvil-{sys.platform}-{arch}"
    path = ROOT / "contracts" / "node_modules" / "@foundry-rs" / name / "bin" / "anvil"
    if not path.is_file():
        raise DevChainError("Anvil is not installed; run scripts/setup")
    return path


def artifact(name: str) -> dict[str, Any]:
    """ABI and bytecode of a compiled contract, from the package data."""
    text = (resources.files("node") / "data" / "abi" / f"{name}.json").read_text()
    return cast(dict[str, Any], json.loads(text))


class Anvil:
    """One running Anvil process.  Its chain is gone when it stops."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    @classmethod
    def start(cls, *, port: int = 0, chain_id: int = CHAIN_ID) -> "Anvil":
        """Start it and return once it answers.

        Args:
            port: TCP port on loopback; 0 takes a free one.
            chain_id: What `eth_chainId` says.

        Raises:
            DevChainError: It is not installed, or did not listen in time.
        """
        command = [str(anvil_path()), "--host", HOST, "--port", str(port), "--no-mining"]
        command += ["--chain-id", str(chain_id), "--hardfork", "prague"]
        # A session of its own: Ctrl-C in a terminal must reach us first, to end things in order.
        process = subprocess.Popen(
            leashed(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        found: list[int] = []
        ready = threading.Event()
        threading.Thread(target=_follow, args=(process, found, ready), daemon=True).start()
        ready.wait(START_TIMEOUT_S)
        anvil = cls(process, found[0] if found else 0)
        if not found:
            anvil.stop()
            raise DevChainError("Anvil did not start")
        return anvil

    @property
    def url(self) -> str:
        """Where it answers JSON-RPC."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def stop(self) -> None:
        """End the process; returns when it is gone."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _follow(process: subprocess.Popen[str], found: list[int], ready: threading.Event) -> None:
    """Find the port, then go on reading: a full pipe would stop Anvil."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if not found and (match := _LISTENING.search(line)):
                found.append(int(match[1]))
                ready.set()
    ready.set()


class DevChain:
    """A chain with the contracts on it, driven by Anvil's first, unlocked account."""

    def __init__(self, anvil: Anvil) -> None:
        self.anvil = anvil
        self.web3 = Web3(HTTPProvider(anvil.url, cache_allowed_requests=True))
        self.chain_id = self.web3.eth.chain_id
        self._owner = self.web3.eth.accounts[0]
        self._contracts: Contracts | None = None

    @property
    def contracts(self) -> Contracts:
        """Addresses; only after `deploy`."""
        assert self._contracts is not None, "deploy first"
        return self._contracts

    def deploy(
        self, *, exit_delay_s: int = EXIT_DELAY_S, deposit_cap_micro: int = DEPOSIT_CAP_MICRO
    ) -> Contracts:
        """Put a test token and an escrow for it on the chain.

        Raises:
            DevChainError: A constructor reverted.
        """
        token = self._create("TestToken")
        escrow = self._create("Escrow", token, exit_delay_s, deposit_cap_micro)
        self._contracts = Contracts(escrow=escrow, token=token)
        return self._contracts

    def fund(self, fundings: Sequence[Funding]) -> None:
        """Give accounts coins, test tokens and deposits.

        Raises:
            DevChainError: A deposit was refused (the escrow's cap, a pending exit).
        """
        token = self.contract("TestToken", self.contracts.token)
        escrow = self.contract("Escrow", self.contracts.escrow)
        total = sum(f.deposit_micro for f in fundings)
        calls: list[Any] = []
        if total:
            calls += [token.functions.mint(self._owner, total)]
            calls += [token.functions.approve(self.contracts.escrow, total)]
        for funding in fundings:
            account = self.web3.to_checksum_address(funding.address)
            self.rpc("anvil_setBalance", account, hex(funding.native_wei))
            if funding.token_micro:
                calls.append(token.functions.mint(account, funding.token_micro))
            if funding.deposit_micro:
                calls.append(escrow.functions.deposit(account, funding.deposit_micro))
        for start in range(0, len(calls), CALLS_PER_BLOCK):
            self._send(calls[start : start + CALLS_PER_BLOCK])

    def contract(self, name: str, address: str) -> Any:
        """A web3 contract object."""
        return self.web3.eth.contract(
            address=self.web3.to_checksum_address(address), abi=artifact(name)["abi"]
        )

    def rpc(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call; Anvil's own methods included.

        Raises:
            DevChainError: The answer is an error.
        """
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        if "error" in answer:
            raise DevChainError(f"{method}: {answer['error']}")
        return answer.get("result")

    def mine(self, blocks: int = 1) -> None:
        """Make blocks now."""
        self.rpc("anvil_mine", hex(blocks))

    def mine_every(self, seconds: int) -> None:
        """Make a block every so many seconds from now on; 0 stops that."""
        self.rpc("evm_setIntervalMining", seconds)

    def _create(self, name: str, *args: object) -> str:
        compiled = artifact(name)
        factory = self.web3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"])
        sent = factory.constructor(*args).transact(self._params(DEPLOY_GAS))
        self.mine()
        receipt = self.web3.eth.get_transaction_receipt(sent)
        address = receipt["contractAddress"]
        if not receipt["status"] or address is None:
            raise DevChainError(f"{name} was not deployed")
        return str(address)

    def _send(self, calls: Sequence[Any]) -> None:
        sent = [call.transact(self._params(CALL_GAS)) for call in calls]
        self.mine()
        for call, tx_hash in zip(calls, sent, strict=True):
            if not self.web3.eth.get_transaction_receipt(tx_hash)["status"]:
                raise DevChainError(f"{call.fn_name} reverted")

    def _params(self, gas: int) -> TxParams:
        # Fees are set, or web3 would ask for them before each transaction.
        fee = self.web3.to_wei(10, "gwei")
        return {"from": self._owner, "gas": gas, "maxFeePerGas": fee, "maxPriorityFeePerGas": fee}


@contextmanager
def running(*, port: int = 0, chain_id: int = CHAIN_ID) -> Iterator[DevChain]:
    """A chain with the contracts, for as long as the block runs."""
    anvil = Anvil.start(port=port, chain_id=chain_id)
    try:
        chain = DevChain(anvil)
        chain.deploy()
        yield chain
    finally:
        anvil.stop()
