"""3: bombs for the decoder, as frames and as bodies of accepted requests."""

from tests.attack.harness import MB, OPTIONS, Figures, World, at_least, at_most


class MsgpackBombs:
    """Times are CPU seconds of our decoder in a process of its own, the quickest of five."""

    number = 3
    name = "msgpack bombs"
    target = "msgpack bombs: rejected < 5 ms each, RSS + < 5 MB"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        home = str(world.net.clients[0].home)
        times, stride = world.count(500, 8), world.count(1, 20)
        bomber = world.start("bombs", times=times, stride=stride, home=home)
        measured = bomber.wait_line()
        with world.memory() as memory:
            bomber.tell("go on")
            sent = bomber.result(1800)
        return Figures(
            checks=(
                at_least("bombs", measured["bombs"], world.count(400, 25)),
                at_most("slowest refusal", 1000 * measured["slowest_s"], 5, "ms"),
                at_most("most allocated", measured["peak_bytes"] / MB, 5, "MB"),
                at_least("sent", sent["sent"] + sent["bodies"], world.count(400, 8)),
                at_most("connections not cut", sent["kept"], 0),
                at_least("bodies after an acceptance", sent["accepted"], 1),
                at_most("RSS +", memory.grown_mb, 5, "MB"),
            ),
            details={"measured": measured, "sent": sent},
        )
