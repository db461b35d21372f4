"""Real node processes: started on a leash, watched until they answer, ended without leftovers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from devnet.leash import leashed
from node.app import control
from node.app.home import Home
from node.errors import Unavailable

READY_S: Final = 60.0
STOP_S: Final = 4.0
"""Time for a clean end; what is left is killed."""
_POLL_S: Final = 0.05
_LOG_TAIL_BYTES: Final = 2_000


class DevnetError(Exception):
    """The devnet can't be brought up; says what to look at."""


class NodeProcess:
    """One node of a devnet, with its log in a file."""

    def __init__(self, command: Sequence[str], *, home: Path, log: Path) -> None:
        """Start it.

        Args:
            command: The program and its arguments.
            home: The home that it serves.
            log: Where its stdout and stderr go.
        """
        self.home = Home(home)
        self.log = log
        environ = {k: v for k, v in os.environ.items() if not k.startswith("GPUNODE_")}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,  # Ctrl-C is ours to handle, in order
            )

    @property
    def pid(self) -> int:
        """Its process id: the leash becomes the program."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, method: str, **parameters: Any) -> Any:
        """Ask it over its control socket; errors as `control.call`."""
        return control.call(self.home, method, parameters, timeout_s=READY_S)

    def wait_ready(self, deadline_s: float) -> Mapping[str, Any]:
        """Its first answer to `status`.

        Args:
            deadline_s: Monotonic time until which to wait.

        Raises:
            DevnetError: It ended, or did not answer in time.
        """
        while self.running and time.monotonic() < deadline_s:
            with suppress(Unavailable):
                status: Mapping[str, Any] = self.ask("status")
                return status
            time.sleep(_POLL_S)
        how = "did not answer in time" if self.running else f"ended with {self._process.returncode}"
        raise DevnetError(f"the node in {self.home.path} {how}:\n{self._log_tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        if self.running:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it is still running after the time."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def _log_tail(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")


def worker_command(home: Path, misbehaviour: str) -> list[str]:
    """What runs a worker: `node serve`, or the same with a cheat in it."""
    program = ["devnet.misbehave", misbehaviour] if misbehaviour else ["node", "serve"]
    return [sys.executable, "-m", *program, "--home", str(home)]


def stop_all(processes: Iterable[NodeProcess], *, timeout_s: float = STOP_S) -> None:
    """End them together: SIGTERM, and SIGKILL for those that have not gone in time."""
    left = [process for process in processes if process.running]
    for process in left:
        process.signal(signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    for process in left:
        if process.wait(max(0.0, deadline_s - time.monotonic())) is None:
            process.signal(signal.SIGKILL)
            process.wait(timeout_s)
