"""`node doctor`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from node.cli.options import JSON, print_json, with_home
from node.errors import ExitCode

_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM ", "skipped": "-       "}


@click.command()
@with_home
@JSON
def doctor(home: Path, settings: dict[str, Any], *, as_json: bool) -> int:
    """Check this machine and home, with numbered fixes.

    Exits with 1 if a problem keeps a node from working; warnings don't count.
    """
    from node.app import doctor as app

    findings = app.examine(home, flags=settings, environ=os.environ)
    ready = app.ready(findings)
    if as_json:
        print_json({"ok": ready, "checks": [asdict(finding) for finding in findings]})
        return ExitCode.OK if ready else ExitCode.FAILED
    for finding in findings:
        click.echo(f"{_MARKS[finding.status]} {finding.name:<13} {finding.detail}")
    fixes = [finding for finding in findings if finding.fix]
    for number, finding in enumerate(fixes, start=1):
        click.echo(f"{number}. {finding.name}: {finding.fix}")
    return ExitCode.OK if ready else ExitCode.FAILED
