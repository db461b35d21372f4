"""TCP between clients and workers that can be cut: nothing comes through, and nobody is told.

    python -m tests.failover.links PORT PORT …

Listens for each worker's port on one of its own and prints them; then takes orders, one a line:
``cut N`` and ``heal N``.  A process of its own, so that it takes no time of those it connects.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from devnet.leash import leashed

HOST = "127.0.0.1"
CHUNK = 65536


@dataclass(slots=True)
class Line:
    """The way to one worker."""

    port: int
    scopes: set[trio.CancelScope] = field(default_factory=set)
    """Of the connections: they end when the line is mended, and new ones are made."""
    cut: bool = False

    async def serve(self, near: trio.SocketStream) -> None:
        """One connection, both ways."""
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                far = await trio.open_tcp_stream(HOST, self.port)
            except OSError:
                await near.aclose()
                return
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, near, far, nursery.cancel_scope)
                nursery.start_soon(self._carry, far, near, nursery.cancel_scope)

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK):
                if self.cut:
                    await trio.sleep_forever()
                await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        if self.cut:  # the end of one side does not come through either
            await trio.sleep_forever()
        scope.cancel()


async def main(ports: Sequence[int]) -> None:
    """Serve until stdin ends."""
    lines = [Line(port) for port in ports]
    async with trio.open_nursery() as nursery:
        listening = []
        for line in lines:
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            listening.append(listener.socket.getsockname()[1])
            nursery.start_soon(trio.serve_listeners, line.serve, [listener])
        print(json.dumps(listening), flush=True)
        while order := await trio.to_thread.run_sync(sys.stdin.readline):
            what, number = order.split()
            line = lines[int(number)]
            line.cut = what == "cut"
            if what == "heal":
                for scope in line.scopes:
                    scope.cancel()
                line.scopes.clear()
            print("done", flush=True)
        nursery.cancel_scope.cancel()


class Links:
    """The lines to a devnet's workers, in their order."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        self.ports: list[int] = json.loads(process.stdout.readline())

    def cut(self, number: int) -> None:
        """From now on nothing comes through, in either direction."""
        self._order(f"cut {number}")

    def heal(self, number: int) -> None:
        """The old connections are gone; new ones work."""
        self._order(f"heal {number}")

    def _order(self, order: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def links(ports: Sequence[int]) -> Iterator[Links]:
    """Lines to these ports, for as long as the block runs."""
    command = [sys.executable, "-m", "tests.failover.links", *map(str, ports)]
    process = subprocess.Popen(
        leashed(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Links(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    trio.run(main, [int(port) for port in sys.argv[1:]])
