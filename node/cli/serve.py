"""`node serve`."""

from typing import Any

import click

from node.cli import imports
from node.cli.options import SERVER_KEY_FILE, SERVER_MODELS, SERVER_URL, with_config


@click.command()
@with_config(
    listen="network.listen",
    bootstrap="network.bootstrap",
    model_dir="engine.model_dir",
    engine="engine.kind",
    url="engine.url",
    models="engine.models",
    key_file="engine.key_file",
)
@click.option("--listen", multiple=True, help="Multiaddr to listen on; repeatable.")
@click.option("--bootstrap", multiple=True, help="Multiaddr of a peer to start from; repeatable.")
@click.option("--model-dir", help="Folder of an exported decoder to serve.")
@click.option("--engine", help="onnx: in process.  openai: the server at --url.")
@SERVER_URL
@SERVER_MODELS
@SERVER_KEY_FILE
def serve(config: Any) -> int:
    """Run a worker: sell what this machine's models generate.

    SIGTERM or SIGINT drains it: no new jobs, the running ones end, and a second signal stops at
    once.
    """
    with imports.quick():
        from node.app.serve import run

    return run(config)
