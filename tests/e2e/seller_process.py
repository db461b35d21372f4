"""`node serve --engine openai` as an operator starts it, beside a devnet."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devnet import homes
from devnet.chain import Funding
from devnet.network import DEPOSIT_MICRO, Devnet
from devnet.processes import NodeProcess, stop_all
from node.adapters.chain.reader import HEAD_LIFE_S
from node.app.init import Identity
from node.protocol.signing import checksum

SOLD_S = 180.0
POLL_S = 0.1


@dataclass(frozen=True)
class Seller:
    """A worker that sells a server's models."""

    identity: Identity
    process: NodeProcess
    multiaddr: str

    @property
    def home(self) -> str:
        return str(self.identity.home)

    @property
    def address(self) -> str:
        return checksum(self.identity.address)

    def models(self) -> dict[str, Any]:
        """What it sells now, by name."""
        return {model["name"]: model for model in self.process.ask("status")["models"]}

    def active(self) -> int:
        """Its jobs."""
        return int(self.process.ask("status")["jobs"]["active"])

    def wait_sold(self, *, sold: bool = True) -> None:
        """Until it sells something, or nothing any more."""
        eventually(lambda: bool(self.models()) is sold, within_s=SOLD_S)


@contextmanager
def seller_up(
    net: Devnet,
    home: Path,
    *,
    url: str,
    models: tuple[str, ...],
    bootstrap: tuple[str, ...],
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Seller]:
    """Run it until the block ends.

    Args:
        net: Whose chain it is paid on.
        home: Its folder, not there yet.
        url: Of the server.
        models: NAME=PATH each.
        bootstrap: Multiaddrs that it starts from: its market.
        settings: By ``section.key``.
    """
    port = homes.free_port()
    identity = homes.make_worker(
        home,
        number=2,
        chain=homes.chain_settings(net.rpc_url, net.contracts),
        port=port,
        bootstrap=bootstrap,
        settings={"engine.tokens_per_s_max": 0.0, **(settings or {})},
    )
    net.chain.fund([Funding(address=identity.address)])
    command = [sys.executable, "-m", "node", "serve", "--home", str(home)]
    command += ["--engine", "openai", "--url", url]
    for model in models:
        command += ["--model", model]
    process = NodeProcess(command, home=home, log=home.with_suffix(".log"))
    try:
        process.wait_ready(time.monotonic() + SOLD_S)
        yield Seller(identity, process, homes.multiaddr(identity, port))
    finally:
        stop_all([process])


def client_of(net: Devnet, home: Path, *, bootstrap: tuple[str, ...]) -> Identity:
    """A funded client's home, of the market of these peers."""
    settings = homes.chain_settings(net.rpc_url, net.contracts)
    client = homes.make_client(home, chain=settings, bootstrap=bootstrap, settings={})
    money = DEPOSIT_MICRO
    net.chain.fund([Funding(address=client.address, token_micro=money, deposit_micro=money)])
    net.chain.mine(2)  # the finality depth
    time.sleep(HEAD_LIFE_S)  # until no worker takes an older block for the newest
    return client


def eventually(look: Callable[[], Any], *, within_s: float) -> Any:
    """What a function finds, asked until it finds something.

    Raises:
        AssertionError: It finds nothing in time.
    """
    deadline_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"nothing within {within_s:g} s"
        time.sleep(POLL_S)
    return found
