"""`node redeem`."""

import re
from typing import Any

import click

from node.cli.options import JSON, OLD_STORE, print_json, with_config


@click.command()
@with_config()
@click.option(
    "--claim-to", default="", metavar="ADDRESS",
    help="Then pay the whole credit out to this address.",
)  # fmt: skip
@OLD_STORE
@JSON
def redeem(config: Any, *, claim_to: str, old_store: bool, as_json: bool) -> None:
    """Redeem earned vouchers on chain now; what they bring becomes credit in the escrow."""
    from node.app import redeem as app
    from node.units import format_micro

    if claim_to and not re.fullmatch("0x[0-9a-fA-F]{40}", claim_to):
        raise click.UsageError(f"--claim-to {claim_to} is no address")
    report = app.report(config, claim_to=claim_to, old_store=old_store)
    if as_json:
        print_json(report)
        return
    for each in report["transactions"]:
        click.echo(
            f"{each['tx_hash']}  block {each['block']}  {each['vouchers']} vouchers  "
            f"{format_micro(each['amount_micro'])}  gas {each['gas_used']}"
        )
        for skip in each["skipped"]:
            click.echo(f"  skipped {skip['payer']}: {skip['reason']}")
    if claimed := report["claimed"]:
        amount = format_micro(claimed["amount_micro"])
        click.echo(f"{claimed['tx_hash']}  {amount} paid out to {claimed['to']}")
    if not report["transactions"]:
        click.echo("nothing to redeem")
    if report["left_micro"]:
        click.echo(f"{format_micro(report['left_micro'])} is still owed")
