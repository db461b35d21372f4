"""The main job, shown step by step: `scripts/demo`.  Every step is a command that a user types."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from devnet.network import Devnet, Options, up
from node.protocol.signing import checksum
from node.units import format_micro

QUESTION: Final = "How is a worker paid?"
SMALL_STEPS: Final = {"worker.quantum_micro": 12}
"""So little that even a short answer is paid in several vouchers."""
_COMMAND_S: Final = 120.0


def main() -> int:
    """Run it; the exit code is 1 if anything is not as it should be."""
    started_s = time.monotonic()
    say("A local chain with the escrow contract, three workers and a client, each a process")
    with up(Options(workers=3, worker_settings=SMALL_STEPS)) as net:
        show_market(net)
        before = balances(net)
        job = buy(net)
        verify(net, job)
        redeem(net, job, before)
    say("Every process has ended")
    print(f"demo passed in {time.monotonic() - started_s:.0f} s")
    return 0


def show_market(net: Devnet) -> None:
    """What was brought up, and what is offered."""
    print(f"chain {net.rpc_url}, escrow {net.contracts.escrow}")
    for worker in net.workers:
        print(f"worker {worker.multiaddr} (process {worker.process.pid})")
    say("What the three offer")
    node(net.client_home, "market", "--once", "--wait", "20")


def buy(net: Devnet) -> dict[str, Any]:
    """The auction, the answer as it streams, and the payment; returns the job's line."""
    say("An auction for one job; the answer streams while vouchers flow back")
    node(net.client_home, "submit", QUESTION)
    jobs = ask(net.client_home, "receipts", "list", "--json")
    assert len(jobs) == 1, jobs
    job: dict[str, Any] = jobs[0]
    return job


def verify(net: Devnet, job: dict[str, Any]) -> None:
    """The receipt, checked by whoever has the file and the chain's address."""
    say("The receipt, checked against every signature in it and against the chain")
    node(net.client_home, "receipts", "verify", job["path"], "--rpc", net.rpc_url)


def redeem(net: Devnet, job: dict[str, Any], before: dict[str, int]) -> None:
    """The winner turns the vouchers into money; no unit is made or lost."""
    (winner,) = (w for w in net.workers if w.to_json()["address"] in job["workers"])
    say("The winner redeems what it earned")
    node(winner.identity.home, "redeem")
    after = balances(net)
    print(f"{'account':<10} {'before':>16} {'after':>16} {'change':>14}")
    for name, micro in before.items():
        change = format_micro(after[name] - micro)
        print(f"{name:<10} {format_micro(micro):>16} {format_micro(after[name]):>16} {change:>14}")
    paid_micro = job["paid_micro"]
    changes = {name: after[name] - before[name] for name in before}
    sold_by = f"worker-{net.workers.index(winner) + 1}"
    expected = dict.fromkeys(before, 0) | {"client": -paid_micro, sold_by: paid_micro}
    assert changes == expected, (changes, expected)


def balances(net: Devnet) -> dict[str, int]:
    """What the client has in the escrow, and what each worker may claim from it; in micro."""
    escrow = net.chain.contract("Escrow", net.contracts.escrow).functions
    free_micro, locked_micro, *_ = escrow.accounts(checksum(net.clients[0].address)).call()
    found = {"client": free_micro + locked_micro}
    for number, worker in enumerate(net.workers, start=1):
        found[f"worker-{number}"] = escrow.credits(checksum(worker.identity.address)).call()
    return found


def node(home: Path, *arguments: str) -> None:
    """Show a command and what it prints.

    Raises:
        CalledProcessError: It failed.
    """
    print(f"$ node {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "node", "--home", str(home), *arguments]
    subprocess.run(command, check=True, timeout=_COMMAND_S)


def ask(home: Path, *arguments: str) -> Any:
    """What a command prints as JSON.

    Raises:
        CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", "node", "--home", str(home), *arguments]
    done = subprocess.run(command, check=True, timeout=_COMMAND_S, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def say(line: str) -> None:
    """A heading."""
    print(f"\n== {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
