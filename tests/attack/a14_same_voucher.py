"""14: one voucher and one award, sent a hundred times at once and over several sessions."""

from devnet.network import Options
from tests.attack.accounts import MONEY, funded
from tests.attack.harness import Check, Figures, World, at_least, at_most


class SameVoucher:
    """The adversary is a client played by hand, with a deposit of its own."""

    number: int = 14
    name: str = "the same voucher and award again"
    target: str = "one voucher sent 100 × at once: exactly 1 grant"
    options: Options = MONEY

    def run(self, world: World) -> Figures:
        """See the class."""
        results = []
        for _ in world.rounds():
            (key,) = funded(world, 1)
            attacker = world.start(
                "repeat",
                key=key.hex(),
                copies=world.count(100, 25),
                sessions=world.count(5, 2),
                victim_home=str(world.victim.identity.home),
            )
            results.append(attacker.result())
        rounds = len(results)
        sent = sum(each["vouchers_sent"] for each in results)
        return Figures(
            checks=(
                at_least("copies of a voucher sent", sent, rounds * world.count(200, 49)),
                _exactly("grants per voucher", {each["grants"] for each in results}),
                at_most(
                    "granted by copies", sum(e["second_grants_micro"] for e in results), 0, "micro"
                ),
                at_most(
                    "tab above what was signed",
                    max(each["tab_micro"] - each["signed_micro"] for each in results), 0, "micro",
                ),
                _exactly("acceptances per award", {each["acceptances"] for each in results}),
                _exactly("segments per award", {each["segments"] for each in results}),
                at_least("awards refused", results[0]["awards_refused"], world.count(100, 24)),
            ),
            details={"rounds": results},
        )  # fmt: skip


def _exactly(name: str, values: set[int]) -> Check:
    worst = max(values, key=lambda each: abs(each - 1))
    return Check(name=name, measured=worst, unit="", limit="= 1", passed=values == {1})
