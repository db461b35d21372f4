"""The command `node`: ours if it names one of our verbs, else the real Node.js.

A console script called `node` stands before Node.js on PATH once the environment is active, and
npm, npx and everything with ``#!/usr/bin/env node`` then run this.  So whatever is not ours is
handed over, before anything is imported: Python's start is all that it costs.
"""

import os
import sys

from node.app.handover import hand_over
from node.cli.verbs import VERBS

_OUR_OPTIONS = ("-h", "--help", "--home", "--set")
_MODULE_SUFFIXES = ("", ".js", ".json", ".node")
"""What Node.js tries after a script's name."""


def main() -> None:
    """Run our command line, or replace this process by Node.js."""
    invoked_as = os.path.basename(sys.argv[0])
    if invoked_as != "node" or _is_ours(sys.argv[1:]):
        sys.exit(_run("node" if invoked_as == "__main__.py" else invoked_as))
    hand_over(sys.argv[1:])


def _run(name: str) -> int:
    try:
        from node.cli.main import run
    except KeyboardInterrupt:  # later ones are `run`'s to tell of
        from node.errors import ExitCode

        sys.stderr.write("interrupted\n")
        return ExitCode.INTERRUPTED
    return run(name)


def _is_ours(arguments: list[str]) -> bool:
    if not arguments:
        # `node < script.js` is Node.js's.
        return sys.stdin is not None and sys.stdin.isatty()
    first = arguments[0]
    if first in VERBS or first == "help" or first.split("=")[0] in _OUR_OPTIONS:
        return True
    if first.startswith("-") or first == "inspect" or "/" in first or "." in first:
        return False
    return not any(os.path.exists(first + suffix) for suffix in _MODULE_SUFFIXES)


if __name__ == "__main__":
    main()
