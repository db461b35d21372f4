"""The command `node`: ours if it names one of our verbs, else the real Node.js.

A console script called `node` stands before Node.js on PATH once the environment is active, and
npm, npx and everything with ``#!/usr/bin/env node`` then run this.  So whatever is not ours is
handed over, before anything is imported: Python's start is all that it costs.
"""

import os
import sys

from node.cli.verbs import VERBS

TYPE_CHECKING = False  # what typing.TYPE_CHECKING means, without its import
if TYPE_CHECKING:
    from typing import NoReturn

HANDOVER_DEPTH = "GPUNODE_HANDOVER_DEPTH"
HANDOVERS_MAX = 40
"""Far above what npm scripts nest; a loop reaches it in a second."""
NOT_FOUND = 127

_OUR_OPTIONS = ("-h", "--help", "--home", "--set")
_MODULE_SUFFIXES = ("", ".js", ".json", ".node")
"""What Node.js tries after a script's name."""


def main() -> None:
    """Run our command line, or replace this process by Node.js."""
    invoked_as = os.path.basename(sys.argv[0])
    if invoked_as != "node" or _is_ours(sys.argv[1:]):
        from node.cli.main import run

        sys.exit(run("node" if invoked_as == "__main__.py" else invoked_as))
    _hand_over(sys.argv[1:])


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


def _hand_over(arguments: list[str]) -> "NoReturn":
    depth = os.environ.get(HANDOVER_DEPTH, "0")
    hops = int(depth) + 1 if depth.isdecimal() else 1
    real = find_nodejs()
    if real is None:
        _give_up(
            "node: this is gpunode's command, and there is no Node.js on PATH to hand over to\n"
            "hint: install Node.js, or see `node help` for our own commands"
        )
    if hops > HANDOVERS_MAX:
        _give_up(f"node: {real} leads back to gpunode's command: take it off PATH")
    os.environ[HANDOVER_DEPTH] = str(hops)
    _restore_signals()
    os.execv(real, ["node", *arguments])


def _give_up(message: str) -> "NoReturn":
    sys.stderr.write(message + "\n")
    sys.exit(NOT_FOUND)


def find_nodejs() -> str | None:
    """Absolute path of the first `node` on PATH that is not this command, or None."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.abspath(os.path.join(folder, "node"))
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK) and not _is_us(candidate):
            return candidate
    return None


def _is_us(candidate: str) -> bool:
    """Whether it is a console script of this package, in whichever environment."""
    try:
        with open(candidate, "rb") as script:
            return b"node.__main__" in script.read(1024)
    except OSError:
        return False  # executable, not readable: not a script that pip wrote


def _restore_signals() -> None:
    """Python ignores these at its start, and exec would pass that on."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


if __name__ == "__main__":
    main()
