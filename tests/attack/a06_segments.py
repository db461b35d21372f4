"""6: a network that delivers TCP in small pieces."""

import shutil

from tests.attack.harness import OPTIONS, Figures, World, at_least, at_most

SEGMENTS = (64, 200, 536, 1400)
DELAY_S = 0.0002
WORDS = 300


class Segments:
    """A client behind a proxy that cuts everything, both ways, and has none of the files yet."""

    number = 6
    name = "TCP in small segments"
    target = "TCP segments of 64 / 200 / 536 / 1400 B: every job completes"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        home, done, wanted, times = world.net.clients[0].home, 0, 0, {}
        failures: list[str] = []
        jobs = world.count(10, 1)
        for segment in SEGMENTS if world.full else SEGMENTS[:1]:
            proxy = world.start("segments", segment=segment, delay_s=DELAY_S, nice=0)
            port = proxy.wait_line()["port"]
            parts = world.victim.multiaddr.split("/")
            parts[4] = str(port)
            shutil.rmtree(home / "files", ignore_errors=True)
            buyer = world.start_buyer(
                home, "--bootstrap", "/".join(parts), "--jobs", str(jobs), "--words", str(WORDS)
            )
            ended = buyer.wait_end(120)
            proxy.stop()
            wanted += jobs
            done += sum(not job.failure and job.tokens > 0 for job in ended)
            failures += [job.failure for job in ended if job.failure]
            times[segment] = [round(job.took_s, 3) for job in ended]
        return Figures(
            checks=(
                at_least("jobs completed", done, wanted),
                at_most("jobs failed", len(failures), 0),
            ),
            details={"job_s": times, "failures": failures[:5]},
        )
