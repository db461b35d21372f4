"""`node doctor`."""

import os
from pathlib import Path
from typing import Any

import click

from node.cli.options import (
    JSON,
    SERVER_KEY_FILE,
    SERVER_MODELS,
    SERVER_URL,
    print_json,
    with_home,
)
from node.errors import ExitCode

_MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM ", "skipped": "-       "}


@click.command()
@with_home
@SERVER_URL
@SERVER_MODELS
@SERVER_KEY_FILE
@JSON
def doctor(
    home: Path,
    settings: dict[str, Any],
    *,
    url: str | None,
    models: tuple[str, ...],
    key_file: str | None,
    as_json: bool,
) -> int:
    """Check this machine and home, with numbered fixes.

    With --url, or where the home sells an OpenAI-compatible server: what that server can do with
    each model, and the tier that follows.

    Exits with 1 if a problem keeps a node from working; warnings don't count.
    """
    from node.app import doctor as app

    given = {"engine.url": url, "engine.models": models, "engine.key_file": key_file}
    settings = settings | {name: value for name, value in given.items() if value}
    if url:
        settings["engine.kind"] = "openai"
    findings = app.examine(home, flags=settings, environ=os.environ)
    ready = app.ready(findings)
    if as_json:
        print_json({"ok": ready, "checks": [finding.to_json() for finding in findings]})
        return ExitCode.OK if ready else ExitCode.FAILED
    for finding in findings:
        click.echo(f"{_MARKS[finding.status]} {finding.name:<13} {finding.detail}")
        for row in finding.rows:
            click.echo(f"{'':22} {row}")
    fixes = [finding for finding in findings if finding.fix]
    for number, finding in enumerate(fixes, start=1):
        click.echo(f"{number}. {finding.name}: {finding.fix}")
    return ExitCode.OK if ready else ExitCode.FAILED
