"""`node gateway` as a process of a test."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60


@dataclass(frozen=True)
class Gateway:
    """A gateway that is ready."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.url + "/v1"


@contextmanager
def gateway_up(home: str, log: Path, *argv: str) -> Iterator[Gateway]:
    """Run it on any free port; ended by SIGTERM, as a user would."""
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "gateway", "--port", "0", *argv],
            stdout=subprocess.DEVNULL,
            stderr=err,
            env={**os.environ, "GPUNODE_HOME": home},
        )
    try:
        yield Gateway(process, _port(process, log), log)
    finally:
        process.terminate()
        assert process.wait(20) == 0, log.read_text()[-4000:]


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(START_S * 20):
        lines = log.read_text().splitlines()
        if "ready" in lines:
            address = next(line for line in lines if line.startswith("base URL"))
            return int(address.split("/v1")[0].rpartition(":")[2])
        assert process.poll() is None, "\n".join(lines)
        time.sleep(0.05)
    raise AssertionError("the gateway is not ready: " + log.read_text())
