"""4: bytes beyond a stream's window, and more streams than anybody needs."""

from tests.attack.harness import OPTIONS, Figures, World, at_least, at_most


class YamuxFloods:
    """Written below the library, which would keep to the windows."""

    number = 4
    name = "Yamux floods"
    target = "480 MB window flood; 20,000 SYNs: cut ≤ 1 s, ≤ 64 live streams, RSS + < 20 MB"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        floods, times = [], world.count(3, 1)
        with world.memory() as memory:
            for _ in world.rounds():
                flood = world.start("yamux", megabytes=480, streams=20_000, times=times)
                floods.append(flood.result())
        cut_s = max(each["cut_s_max"] for each in floods)
        return Figures(
            checks=(
                at_least("floods", sum(each["times"] for each in floods), 3 * times),
                at_most("floods not cut", sum(each["not_cut"] for each in floods), 0),
                at_most("cut after", cut_s, 1 if world.full else 5, "s"),
                at_most("live streams", max(each["live_max"] for each in floods), 64),
                at_most("RSS +", memory.grown_mb, 20, "MB"),
            ),
            details={"floods": floods},
        )
