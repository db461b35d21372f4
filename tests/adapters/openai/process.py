"""The small server as a process of its own, which a test may kill and start again."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from devnet.homes import free_port

SERVER = "tests.adapters.openai.server"
EMBEDDER = "tests.adapters.openai.embedder"


class Backend:
    """A server on one port, up or not."""

    def __init__(self, *argv: str, port: int = 0, module: str = SERVER) -> None:
        self.port = port or free_port()
        self._module = module
        self._argv = argv
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", self._module,
                "--port", str(self.port), *self._argv,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == self.url

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextmanager
def backend_up(*argv: str, port: int = 0, module: str = SERVER) -> Iterator[Backend]:
    """A running one; it is gone after the block, whatever was done to it."""
    backend = Backend(*argv, port=port, module=module)
    try:
        backend.start()
        yield backend
    finally:
        backend.kill()
