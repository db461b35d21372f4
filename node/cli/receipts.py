"""`node receipts`: list, show, verify."""

from pathlib import Path
from typing import Any

import click

from node.cli.options import JSON, print_json, with_home
from node.config import ChainConfig
from node.errors import ExitCode

_COUNT_MAX = 10_000


@click.group()
def receipts() -> None:
    """List, show and verify receipts."""


@receipts.command("list")
@with_home
@click.option("--last", type=click.IntRange(1, _COUNT_MAX), default=50, show_default=True)
@JSON
def list_receipts(home: Path, _: dict[str, Any], *, last: int, as_json: bool) -> None:
    """List this home's jobs, newest first."""
    from node.app import receipts as app

    rows = app.rows(_folder(home), count_max=last)
    if as_json:
        print_json([app.row_json(row) for row in rows])
        return
    if not rows:
        click.echo("no receipts yet", err=True)
    for row in rows:
        click.echo(_line(row))


@receipts.command()
@with_home
@click.argument("name", metavar="JOB|FILE")
@JSON
def show(home: Path, _: dict[str, Any], *, name: str, as_json: bool) -> None:
    """Show what a transcript says.  Nothing is verified."""
    from node.app import receipts as app

    path = app.find(_folder(home), name)
    sealed = app.read(path)
    if as_json:
        print_json(app.transcript_json(sealed))
        return
    for key, value in app.row_json(app.row(path, sealed)).items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{key.replace('_', ' '):<12} {shown}")


@receipts.command()
@with_home
@click.argument("name", metavar="JOB|FILE")
@click.option(
    "--disclosure", type=click.Path(dir_okay=False, path_type=Path),
    help="File with prompt and answer; default: the one beside the transcript.",
)  # fmt: skip
@click.option("--rpc", default="", help="Check against the chain too.", metavar="URL")
@click.option(
    "--finality-blocks", type=click.IntRange(0), default=ChainConfig().finality_blocks,
    show_default=True, help="Blocks on top of one before it counts.",
)  # fmt: skip
@JSON
def verify(
    home: Path,
    _: dict[str, Any],
    *,
    name: str,
    disclosure: Path | None,
    rpc: str,
    finality_blocks: int,
    as_json: bool,
) -> int:
    """Check a transcript: offline, and against the chain with --rpc.

    Exits with 1 and names the checks that failed unless all passed.
    """
    from node.app import receipts as app

    path = app.find(_folder(home), name)
    verdict = app.verify_file(
        path,
        disclosure=disclosure or app.disclosure_beside(path),
        rpc=rpc,
        finality_blocks=finality_blocks,
    )
    if as_json:
        print_json(app.verdict_json(verdict))
    else:
        click.echo("\n".join(app.verdict_lines(verdict)))
    return ExitCode.OK if verdict.passed else ExitCode.FAILED


def _folder(home: Path) -> Path:
    from node.app.home import Home

    return Home(home).transcripts


def _line(row: Any) -> str:
    from datetime import UTC, datetime

    from node.units import MS_PER_S, format_micro

    at = datetime.fromtimestamp(row.issued_ms / MS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    counts = f"{row.tokens_in:>6} in {row.tokens_out:>6} out"
    return f"{row.job.hex()}  {at}  {counts}  {format_micro(row.paid_micro):>12}  {row.ending}"
