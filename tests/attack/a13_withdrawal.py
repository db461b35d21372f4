"""13: a client asks for its deposit in mid-job, and its worker's RPC is away meanwhile."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from devnet.chain import CALL_GAS, EXIT_DELAY_S, DevChain, Funding
from node.protocol.signing import address_of_key
from tests.adapters.chain.proxy import faulty
from tests.attack import saved
from tests.attack.accounts import MONEY, funded
from tests.attack.harness import Attacker, Figures, World, at_least, at_most
from tests.attack.rogues import rogue_worker

DEPOSIT_MICRO: Final = 20_000
MARGIN_S: Final = 600
"""Of the worker: inside of it nobody who leaves is served."""
LANDS_S: Final = 120.0
JOBS_S: Final = 120.0
REFUSED: Final = "EXIT_PENDING"


class Withdrawal:
    """The window is an hour of the chain's time, which is moved on; the RPC is away for a part."""

    number = 13
    name = "a withdrawal in mid-job"
    target = "withdrawal begun mid-job, RPC away for ¼ of the window: every claim lands"
    options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        away = threading.Event()

        def fault(_number: int, _calls: list[dict[str, Any]]) -> bytes | None:
            return b"" if away.is_set() else None

        with faulty(world.net.chain.anvil.port, fault) as url:
            settings = {
                "chain.rpc_url": url,
                "chain.native_price_micro": 0,
                "chain.exit_margin_s": MARGIN_S,
                "engine.tokens_per_s_max": 40.0,
            }
            with rogue_worker(world, f"payee-{time.monotonic_ns()}", settings=settings) as payee:
                return self._attack(world, payee, away)

    def _attack(self, world: World, payee: Any, away: threading.Event) -> Figures:
        chain, (key,) = world.net.chain, funded(world, 1, deposit_micro=DEPOSIT_MICRO)
        payer, home = address_of_key(key), payee.identity.home
        chain.fund([Funding(address=payee.identity.address)])
        stop = world.scratch / f"{home.name}.stop"
        leaver = _Leaver(
            world.start(
                "leaver",
                key=key.hex(),
                home=str(world.net.clients[0].home),
                store=str(world.scratch / f"{home.name}.sqlite"),
                stop=str(stop),
                **payee.orders(),
            )
        )
        leaver.wait(lambda jobs: len(jobs) >= 2)
        away.set()
        ready_s = _exit_requested(chain, payer)
        _move(chain, EXIT_DELAY_S // 4)
        time.sleep(world.count(35, 2))  # longer than what a worker believes without a chain
        bought_away = len(leaver.jobs)
        away.clear()
        returned_s = time.monotonic()
        if world.full:
            self._until_margin(chain, leaver, ready_s, home, payer)
        stop.touch()
        leaver.wait(lambda _jobs: leaver.done)
        landed = _until(lambda: _owed(home, payer) == 0)
        landed_s, left_s = time.monotonic() - returned_s, ready_s - _now_s(chain)
        _move(chain, max(0, left_s))
        taken = _exit(chain, payer)
        tabs = saved.payer_tabs(home, payer)
        vouchered = sum(tab.best for tab in tabs)
        refused = [job["error"] for job in leaver.jobs if REFUSED in job["error"]]
        return Figures(
            checks=(
                at_least("jobs before the exit", len(leaver.jobs), 2),
                at_least("jobs while the RPC was away", bought_away, 1),
                at_least("vouchered", vouchered, 1, "micro"),
                at_most("claims not landed", vouchered - sum(tab.redeemed for tab in tabs), 0),
                at_most("paid and not vouchered", leaver.paid_micro - vouchered, 0, "micro"),
                at_least("left of the window then", left_s if landed else 0, 1, "s"),
                at_least("the client took out the rest", taken, 1, "micro"),
                at_most("taken of what was owed", taken + vouchered - DEPOSIT_MICRO, 0, "micro"),
                at_least("refused inside the margin", len(refused), 1 if world.full else 0),
            ),
            details={"landed_after_s": landed_s, "jobs": len(leaver.jobs), "away": bought_away},
        )

    def _until_margin(
        self, chain: DevChain, leaver: "_Leaver", ready_s: int, home: Path, payer: bytes
    ) -> None:
        """It goes on buying until its worker stops it, inside the margin."""
        _until(lambda: any(tab.redeemed for tab in saved.payer_tabs(home, payer)))
        _move(chain, ready_s - MARGIN_S - _now_s(chain) + 1)
        leaver.wait(lambda jobs: any(REFUSED in job["error"] for job in jobs))


class _Leaver:
    """The client's jobs, read as they end."""

    def __init__(self, attacker: Attacker) -> None:
        self._attacker = attacker
        self.jobs: list[dict[str, Any]] = []
        self.done = False
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def paid_micro(self) -> int:
        """What the client accepted, over all jobs."""
        return sum(job["paid_micro"] for job in self.jobs)

    def wait(self, reached: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Return once its jobs are so far.

        Raises:
            AssertionError: They never were.
        """
        assert _until(lambda: reached(self.jobs), within_s=JOBS_S), self.jobs[-3:]

    def _read(self) -> None:
        while not self.done:
            line = self._attacker.wait_line()
            if "done" in line:
                self.done = True
            else:
                self.jobs.append(line)


def _owed(home: Path, payer: bytes) -> int:
    return sum(tab.best - tab.redeemed for tab in saved.payer_tabs(home, payer))


def _until(true: Callable[[], bool], *, within_s: float = LANDS_S) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if true():
            return True
        time.sleep(0.1)
    return False


def _now_s(chain: DevChain) -> int:
    return int(chain.web3.eth.get_block("latest")["timestamp"])


def _move(chain: DevChain, seconds: int) -> None:
    """The chain's clock, and two blocks of it."""
    chain.rpc("evm_increaseTime", seconds)
    chain.mine(2)


def _exit_requested(chain: DevChain, payer: bytes) -> int:
    """Unix second from which the payer may leave."""
    _send(chain, payer, "requestExit")
    account = chain.web3.to_checksum_address(payer)
    escrow = chain.contract("Escrow", chain.contracts.escrow)
    return int(escrow.functions.accounts(account).call()[2])


def _exit(chain: DevChain, payer: bytes) -> int:
    """Complete it; what the payer got, in micro."""
    token = chain.contract("TestToken", chain.contracts.token)
    account = chain.web3.to_checksum_address(payer)
    before = int(token.functions.balanceOf(account).call())
    _send(chain, payer, "exit", account)
    return int(token.functions.balanceOf(account).call()) - before


def _send(chain: DevChain, sender: bytes, function: str, *args: Any) -> None:
    account, fee = chain.web3.to_checksum_address(sender), chain.web3.to_wei(10, "gwei")
    chain.rpc("anvil_impersonateAccount", account)
    escrow = chain.contract("Escrow", chain.contracts.escrow)
    sent = escrow.functions[function](*args).transact(
        {"from": account, "gas": CALL_GAS, "maxFeePerGas": fee, "maxPriorityFeePerGas": fee}
    )
    chain.mine()
    assert chain.web3.eth.get_transaction_receipt(sent)["status"], function
