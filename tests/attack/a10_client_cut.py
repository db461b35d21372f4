"""10: clients that are gone at every place of a job: what their worker loses."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from devnet.network import Options
from tests.attack import saved
from tests.attack.accounts import MONEY, PAYMENT_S, QUANTUM_MICRO, funded
from tests.attack.cutting import MODES
from tests.attack.harness import Figures, World, at_least, at_most

FRAMES_MAX: Final = 60
"""Of one job, both directions."""
NOTICED_S: Final = {"reset": 2.0, "kill": 2.0, "silent": 2 * PAYMENT_S + 2.0}
"""Until the slot is free again: at once if the connection ends; else the worker's patience, for the
request or for a voucher, which half a quantum may renew once."""
_ENDED = re.compile(
    r'^timestamp=(\S+) .*event="segment ended" job=(\w+) .*earned_micro=(\d+) paid_micro=(\d+)',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """What the worker said of a segment."""

    at_s: float
    earned_micro: int
    paid_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    mode: str
    frame: str
    loss_micro: int
    returned_s: float
    """From the cut until the worker had let go; 0 where it had not begun."""


class ClientCut:
    """Before and after every message, by TCP reset, by kill -9, and by silence."""

    number: int = 10
    name: str = "the client is cut off"
    target: str = "client cut before / after every message: worker loses ≤ 1 quantum"
    options: Options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        step = world.count(1, 17)
        scratch = world.scratch / "cut-clients"
        scratch.mkdir()
        keys = funded(world, len(MODES) * 2 * FRAMES_MAX // step + len(MODES))
        attacker = world.start(
            "cut_client",
            keys=[key.hex() for key in keys],
            home=str(world.net.clients[0].home),
            scratch=str(scratch),
            step=step,
            parallel=world.count(3, 12),
        )
        cases = []
        while "done" not in (line := attacker.wait_line()):
            cases.append(line)
        attacker.stop()
        time.sleep(1.0)
        cuts = list(self._judged(world, cases))
        places = Counter((cut.mode, cut.frame) for cut in cuts)
        late = [cut for cut in cuts if cut.returned_s > NOTICED_S[cut.mode] * world.count(1, 4)]
        worst = {
            mode: max((cut.returned_s for cut in cuts if cut.mode == mode), default=0.0)
            for mode in MODES
        }
        return Figures(
            checks=(
                # A job that was delivered in fewer chunks than the first has fewer places.
                at_least("cuts", len(cuts), world.count(75, 4)),
                at_least("kinds of message", len({cut.frame for cut in cuts}), world.count(8, 2)),
                at_most("worst loss", max(cut.loss_micro for cut in cuts), QUANTUM_MICRO, "micro"),
                at_most("slots not returned in time", len(late), 0),
                *(at_most(f"slot back after {m}", worst[m], 4 * NOTICED_S[m], "s") for m in MODES),
            ),
            details={
                "frames": line["frames"],
                "places": {" ".join(key): count for key, count in places.items()},
                "late": late,
                "losses": dict(Counter(cut.loss_micro for cut in cuts)),
            },
        )

    def _judged(self, world: World, cases: list[dict[str, str]]) -> Iterator[_Cut]:
        ended = ended_segments(world.victim.process.log)
        for case in cases:
            note = Path(case["home"]) / "cut.txt"
            if not note.exists():
                continue  # a job of fewer frames than the first: nothing was cut
            cut_s, frame = note.read_text().split()[:2]
            rows = saved.jobs(world.victim.identity.home, bytes.fromhex(case["client"]))
            losses, returned_s = [0], [0.0]
            for job in rows:
                assert job.hex() in ended, f"a slot is still taken: {case}"
                segment = ended[job.hex()]
                losses.append(segment.earned_micro - segment.paid_micro)
                returned_s.append(segment.at_s - float(cut_s))
            yield _Cut(
                mode=case["mode"],
                frame=frame,
                loss_micro=max(losses),
                returned_s=max(returned_s),
            )


def ended_segments(log: Path) -> dict[str, _Ended]:
    """What a worker's log says of the segments that have ended, by job."""
    return {
        job: _Ended(
            at_s=datetime.fromisoformat(at).timestamp(),
            earned_micro=int(earned),
            paid_micro=int(paid),
        )
        for at, job, earned, paid in _ENDED.findall(log.read_text())
    }
