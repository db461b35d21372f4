"""`node version`."""

import click

from node import __version__
from node.cli.options import JSON, print_json


@click.command()
@JSON
def version(*, as_json: bool) -> None:
    """Show the version."""
    if as_json:
        import platform

        print_json({"version": __version__, "python": platform.python_version()})
    else:
        click.echo(f"gpunode {__version__}")
