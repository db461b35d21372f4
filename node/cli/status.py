"""`node status` and `node earnings`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from node.cli.options import JSON, print_json, with_config, with_home
from node.units import MS_PER_S, format_micro

_HOURS_MAX = 24 * 366


@click.command()
@with_config()
@JSON
def status(config: Any, *, as_json: bool) -> None:
    """Show what this home's node is doing; without a running one, what it left."""
    from node.app import status as app

    report = app.report(config)
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(app.lines(report)))


@click.command()
@with_home
@click.option(
    "--hours", type=click.IntRange(1, _HOURS_MAX), default=24, show_default=True,
    help="How far back the table goes.",
)  # fmt: skip
@JSON
def earnings(home: Path, _: dict[str, Any], *, hours: int, as_json: bool) -> None:
    """Show what was earned, per model and hour."""
    from functools import partial

    import trio

    from node.app import earnings as app
    from node.app.home import Home

    since_ms = int(time.time() - hours * 3600) * MS_PER_S
    report = trio.run(partial(app.report, Home(home), since_ms=since_ms))
    if as_json:
        print_json(asdict(report))
        return
    totals = report.totals
    for row in report.hours:
        click.echo(_line(row))
    click.echo(f"segments {totals.segments}, tokens out {totals.tokens_out}, all time")
    for name in ("earned", "vouchered", "redeemed"):
        click.echo(f"{name:<10} {format_micro(getattr(totals, name + '_micro')):>16}")


def _line(row: Any) -> str:
    from datetime import UTC, datetime

    hour = datetime.fromtimestamp(row.hour_ms / MS_PER_S, UTC).strftime("%Y-%m-%d %H:00Z")
    counts = f"{row.segments:>6} jobs {row.tokens_in:>8} in {row.tokens_out:>8} out"
    earned, paid = format_micro(row.earned_micro), format_micro(row.paid_micro)
    return f"{hour}  {row.model[:18]}…  {counts}  {earned:>12} earned {paid:>12} paid"
