"""1: malformed frames of every kind, at every stage of a session, to a worker and to a client."""

from node.protocol.frames import FRAMES
from tests.attack.harness import OPTIONS, Figures, World, at_least, at_most


class MalformedFrames:
    """Each frame gets a session of its own: the victim cuts every one.

    To the worker before and after the hello, on channels and in accepted jobs; to a client, which
    goes on buying, by the workers that it dials.
    """

    number = 1
    name = "malformed frames"
    target = "10,000 malformed frames: 0 crashes, RSS + < 20 MB"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        count, tasks = world.count(10_000, 30), world.count(4, 1)
        home = str(world.net.clients[0].home)
        with world.memory() as memory:
            attacker = world.start("frames", count=count, tasks=tasks, seed=1, home=home)
            result = attacker.result(7200)
        client = self._against_a_client(world)
        return Figures(
            checks=(
                at_least("malformed frames", result["sent"], count),
                at_least("kinds", result["kinds"], len(FRAMES)),
                at_least("accepted jobs spoiled", result["stages"].get("acceptances", 0), 1),
                at_most("connections not cut in 10 s", result["not_cut"], 0),
                at_most("RSS +", memory.grown_mb, 20, "MB"),
                at_least("to a client", client["sent"], world.count(500, 5)),
                at_most("the client's failed jobs", client["failed"], 0),
                at_most("the client's RSS +", client["grown_mb"], 20, "MB"),
            ),
            details={"worker": result, "client": client},
        )

    def _against_a_client(self, world: World) -> dict[str, float]:
        """A client of the funded home buys from the victim, and knows rogue workers besides."""
        wanted, jobs = world.count(500, 5), 0
        rogues = world.start("rogue_sellers", identities=world.count(20, 4), seed=2)
        addrs = [world.victim.multiaddr, *rogues.wait_line()["addrs"]]
        arguments = [each for addr in addrs for each in ("--bootstrap", addr)]
        worker = world.orders()["worker"]
        buyer = world.start_buyer(
            world.net.clients[0].home, *arguments, "--worker", worker, "--every", "0.5"
        )
        buyer.wait_first()
        sent = 0
        with world.memory(buyer.pid) as memory:
            while sent < wanted or len(buyer.jobs) < 3:
                sent = rogues.wait_line()["sent"]
                assert buyer.running, buyer.log.read_text(errors="replace")[-3000:]
        jobs = len(buyer.jobs)
        failed = sum(bool(job.failure) for job in buyer.jobs)
        buyer.stop()
        rogues.stop()
        return {"sent": sent, "jobs": jobs, "failed": failed, "grown_mb": memory.grown_mb}
