"""`node gateway` and `node keys`."""

from typing import Any

import click

from node.cli import imports
from node.cli.options import JSON, print_json, with_config
from node.units import format_micro


@click.command()
@with_config(
    host="gateway.host",
    port="gateway.port",
    bootstrap="network.bootstrap",
    upstream="gateway.upstream",
    upstream_key_file="gateway.upstream_key_file",
    upstream_models="gateway.upstream_models",
)
@click.option("--host", help="Address to listen on; default: gateway.host (loopback).")
@click.option("--port", type=click.IntRange(0, 65_535), help="0: any that is free.")
@click.option("--bootstrap", multiple=True, help="Multiaddr of a peer to start from; repeatable.")
@click.option(
    "--upstream", metavar="URL",
    help="A server of yours that speaks OpenAI's protocol: answers where no worker is left.",
)  # fmt: skip
@click.option(
    "--upstream-key-file", type=click.Path(dir_okay=False), metavar="FILE",
    help="Its API key, in a file of mode 0600.",
)  # fmt: skip
@click.option(
    "--upstream-model", "upstream_models", multiple=True, metavar="[MODEL=]NAME",
    help="What it is asked for, for one model of the market or for all; repeatable; default: the "
    "same name.",
)  # fmt: skip
def gateway(config: Any) -> int:
    """Let OpenAI's clients buy on the market, on this home's account.

    Point a client's base URL at http://HOST:PORT/v1.  The worker that wins a request sees its
    prompt.  SIGTERM or SIGINT ends it: answers under way are cut off, paid and proven.
    """
    with imports.quick():
        from node.app.gateway import run

    return run(config)


@click.group()
def keys() -> None:
    """API keys of the gateway, each with a limit of its own if you like."""


@keys.command()
@with_config()
@click.argument("name", default="")
@click.option(
    "--limit", "spend_max_micro", type=click.IntRange(0), metavar="MICRO",
    help="Most that may be spent with it in all, in millionths of a coin.",
)  # fmt: skip
@JSON
def create(config: Any, *, name: str, spend_max_micro: int | None, as_json: bool) -> None:
    """Make a key called NAME.  It is shown this once, and kept only as a hash."""
    from node.app.key_control import perform

    made = perform(config, "keys.create", name=name, spend_max_micro=spend_max_micro)
    if as_json:
        print_json(made)
    else:
        click.echo(made["key"])


@keys.command("list")
@with_config()
@JSON
def list_keys(config: Any, *, as_json: bool) -> None:
    """Show all keys, and what was spent with each."""
    from node.app.key_control import perform

    found = perform(config, "keys.list")
    if as_json:
        print_json(found)
        return
    for key in found:
        limit = key["spend_max_micro"]
        of = "no limit" if limit is None else f"of {format_micro(limit)}"
        state = "revoked" if key["revoked_ms"] else "in use"
        spent = format_micro(key["spent_micro"])
        click.echo(f"{key['id']}  {state:<8} {spent:>16} spent, {of:<20} {key['name']}")


@keys.command()
@with_config()
@click.argument("key_id", metavar="ID")
@JSON
def revoke(config: Any, *, key_id: str, as_json: bool) -> None:
    """End the use of a key; answers under way go on."""
    from node.app.key_control import perform

    done = perform(config, "keys.revoke", id=key_id)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{key_id} is revoked")
