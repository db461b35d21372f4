"""`node submit`."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from node.cli import imports
from node.cli.options import JSON, with_config

_STARTED_S = time.monotonic()


@click.command()
@click.argument("prompt", required=False)
@with_config(bootstrap="network.bootstrap")
@click.option("--model", default="", help="Name or 0x-hash of the model; default: any.")
@click.option("--system", default="", help="System message before the prompt.")
@click.option(
    "--system-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="The same from a file.",
)  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.0, show_default=True)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--top-k", type=click.IntRange(0), default=0, help="0 keeps all.")
@click.option("--frequency-penalty", type=click.FloatRange(-2, 2), default=0.0)
@click.option("--presence-penalty", type=click.FloatRange(-2, 2), default=0.0)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Same seed, same answer.")
@click.option("--stop", "stops", multiple=True, help="End before this text; repeatable.")
@click.option("--ignore-eos", is_flag=True, help="Go on to --max-tokens.")
@click.option(
    "--max-price", "price_micro_max", type=click.IntRange(0), metavar="MICRO",
    help="Most that the job may cost, in millionths of a coin.",
)  # fmt: skip
@click.option(
    "--deadline", "deadline_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
    help="Pass over offers predicted to take longer.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(["score", "price", "latency", "throughput"]), default="score",
    show_default=True, help="What the best offer is.",
)  # fmt: skip
@click.option("--worker", default="", help="PeerID or address of the one worker to use.")
@click.option("--region", default="", help="Only workers that say they are there.")
@click.option("--bootstrap", multiple=True, help="Multiaddr of a peer to start from; repeatable.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), default=300.0,
    show_default=True, metavar="SECONDS", help="Cut the job off after this.",
)  # fmt: skip
@JSON
def submit(
    config: Any,
    *,
    prompt: str | None,
    system: str,
    system_file: Path | None,
    as_json: bool,
    stops: tuple[str, ...],
    **options: Any,
) -> int:
    """Buy one answer to PROMPT, or to stdin if PROMPT is - or not given.

    Every user of the machine can read command lines: give what is private on stdin or in a file.

    Tokens go to stdout as they arrive, all else to stderr.  With --json, one object on stdout at
    the end.  If a gateway of the same home is running, it does the job, and begins at once.
    """
    from node.app import submit_handover
    from node.app.submit_request import SubmitRequest

    request = SubmitRequest(
        prompt=_read(prompt),
        system=_system(system, system_file),
        stops=stops,
        started_s=_STARTED_S,
        **options,
    )
    code = submit_handover.run(config, request, json=as_json)
    if code is not None:
        return code
    with imports.quick():
        from node.app import submit as app

    return app.run(config, request, json=as_json)


def _system(text: str, file: Path | None) -> str:
    if file is None:
        return text
    if text:
        raise click.UsageError("--system and --system-file both give a system message")
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--system-file: {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--system-file: {file} is not UTF-8: {error.reason}") from error


def _read(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("no prompt: give one, or - for stdin")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"stdin is not UTF-8: {error.reason}") from error
