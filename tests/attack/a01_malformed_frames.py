"""1: malformed frames of every kind, before and after the hello, on channels, in accepted jobs."""

from node.protocol.frames import FRAMES
from tests.attack.harness import OPTIONS, Figures, World, at_least, at_most


class MalformedFrames:
    """Each frame gets a connection of its own: the victim cuts every one."""

    number = 1
    name = "malformed frames"
    target = "10,000 malformed frames: 0 crashes, RSS + < 20 MB"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        count = world.count(10_000, 30)
        home = str(world.net.clients[0].home)
        with world.memory() as memory:
            attacker = world.start(
                "frames", count=count, tasks=world.count(4, 1), seed=1, home=home
            )
            result = attacker.result(7200)
        return Figures(
            checks=(
                at_least("malformed frames", result["sent"], count),
                at_least("kinds", result["kinds"], len(FRAMES)),
                at_least("accepted jobs spoiled", result["stages"].get("acceptances", 0), 1),
                at_most("connections not cut in 10 s", result["not_cut"], 0),
                at_most("RSS +", memory.grown_mb, 20, "MB"),
            ),
            details=result,
        )
