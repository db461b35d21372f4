"""`python -m devnet up`: a market on this machine until it is interrupted."""

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from node.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from devnet.network import Devnet

_LOOK_S = 0.5


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A local chain, workers and funded clients, as real processes."""


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--clients", type=click.IntRange(0, 64), default=1, show_default=True)
@click.option(
    "--home", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Folder for homes and logs; default: a temporary one, removed at the end.",
)  # fmt: skip
@click.option("--misbehave", default="", metavar="KIND,…", help="How the last workers cheat.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready.")
def up(*, workers: int, clients: int, folder: Path | None, misbehave: str, as_json: bool) -> int:
    """Bring it up, say when it is ready, stay; SIGINT or SIGTERM ends all of it."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    from devnet import network
    from devnet.chain import DevChainError
    from devnet.misbehave import KINDS
    from devnet.processes import DevnetError

    kinds = tuple(kind for kind in misbehave.split(",") if kind)
    if unknown := set(kinds) - KINDS.keys():
        raise click.UsageError(f"no such misbehaviour: {', '.join(unknown)}; {', '.join(KINDS)}")
    options = network.Options(workers=workers, clients=clients, folder=folder, misbehave=kinds)
    try:
        with network.up(options) as running:
            print(json.dumps(running.to_json()) if as_json else _text(running), flush=True)
            _watch(running)
    except (DevnetError, DevChainError, ConfigError) as error:
        click.echo(f"error: {error}", err=True)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        pass
    return ExitCode.OK


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once: a second signal, in the middle of the clean-up, must not cut that short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _watch(running: "Devnet") -> None:
    """Stay until interrupted, and say it when a worker ends."""
    gone: set[int] = set()
    while True:
        time.sleep(_LOOK_S)
        for worker in running.workers:
            if not worker.process.running and worker.process.pid not in gone:
                gone.add(worker.process.pid)
                home = worker.identity.home
                click.echo(f"worker {worker.identity.peer_id} in {home} has ended", err=True)


def _text(running: "Devnet") -> str:
    lines = [f"chain    {running.rpc_url}", f"escrow   {running.contracts.escrow}"]
    for worker in running.workers:
        note = f"  ({worker.misbehaviour})" if worker.misbehaviour else ""
        lines.append(f"worker   {worker.multiaddr}{note}")
    lines += [f"client   {client.home}" for client in running.clients]
    lines.append(f"ready: node submit --home {running.client_home} 'Hello'; Ctrl-C ends it all")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
