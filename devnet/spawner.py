"""Starts node commands in a tenth of a second: forks a process that has imported everything.

    python -m devnet.spawner

reads one JSON object per line, ``{"id", "argv", "out", "err", "home", "probe": {…}}``, answers
``{"id", "pid"}``, and ``{"id", "code"}`` once that process has ended.  Each child is a process of
its own that runs the ordinary command line; `kill -9` ends it like any other.  `Spawner` is the
other end.
"""

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from devnet.leash import leashed

_POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
READY_S: Final = 120.0


@dataclass(slots=True, eq=False)
class Child:
    """A started command."""

    pid: int = 0
    code: int | None = None
    """Exit code, or minus the signal; None while it runs."""
    _handle: int | None = None
    """Names this very process, also when its number is another's."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.is_set()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; nothing if it has ended, whoever has its number since."""
        with self._lock:
            if self._handle is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, number)

    def wait(self, timeout_s: float) -> int | None:
        """Its code, or None if it is still running after the time."""
        self._ended.wait(timeout_s)
        return self.code


class Spawner:
    """Starts commands through a spawner process; `close` ends them all."""

    def __init__(self) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("GPUNODE_")}
        self._process = subprocess.Popen(
            leashed([sys.executable, "-m", "devnet.spawner"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # One thread until a child is forked: a fork copies no other.
            env={**environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._children: dict[int, Child] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._follow, daemon=True).start()

    def start(
        self,
        *argv: str,
        home: Path,
        out: Path | None = None,
        err: Path | None = None,
        probe: dict[str, Any] | None = None,
        file_bytes_max: int = 0,
    ) -> Child:
        """Run `node ARGV` in a home.

        Args:
            argv: Without the program's name.
            home: Its home directory.
            out: File for stdout; None throws it away.
            err: File that stderr is appended to; None throws it away.
            probe: Fields of `failpoints.Probe`, as text and numbers.
            file_bytes_max: The kernel refuses what would make a file longer; 0 for no limit.
        """
        child = Child()
        with self._lock:
            number = len(self._children) + 1
            self._children[number] = child
            order = {
                "id": number,
                "argv": list(argv),
                "home": str(home),
                "out": str(out or os.devnull),
                "err": str(err or os.devnull),
                "probe": probe or {},
                "file_bytes_max": file_bytes_max,
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        if not child._started.wait(READY_S):
            raise RuntimeError("the spawner does not answer")
        return child

    def close(self) -> None:
        """End it; the kernel ends what is left of its children."""
        self._process.kill()
        self._process.wait()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            child = self._children[told["id"]]
            if "pid" in told:
                child.pid = told["pid"]
                with suppress(ProcessLookupError):
                    child._handle = os.pidfd_open(child.pid)
                child._started.set()
            else:
                child.code = told["code"]
                with child._lock:
                    if child._handle is not None:
                        os.close(child._handle)
                    child._handle = None
                child._ended.set()


def main() -> None:
    """Fork what is asked for until stdin ends."""
    _import_all()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread is running: it would not be forked"
    ids: dict[int, int] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], _POLL_S)
        if ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _child(order)
                ids[pid] = order["id"]
                _tell({"id": order["id"], "pid": pid})
        while ids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            _tell({"id": ids.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _tell(what: dict[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _import_all() -> None:
    """Everything that a command would import, so that no child has to."""
    import devnet.failpoints  # noqa: F401
    import node.adapters.chain.contracts
    import node.app.redeem
    import node.app.serve
    import node.app.submit
    import node.app.submit_handover
    import node.app.wallet
    import node.cli.init
    import node.cli.main
    import node.cli.redeem
    import node.cli.serve
    import node.cli.submit
    import node.cli.wallet  # noqa: F401


def _child(order: dict[str, Any]) -> NoReturn:
    """Become the command."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        os.setsid()
        _redirect(0, os.devnull, os.O_RDONLY)
        _redirect(1, order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _redirect(2, order["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.environ["GPUNODE_HOME"] = order["home"]
        from devnet.failpoints import Probe, install
        from node.cli.main import run

        if order["probe"]:
            paths = ("trace", "record")
            probe: dict[str, Any] = {
                name: Path(value) if name in paths else value
                for name, value in order["probe"].items()
            }
            install(Probe(**probe))
        _reseed()
        if order["file_bytes_max"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (order["file_bytes_max"], resource.RLIM_INFINITY)
            )
        sys.argv = ["node", *order["argv"]]
        code = run("node")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 71
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _redirect(number: int, path: str, flags: int) -> None:
    descriptor = os.open(path, flags, 0o600)
    os.dup2(descriptor, number)
    os.close(descriptor)


def _reseed() -> None:
    """Trio draws the order of tasks from a generator of its own, which a fork copies."""
    import trio

    trio._core._run._r.seed()


if __name__ == "__main__":
    main()
