"""Steps that tests with a market share."""

from collections.abc import Iterator
from contextlib import contextmanager

from devnet.spawner import Child
from tests.crash.world import COMMAND_S, Party, World


@contextmanager
def serving(market: World) -> Iterator[Child]:
    """The worker, up for a while."""
    child = market.serve()
    assert market.ready(child), market.worker.log.read_text()[-2000:]
    try:
        yield child
    finally:
        child.kill(15)
        code = child.wait(COMMAND_S)
    assert code == 0


def ended(party: Party, child: Child) -> tuple[int | None, str]:
    """Its exit code, and what it said since the last call."""
    code = child.wait(COMMAND_S)
    text = party.log.read_text()
    party.log.write_text("")
    assert "Traceback" not in text
    return code, text
