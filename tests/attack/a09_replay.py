"""9: every signed statement, in another place, another name, changed, or once more."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from devnet.network import Options
from node.app.home import Home
from node.app.receipts import TRANSCRIPT_SUFFIX
from node.app.unlock import session_key
from node.config import load
from tests.attack.accounts import MONEY, funded
from tests.attack.harness import Figures, World, at_least, at_most
from tests.attack.replay_chain import ChainMatrix
from tests.attack.replay_matrix import Cell, table
from tests.attack.replay_transcript import TranscriptMatrix
from tests.attack.rogues import rogue_worker


class Replay:
    """Four places take statements: a running worker, a running client, `verify`, the escrow."""

    number: int = 9
    name: str = "replay matrix"
    target: str = (
        "replay matrix (chain, contract, payer, worker, lower amount, high-s): all refused"
    )
    options: Options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        cells = self._worker(world) + self._client(world)
        cells += ChainMatrix(world.net.chain, every=self._every(world)).run()
        for line in table(cells):
            world.say(line)
        taken = [cell for cell in cells if not cell.refused]
        sizes = Counter(cell.place for cell in cells if cell.refused)
        return Figures(
            checks=(
                at_least("cells", len(cells), sum(SIZES.values()) if world.full else 1),
                at_most("not refused", len(taken), 0),
                *(
                    at_least(f"refused by {place}", sizes[place], size if world.full else 1)
                    for place, size in SIZES.items()
                ),
            ),
            details={"taken": [asdict(cell) for cell in taken], "table": table(cells)},
        )  # fmt: skip

    def _every(self, world: World) -> int:
        """Of each place's cells one in so many is tried."""
        return world.count(1, 12)

    def _worker(self, world: World) -> list[Cell]:
        (key,) = funded(world, 1)
        home = str(world.victim.identity.home)
        attacker = world.start(
            "replay_client", key=key.hex(), victim_home=home, every=self._every(world)
        )
        return [Cell(**cell) for cell in attacker.result()["cells"]]

    def _client(self, world: World) -> list[Cell]:
        """The client's own row, and then what `verify` says of the transcripts it made."""
        home = world.net.clients[0].home
        with rogue_worker(world, "replay-rogue") as rogue:
            victim = world.start(
                "replay_buyer", home=str(home), every=self._every(world), **rogue.orders()
            )
            cells = [Cell(**cell) for cell in victim.result()["cells"]]
            worker_key = session_key(load(rogue.identity.home))
        scratch = world.scratch / "transcripts"
        scratch.mkdir()
        forger = TranscriptMatrix(
            client_key=session_key(load(home)), worker_key=worker_key, scratch=scratch
        )
        files = sorted(_files(Home(home).transcripts), key=lambda path: path.stat().st_mtime_ns)
        return cells + forger.run(files, by_command=world.full, whole=world.full)


SIZES = {"worker": 60, "client": 47, "verify": 58, "escrow": 41}
"""Cells per place."""


def _files(folder: Path) -> Iterable[Path]:
    return folder.glob(f"*{TRANSCRIPT_SUFFIX}")
