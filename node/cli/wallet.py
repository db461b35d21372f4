"""`node wallet`."""

import time
from typing import Any

import click

from node.cli.options import JSON, OLD_STORE, print_json, with_config
from node.units import format_micro

_AMOUNT = click.argument("amount_micro", type=click.IntRange(1), metavar="MICRO")
_TO = click.option(
    "--to", default="", metavar="ADDRESS", help="Who gets it; default: this account."
)


@click.group()
def wallet() -> None:
    """Deposit, withdraw, and lock funds in the escrow.

    Amounts are in micro: millionths of a coin.
    """


@wallet.command()
@with_config()
@JSON
def show(config: Any, *, as_json: bool) -> None:
    """Show what the account has, and where."""
    from node.app import status
    from node.app import wallet_control as app

    figures = app.perform(config, app.SHOW)
    if as_json:
        print_json(figures)
    else:
        click.echo("\n".join(status.lines(figures)))


@wallet.command()
@with_config()
@_AMOUNT
@JSON
def deposit(config: Any, *, amount_micro: int, as_json: bool) -> None:
    """Move MICRO from the account into the escrow."""
    _perform(config, "wallet.deposit", as_json, amount_micro=amount_micro)


@wallet.command()
@with_config()
@_TO
@click.option("--cancel", is_flag=True, help="Stay: end the exit that is under way.")
@OLD_STORE
@JSON
def withdraw(config: Any, *, to: str, cancel: bool, old_store: bool, as_json: bool) -> None:
    """Take everything out of the escrow.

    The first time it asks for the exit; run again once the delay is over, it is paid out.
    """
    if cancel:
        _perform(config, "wallet.stay", as_json, old_store=old_store)
    else:
        _perform(config, "wallet.withdraw", as_json, to=to, old_store=old_store)


@wallet.command()
@with_config()
@click.argument("payee", metavar="PAYEE")
@click.argument("total_micro", type=click.IntRange(0), metavar="MICRO")
@click.option("--hours", type=click.IntRange(1, 24 * 365), default=24, show_default=True)
@JSON
def lock(config: Any, *, payee: str, total_micro: int, hours: int, as_json: bool) -> None:
    """Reserve MICRO of the deposit for one payee; it replaces what was locked for it before."""
    expiry_s = int(time.time()) + hours * 3600
    _perform(
        config, "wallet.lock", as_json, payee=payee, total_micro=total_micro, expiry_s=expiry_s
    )


@wallet.command()
@with_config()
@_TO
@OLD_STORE
@JSON
def claim(config: Any, *, to: str, old_store: bool, as_json: bool) -> None:
    """Have the escrow pay out what this account earned and redeemed."""
    _perform(config, "wallet.claim", as_json, to=to, old_store=old_store)


@wallet.command()
@with_config()
@_AMOUNT
@JSON
def mint(config: Any, *, amount_micro: int, as_json: bool) -> None:
    """Make test tokens; on a devnet only."""
    _perform(config, "wallet.mint", as_json, amount_micro=amount_micro)


def _perform(config: Any, method: str, as_json: bool, **parameters: Any) -> None:
    from node.app import wallet_control as app

    done = app.perform(config, method, **parameters)
    if as_json:
        print_json(done)
        return
    click.echo(done["message"])
    if done["transaction"]:
        click.echo(f"transaction {done['transaction']}")
    if promised_micro := done.get("promised_micro"):
        click.echo(f"{format_micro(promised_micro)} of it is promised to workers")
