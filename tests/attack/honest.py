"""An honest client that buys job after job from one worker, and prints how long each took.

    python -m tests.attack.honest --home DIR [--worker ADDRESS] [--every S] [--jobs N] [--fresh]

Everything is the node's own: what `node submit` does once, without its start.  One JSON line a job.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import trio

QUESTION = "What is a voucher?"
TOKENS = 24
OFFERS_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One honest job."""

    began_s: float
    """Monotonic, which all processes of the machine share."""
    took_s: float
    tokens: int
    worker: str
    """Who served it (or failed to); empty if nobody was awarded."""
    awards: int
    """How many workers were awarded the job, one after the other."""
    failure: str
    offers: int = 0
    """Live offers at hand when it began."""


class Watch:
    """Counts what happens to a job (`client.Watcher`)."""

    def __init__(self) -> None:
        self.awards: list[str] = []
        self.refusals: Counter[str] = Counter()

    def market(self, event: Any) -> None:
        """Nothing to note."""

    def awarded(self, candidate: Any, record: Any) -> None:
        """Note who it was."""
        self.awards.append("0x" + candidate.session.peer.hex())

    def refused(self, candidate: Any, refusal: Any) -> None:
        """Note the code."""
        self.refusals[str(refusal.code)] += 1

    def failed(self, candidate: Any, why: str) -> None:
        """Note the reason."""
        self.refusals[why] += 1

    def hedged(self, candidate: Any, after_s: float) -> None:
        """Nothing to note."""

    def stopped(self, candidate: Any, why: str) -> None:
        """Note the reason."""
        self.refusals[why] += 1

    def locking(self, candidate: Any, lock: Any) -> None:
        """Nothing to note."""


async def buy(
    buyer: Any, config: Any, *, worker: str, tokens: int, question: str = QUESTION
) -> Job:
    """One job, from the choice of a worker to the last voucher."""
    from node.app.ordering import Reader, answer_of, order_of
    from node.app.submit_order import preferences_of, question_of
    from node.app.submit_request import SubmitRequest
    from node.errors import NodeError

    began_s = time.monotonic()
    request = SubmitRequest(
        prompt=question, max_tokens=tokens, ignore_eos=True, worker=worker, started_s=began_s
    )
    watch, failure, got, offers = Watch(), "", 0, 0
    try:
        model = await buyer.catalog.choose("")
        offers = len(buyer.market.live_offers(model.id))
        asked, reader = question_of(request), Reader.of(model)
        order = order_of(asked, reader, preferences_of(config, request))
        answer = answer_of(asked, reader, lambda _: None)
        outcome = await buyer.client.run(order, answer, watch)
        failure, got = outcome.failure, len(answer.ids)
    except NodeError as error:
        failure = f"{type(error).__name__}: {error}"
    return Job(
        began_s=began_s,
        took_s=time.monotonic() - began_s,
        tokens=got,
        worker=watch.awards[-1] if watch.awards else "",
        awards=len(watch.awards),
        failure=failure,
        offers=offers,
    )


async def _see_offers(buyer: Any, wanted: int) -> None:
    """Wait until so many offers for the usual model are at hand, or for half a minute."""
    model = await buyer.catalog.choose("")
    with trio.move_on_after(OFFERS_S):
        while len(buyer.market.live_offers(model.id)) < wanted:  # noqa: ASYNC110
            await trio.sleep(0.2)


async def main(options: argparse.Namespace) -> None:
    """Buy until the number is reached, or for ever."""
    from node.adapters.store import open_stores
    from node.app import logs
    from node.app.buyer import open_buyer
    from node.app.domain import domain_of
    from node.app.home import Home
    from node.app.unlock import session_key
    from node.config import load

    logs.configure("warning")
    flags = dict(each.split("=", 1) for each in options.set or ())
    config = load(options.home, flags=flags)
    if options.bootstrap:
        network = replace(config.network, bootstrap=tuple(options.bootstrap))
        config = replace(config, network=network)
    home, key = Home(config.home), session_key(config)
    async with (
        open_stores(home.store, domain=domain_of(config)) as stores,
        open_buyer(config, key, stores) as buyer,
    ):
        if options.offers_first:
            await _see_offers(buyer, options.offers_first)
        due_s, number = time.monotonic(), 0
        while options.jobs is None or number < options.jobs:
            question = QUESTION + " voucher" * options.words
            job = await buy(
                buyer, config, worker=options.worker, tokens=options.tokens, question=question
            )
            print(json.dumps(asdict(job)), flush=True)
            number += 1
            due_s = max(due_s + options.every, time.monotonic())
            await trio.sleep(max(0.0, due_s - time.monotonic()))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--worker", default="", help="address; empty: whoever is best")
    parser.add_argument("--bootstrap", action="append", help="instead of the home's; repeatable")
    parser.add_argument("--words", type=int, default=0, help="more words in the prompt")
    parser.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="repeatable")
    parser.add_argument("--offers-first", type=int, default=0, help="begin with so many offers")
    parser.add_argument("--every", type=float, default=0.0, metavar="S")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    return parser.parse_args()


if __name__ == "__main__":
    trio.run(main, parsed())
