"""`node market`."""

import sys
from typing import Any

import click

from node.cli.options import JSON, print_json, with_config


@click.command()
@with_config(bootstrap="network.bootstrap")
@click.option("--bootstrap", multiple=True, help="Multiaddr of a peer to start from; repeatable.")
@click.option("--once", is_flag=True, help="Print the table once; so without a terminal.")
@click.option(
    "--wait", "window_s", type=click.FloatRange(0.1, 60), default=3.0, show_default=True,
    metavar="SECONDS", help="How long to wait, at most, for the offers of one table.",
)  # fmt: skip
@JSON
def market(config: Any, *, once: bool, window_s: float, as_json: bool) -> None:
    """Show the offers that are live now; Ctrl-C ends it."""
    from functools import partial

    import trio

    from node.app import market_view as app

    if not (as_json or once) and sys.stdout.isatty():
        trio.run(partial(app.follow, config, every_s=1.0))
        return
    rows = trio.run(partial(app.look, config, window_s=window_s))
    if as_json:
        from dataclasses import asdict

        print_json([asdict(row) for row in rows])
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(app.table(rows))
