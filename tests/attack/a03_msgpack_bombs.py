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
        self._send(world, times=1, home=home)  # the first jobs of a node let it grow
        with world.memory() as memory:
            measured, sent = self._send(world, times=world.count(500, 8), home=home)
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

    def _send(self, world: World, *, times: int, home: str) -> tuple[dict, dict]:  # type: ignore[type-arg]
        bomber = world.start("bombs", times=times, stride=world.count(1, 20), home=home)
        measured = bomber.wait_line()
        bomber.tell("")
        return measured, bomber.result(1800)
