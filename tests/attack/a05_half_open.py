"""5: handshakes that never end and streams of a byte a second, while newcomers connect."""

from tests.attack.harness import OPTIONS, Figures, World, at_least, at_most


class HalfOpen:
    """Honest newcomers with fresh keys connect throughout, besides the clients that buy."""

    number = 5
    name = "half-open handshakes and slow streams"
    target = "500 half-open handshakes; 1 byte/s streams: gone ≤ 12 s; honest connect ≤ 2 s"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        newcomer = world.start("connect", every_s=0.2, nice=0)
        newcomer.wait_line()
        results = []
        with world.memory() as memory:
            for _ in world.rounds():
                count, streams = world.count(500, 60), world.count(50, 4)
                slow = world.start("slow", count=count, streams=streams, hold_s=20)
                results.append(slow.result())
        lines = newcomer.ended_lines()
        failures = [each["failure"] for each in lines if each["failure"]]
        return Figures(
            checks=(
                at_least("connections", results[0]["connections"], 0.9 * (count + streams)),
                at_most("kept", sum(sum(each["kept"].values()) for each in results), 0),
                at_most("gone after", max(each["held_s_max"] for each in results), 12, "s"),
                at_most("RSS +", memory.grown_mb, 40, "MB"),
                at_least("newcomers", len(lines), 3),
                at_most("newcomers refused", len(failures), 0),
                at_most("connect", max(each["took_s"] for each in lines), 2, "s"),
            ),
            details={"slow": results, "refusals": failures[:5]},
        )
