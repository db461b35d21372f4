"""7: most offers are too good, and come from identities that do nothing for them."""

from collections import Counter

from devnet import homes
from tests.attack.attackers.sybils import TRICKS
from tests.attack.harness import OPTIONS, Figures, World, at_least

NETWORKS = 4
CONTEXT = 2048


class Sybils:
    """New clients, without a record of anybody, that know all the workers and all the Sybils."""

    number = 7
    name = "Sybils with the best offers"
    target = "90 % Sybils among 200 offers: an honest worker chosen ≥ 95 %"
    options = OPTIONS

    def run(self, world: World) -> Figures:
        """See the class."""
        honest = world.count(20, 3)
        sybils = 9 * honest
        jobs = world.count(100, 10)
        workers, addrs = self._open_shops(world, honest - 1)
        flood = world.start(
            "sybils",
            count=sybils,
            networks=NETWORKS,
            context_max=CONTEXT,
            known=addrs[:1],
            model_name=world.victim.process.ask("status")["models"][0]["name"],
        )
        addrs += flood.wait_line()["addrs"]
        arguments = [each for addr in addrs for each in ("--bootstrap", addr)]
        arguments += ["--jobs", str(jobs), "--set", f"client.workers_max={2 * len(addrs)}"]
        if not world.full:
            arguments += ["--set", "client.silence_s=1.5"]
        arguments += ["--offers-first", str(int(0.95 * len(addrs)))]
        buyer = world.start_buyer(world.net.clients[0].home, *arguments)
        ended = buyer.wait_end(1800)
        awards: Counter[str] = Counter()
        for line in flood.ended_lines():
            awards = Counter(line["awards"])
        served = sum(not job.failure and job.worker in workers for job in ended)
        times = sorted(job.took_s for job in ended)
        need = 95 if world.full else 80  # one of ten jobs may be spoiled on the way to the first
        return Figures(
            checks=(
                at_least("offers", max(job.offers for job in ended), 0.95 * len(addrs)),
                at_least("jobs", len(ended), jobs),
                at_least("served by an honest worker", 100 * served / jobs, need, "%"),
            ),
            details={
                "sybil_awards": dict(awards),
                "job_s": times,
                "kinds": [trick.__name__ for trick in TRICKS],
                "failures": [job.failure for job in ended if job.failure],
                "awards": [job.awards for job in ended],
            },
        )

    def _open_shops(self, world: World, count: int) -> tuple[set[str], list[str]]:
        """Honest workers, each in a network of its own; with the devnet's."""
        made, addrs = [], [world.victim.multiaddr]
        settings = homes.chain_settings(world.net.rpc_url, world.net.contracts)
        for number in range(count):
            port = homes.free_port()
            place = f"127.66.{number}.1"
            own = {
                "network.listen": [f"/ip4/{place}/tcp/{port}"],
                "network.gossip": False,
                "network.dht": False,
                "engine.tokens_per_s_max": 90.0,
            }
            identity = homes.make_worker(
                world.scratch / f"shop-{number}",
                number=number,
                chain=settings,
                port=port,
                bootstrap=(),
                settings=own,
            )
            made.append(str(identity.home))
            addrs.append(f"/ip4/{place}/tcp/{port}/p2p/{identity.peer_id}")
        shops = world.start("shops", homes=made, nice=0)
        workers = set(shops.wait_line()["workers"])
        return workers | {"0x" + world.victim.identity.address.hex()}, addrs
