"""A whole market on this machine: a chain, workers in processes of their own, funded clients."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from devnet import homes, processes
from devnet.chain import CHAIN_ID, Anvil, Contracts, DevChain, Funding
from devnet.processes import DevnetError, NodeProcess
from node.app.init import Identity
from node.protocol.signing import checksum
from node.units import MICRO_PER_UNIT

DEPOSIT_MICRO: Final = 100 * MICRO_PER_UNIT
BLOCK_S: Final = 1
MARKER: Final = ".devnet"
"""File that says that a folder was made here, and may be made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to bring up."""

    workers: int = 3
    clients: int = 1
    folder: Path | None = None
    """None: a temporary one, removed at the end."""
    misbehave: tuple[str, ...] = ()
    """The last workers cheat, one in each of these ways."""
    deposit_micro: int = DEPOSIT_MICRO
    """What each client has in the escrow, and as much again in its wallet."""
    worker_settings: Mapping[str, Any] = field(default_factory=dict)
    """By ``section.key``, for every worker."""
    client_settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker of the devnet."""

    identity: Identity
    multiaddr: str
    misbehaviour: str
    process: NodeProcess
    model: str = ""
    """0x-hash of the model that it serves."""

    def to_json(self) -> dict[str, Any]:
        """As the line that says that the devnet is ready has it."""
        return {
            "peer_id": self.identity.peer_id,
            "address": checksum(self.identity.address),
            "multiaddr": self.multiaddr,
            "model": self.model,
            "pid": self.process.pid,
            "home": str(self.identity.home),
        }


@dataclass(slots=True, kw_only=True)
class Devnet:
    """A running devnet."""

    folder: Path
    chain: DevChain
    workers: list[Worker]
    clients: list[Identity]

    @property
    def rpc_url(self) -> str:
        """Where the chain answers."""
        return self.chain.anvil.url

    @property
    def contracts(self) -> Contracts:
        """Escrow and token."""
        return self.chain.contracts

    @property
    def bootstrap(self) -> list[str]:
        """Multiaddrs to start from."""
        return [worker.multiaddr for worker in self.workers]

    @property
    def client_home(self) -> Path:
        """The first client's."""
        return self.clients[0].home

    def to_json(self) -> dict[str, Any]:
        """The line that says that the devnet is ready."""
        return {
            "rpc_url": self.rpc_url,
            "chain_id": CHAIN_ID,
            "contracts": {"escrow": self.contracts.escrow, "token": self.contracts.token},
            "bootstrap": self.bootstrap,
            "workers": [worker.to_json() for worker in self.workers],
            "client_home": str(self.client_home) if self.clients else "",
            "client_homes": [str(client.home) for client in self.clients],
            "dir": str(self.folder),
        }

    def restart(self, worker: Worker) -> None:
        """Start a worker again that has ended.

        Raises:
            DevnetError: It does not come up.
        """
        worker.process.wait(processes.STOP_S)
        worker.process = _start(worker.identity.home, worker.misbehaviour)
        _wait_ready([worker])


@contextmanager
def up(options: Options | None = None) -> Iterator[Devnet]:
    """A devnet for as long as the block runs; nothing is left of it after.

    Call it from the main thread: the processes end with the thread that started them.

    Raises:
        DevnetError: A node or the chain does not come up; the message has the end of its log.
    """
    options = options or Options()
    workers: list[Worker] = []
    with _folder(options.folder) as folder, _chain() as chain:
        try:
            _start_workers(workers, folder, chain, options)
            clients = _make_clients(folder, chain, options, workers)
            _fund(chain, options, workers, clients)
            _wait_ready(workers)
            yield Devnet(folder=folder, chain=chain, workers=workers, clients=clients)
        finally:
            processes.stop_all(worker.process for worker in workers)


def _start_workers(workers: list[Worker], folder: Path, chain: DevChain, options: Options) -> None:
    """Start them, each in the list at once: whatever happens next, it will be stopped."""
    if len(options.misbehave) > options.workers:
        raise DevnetError("more misbehaviours than workers")
    honest = options.workers - len(options.misbehave)
    kinds = [""] * honest + list(options.misbehave)
    settings = homes.chain_settings(chain.anvil.url, chain.contracts)
    for number, kind in enumerate(kinds):
        port = homes.free_port()
        identity = homes.make_worker(
            folder / f"worker-{number + 1}",
            number=number,
            chain=settings,
            port=port,
            bootstrap=tuple(worker.multiaddr for worker in workers[:1]),
            settings=options.worker_settings,
        )
        address = homes.multiaddr(identity, port)
        process = _start(identity.home, kind)
        workers.append(
            Worker(identity=identity, multiaddr=address, misbehaviour=kind, process=process)
        )


def _make_clients(
    folder: Path, chain: DevChain, options: Options, workers: list[Worker]
) -> list[Identity]:
    settings = homes.chain_settings(chain.anvil.url, chain.contracts)
    bootstrap = tuple(worker.multiaddr for worker in workers)
    return [
        homes.make_client(
            folder / ("client" if number == 0 else f"client-{number + 1}"),
            chain=settings,
            bootstrap=bootstrap,
            settings=options.client_settings,
        )
        for number in range(options.clients)
    ]


def _fund(
    chain: DevChain, options: Options, workers: list[Worker], clients: list[Identity]
) -> None:
    fundings = [Funding(address=worker.identity.address) for worker in workers]
    fundings += [
        Funding(
            address=client.address,
            token_micro=options.deposit_micro,
            deposit_micro=options.deposit_micro,
        )
        for client in clients
    ]
    chain.fund(fundings)
    chain.mine(2)  # the finality depth, so that deposits count from the first job on
    chain.mine_every(BLOCK_S)


def _start(home: Path, misbehaviour: str) -> NodeProcess:
    command = processes.worker_command(home, misbehaviour)
    return NodeProcess(command, home=home, log=home.with_suffix(".log"))


def _wait_ready(workers: list[Worker]) -> None:
    deadline_s = time.monotonic() + processes.READY_S
    for worker in workers:
        status = worker.process.wait_ready(deadline_s)
        worker.model = status["models"][0]["id"]


@contextmanager
def _chain() -> Iterator[DevChain]:
    anvil = Anvil.start()
    try:
        chain = DevChain(anvil)
        chain.deploy()
        yield chain
    finally:
        anvil.stop()


@contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="gpunode-devnet-") as temporary:
            yield Path(temporary)
        return
    folder = chosen.absolute()
    with _claimed(folder):
        yield folder


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Make a folder of ours anew, unless another devnet is using it."""
    if (folder / MARKER).exists():
        with (folder / MARKER).open("a") as old:
            if not _lock(old):
                raise DevnetError(f"another devnet is running in {folder}")
            shutil.rmtree(folder)  # its chain is gone: the homes inside are of no use to anybody
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise DevnetError(f"{folder} exists and is no devnet's folder") from None
    with (folder / MARKER).open("a") as marker:
        _lock(marker)
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
