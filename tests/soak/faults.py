"""One fault a minute, each undone before the next; `steady` processes are frozen, never killed."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from devnet.network import Devnet, Worker
from tests.soak.party import Buyer

FREEZE_S: Final = 8.0
"""Longer than it takes to notice a frozen peer."""
CHAIN_AWAY_S: Final = 20.0
JUNK_CONNECTIONS: Final = 30
JUNK_S: Final = 10.0
STOP_S: Final = 90.0
"""A worker ends its running jobs first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Whom faults may strike: all may be frozen, only the last of each kind is ever ended."""

    net: Devnet
    buyers: list[Buyer]

    @property
    def mortal(self) -> Worker:
        """The worker that is killed."""
        return self.net.workers[-1]


def kill_worker(stage: Stage, _rng: random.Random) -> None:
    """Kill -9, and a new start."""
    stage.mortal.process.signal(signal.SIGKILL)
    time.sleep(2.0)
    stage.net.restart(stage.mortal)


def drain_worker(stage: Stage, _rng: random.Random) -> None:
    """SIGTERM, and a new start."""
    stage.mortal.process.signal(signal.SIGTERM)
    stage.mortal.process.wait(STOP_S)
    stage.net.restart(stage.mortal)


def freeze_worker(stage: Stage, rng: random.Random) -> None:
    """SIGSTOP; its peers notice; SIGCONT."""
    process = rng.choice(stage.net.workers).process
    process.signal(signal.SIGSTOP)
    time.sleep(FREEZE_S)
    process.signal(signal.SIGCONT)


def kill_buyer(stage: Stage, _rng: random.Random) -> None:
    """Kill -9 in whatever it is doing, and a new start."""
    stage.buyers[-1].signal(signal.SIGKILL)
    stage.buyers[-1].wait()
    stage.buyers[-1].start()


def freeze_buyer(stage: Stage, rng: random.Random) -> None:
    """SIGSTOP; workers notice; SIGCONT."""
    buyer = rng.choice(stage.buyers)
    buyer.signal(signal.SIGSTOP)
    time.sleep(FREEZE_S)
    buyer.signal(signal.SIGCONT)


def chain_away(stage: Stage, _rng: random.Random) -> None:
    """The RPC answers nothing for a while."""
    pid = stage.net.chain.anvil.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(CHAIN_AWAY_S)
    os.kill(pid, signal.SIGCONT)


def reorg(stage: Stage, _rng: random.Random) -> None:
    """The newest block is replaced."""
    stage.net.chain.rpc("anvil_reorg", 1, [])


def junk(stage: Stage, rng: random.Random) -> None:
    """Connections that say nothing, or nonsense, and stay."""
    target = rng.choice(stage.net.workers).multiaddr.split("/")
    sockets = []
    for number in range(JUNK_CONNECTIONS):
        connection = socket.create_connection((target[2], int(target[4])), timeout=5.0)
        sockets.append(connection)
        if number % 2:
            connection.sendall(rng.randbytes(512))
    time.sleep(JUNK_S)
    for connection in sockets:
        connection.close()


FAULTS: Final[Mapping[str, Callable[[Stage, random.Random], None]]] = {
    "a worker is killed": kill_worker,
    "a worker is frozen": freeze_worker,
    "the chain does not answer": chain_away,
    "a client is killed": kill_buyer,
    "junk connections": junk,
    "a client is frozen": freeze_buyer,
    "a worker is drained": drain_worker,
    "the newest block is replaced": reorg,
}
