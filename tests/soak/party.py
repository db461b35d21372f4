"""The processes of a soak, and what is sampled of them."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from devnet.leash import leashed

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20
END_S: Final = 60.0


class Sample(NamedTuple):
    """What one process holds at one moment."""

    at_s: float
    rss_mb: float
    descriptors: int
    tasks: int


class Buyer:
    """A client process; started again under the same name after a kill."""

    def __init__(self, home: Path, *, every_s: float) -> None:
        self.home, self._every_s = home, every_s
        self.jobs = 0
        self.failures: Counter[str] = Counter()
        self.tasks = 0
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """From the main thread: its process ends with the thread that starts it."""
        command = [sys.executable, "-m", "tests.soak.buyer", "--home", str(self.home)]
        command += ["--every", str(self._every_s)]
        with self.home.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                leashed(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(END_S)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                job: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed
                continue
            with self._lock:
                self.jobs += 1
                self.tasks = job["tasks"]
                if job["failure"]:
                    self.failures[job["failure"]] += 1


def sample(pid: int, *, at_s: float, tasks: int) -> Sample | None:
    """What a process holds now; None if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Sample(at_s=at_s, rss_mb=pages * PAGE_MB, descriptors=descriptors, tasks=tasks)
