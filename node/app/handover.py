"""Handing over to the real Node.js.  Imports little: nobody knows yet whose command it is."""

import os
import sys

TYPE_CHECKING = False  # what typing.TYPE_CHECKING means, without its import
if TYPE_CHECKING:
    from typing import NoReturn

DEPTH = "GPUNODE_HANDOVER_DEPTH"
DEPTH_MAX = 40
"""Far above what npm scripts nest; a loop reaches it in a second."""
NOT_FOUND = 127


def hand_over(arguments: list[str]) -> "NoReturn":
    """Replace this process by Node.js; exit code 127 when there is none."""
    depth = os.environ.get(DEPTH, "0")
    hops = int(depth) + 1 if depth.isdecimal() else 1
    real = find_nodejs()
    if real is None:
        _give_up(
            "node: this is gpunode's command, and there is no Node.js on PATH to hand over to\n"
            "hint: install Node.js, or see `node help` for our own commands"
        )
    if hops > DEPTH_MAX:
        _give_up(f"node: {real} leads back to gpunode's command: take it off PATH")
    os.environ[DEPTH] = str(hops)
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
