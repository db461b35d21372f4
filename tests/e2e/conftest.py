"""A devnet of real processes, as a user starts it, and the commands as a user calls them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_S = 120
COMMAND_S = 120


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Devnet:
    """A running devnet and its ready line."""

    pid: int
    ready: dict[str, Any]

    @property
    def client_homes(self) -> list[str]:
        return list(self.ready["client_homes"])

    def node(self, *argv: str, home: str | None = None, stdin: str = "") -> Ran:
        """Run a command of a client's home (the first one, if none is named) to its end."""
        process = self.start(*argv, home=home)
        out, err = process.communicate(stdin, timeout=COMMAND_S)
        return Ran(process.returncode, out, err)

    def start(self, *argv: str, home: str | None = None) -> subprocess.Popen[str]:
        """Start a command; the caller waits for it."""
        environ = {**os.environ, "GPUNODE_HOME": home or self.ready["client_home"]}
        return subprocess.Popen(
            [sys.executable, "-m", "node", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )

    def submit(self, *argv: str, home: str | None = None) -> dict[str, Any]:
        """A job that must end well; its JSON."""
        ran = self.node("submit", "--json", *argv, home=home)
        assert ran.code == 0, ran.err
        result: dict[str, Any] = ran.json
        return result

    def worker(self, address: str) -> dict[str, Any]:
        """The ready line's entry of a worker."""
        [entry] = [w for w in self.ready["workers"] if w["address"].lower() == address.lower()]
        result: dict[str, Any] = entry
        return result


@contextmanager
def devnet_up(path: Path, *argv: str) -> Iterator[Devnet]:
    """`python -m devnet up` until its ready line; ended by SIGTERM, as a user would."""
    with (path / "devnet.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "devnet", "up", "--json", "--home", str(path / "d"), *argv],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (path / "devnet.log").read_text()[-4000:]
        yield Devnet(process.pid, json.loads(line))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    """Three honest workers, one client: shared by the tests that leave it as they found it."""
    with devnet_up(tmp_path_factory.mktemp("devnet"), "--workers", "3") as running:
        yield running
