"""`node init`."""

import os
from pathlib import Path
from typing import Any

import click

from node.cli.options import JSON, print_json, with_home

_SETTINGS = {
    "rpc": "chain.rpc_url",
    "chain_id": "chain.chain_id",
    "escrow": "chain.escrow",
    "token": "chain.token",
    "bootstrap": "network.bootstrap",
    "listen": "network.listen",
}


@click.command()
@with_home
@click.option("--rpc", help="JSON-RPC address of the chain.", metavar="URL")
@click.option("--chain-id", type=int, help="The chain's id.")
@click.option("--escrow", help="Address of the escrow contract.", metavar="ADDRESS")
@click.option("--token", help="Address of the stablecoin.", metavar="ADDRESS")
@click.option("--bootstrap", multiple=True, help="Multiaddr of a peer to start from; repeatable.")
@click.option("--listen", multiple=True, help="Multiaddr to listen on; repeatable.")
@click.option("--password-file", type=click.Path(dir_okay=False), help="Read the password here.")
@click.option(
    "--generate-password", is_flag=True, help="Draw a password and keep it beside the key (0600)."
)
@click.option(
    "--import-key", type=click.Path(dir_okay=False), help="File with a private key in hexadecimal."
)
@click.option("--light", is_flag=True, help="A quick, weak keystore: for devnets only.")
@JSON
def init(
    home: Path,
    settings: dict[str, Any],
    *,
    password_file: str | None,
    generate_password: bool,
    import_key: str | None,
    light: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a home: key, keystore and config.

    Asks for a password on a terminal; without one, --password-file, GPUNODE_PASSWORD_FD or
    --generate-password says where it comes from.
    """
    from node.adapters import keystore
    from node.app import init as app
    from node.protocol.signing import checksum

    settings |= {_SETTINGS[name]: value for name, value in options.items() if value}
    if password_file:
        settings["keystore.password_file"] = str(Path(password_file).absolute())
    request = app.InitRequest(
        home=home,
        password=_password(password_file, generate_password),
        store_password=generate_password,
        settings=settings,
        key=app.read_key(Path(import_key)) if import_key else None,
        scrypt_n=keystore.SCRYPT_N_DEVNET if light else keystore.SCRYPT_N,
    )
    made = app.create(request)
    address = checksum(made.address)
    if as_json:
        print_json({"home": str(made.home), "address": address, "peer_id": made.peer_id})
        return
    click.echo(f"home     {made.home}\naddress  {address}\npeer id  {made.peer_id}")


def _password(password_file: str | None, generate: bool) -> bytes:
    from node.adapters import keystore
    from node.app import unlock

    if password_file and generate:
        raise click.UsageError("--password-file and --generate-password exclude each other")
    if password_file:
        return keystore.read_password(Path(password_file))
    if generate:
        import secrets

        return secrets.token_urlsafe(24).encode()
    given = unlock.read_descriptor(os.environ)
    if given is not None:
        return given
    password = unlock.ask("New password for the key: ")
    if unlock.ask("Once more: ") != password:
        raise click.UsageError("the two passwords differ")
    if not password:
        raise click.UsageError("an empty password protects nothing")
    return password
