"""A rogue worker of one's own, beside the victim: a real process with a home and a role."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from devnet import homes, processes
from devnet.processes import NodeProcess
from node.app.init import Identity
from tests.attack.accounts import MONEY
from tests.attack.attackers.rogue_worker import ROLE
from tests.attack.harness import NICE, World

QUICK = {"engine.tokens_per_s_max": 400.0}
"""Attacks on clients need many jobs."""


@dataclass(slots=True)
class RogueWorker:
    """One, running."""

    identity: Identity
    multiaddr: str
    process: NodeProcess

    def orders(self) -> dict[str, Any]:
        """What a driver of it is told."""
        return {
            "rogue": "0x" + self.identity.address.hex(),
            "rogue_addr": self.multiaddr,
            "rogue_home": str(self.identity.home),
        }

    def restart(self) -> None:
        """After it has ended."""
        self.process.wait(processes.STOP_S)
        self.process = _start(self.identity)


def _start(identity: Identity) -> NodeProcess:
    command = ["nice", "-n", str(NICE), sys.executable]
    command += ["-m", "tests.attack.attackers.rogue_worker"]
    process = NodeProcess(
        [*command, "--home", str(identity.home)],
        home=identity.home,
        log=identity.home.with_suffix(".log"),
    )
    process.wait_ready(time.monotonic() + processes.READY_S)
    return process


@contextmanager
def rogue_worker(
    world: World, name: str = "rogue", *, settings: Mapping[str, Any] | None = None
) -> Iterator[RogueWorker]:
    """A rogue worker for as long as the block runs; settings are over those of `MONEY`."""
    net, port = world.net, homes.free_port()
    identity = homes.make_worker(
        world.scratch / name,
        number=1,
        chain=homes.chain_settings(net.rpc_url, net.contracts),
        port=port,
        bootstrap=(),
        settings={**MONEY.worker_settings, **QUICK, **(settings or {})},
    )
    (identity.home / ROLE).write_text("{}")
    worker = RogueWorker(
        identity=identity, multiaddr=homes.multiaddr(identity, port), process=_start(identity)
    )
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            processes.stop_all([worker.process])
