"""What the clients of a simulation ask for."""

from typing import Any

from node.protocol.auction_record import AuctionRecord
from node.protocol.frames import Refusal, SamplingFields
from node.protocol.scoring import Preferences
from node.protocol.statements import Lock
from node.protocol.stops import Output
from node.roles.answer import Answer
from node.roles.market import Candidate
from node.roles.order import Order
from tests.sim.engine import MANIFEST, MODEL
from tests.sim.plan import Job

SAMPLING = SamplingFields(
    temperature=0,
    top_p=1_000_000,
    top_k=0,
    presence=0,
    frequency=0,
    repetition=1_000_000,
    logprobs=0,
    choice=0,
)


def order_of(job: Job) -> tuple[Order, Answer]:
    """The order for a job, and what will hold its answer."""
    order = Order(
        model=MODEL,
        prompt=(job.length, *range(1, job.tokens_in)),
        sampling=SAMPLING,
        output_max=job.output_max,
        preferences=Preferences(price_micro_max=1_000_000, prepay_micro_max=10_000),
    )
    output = Output(decode=None, eos_ids=MANIFEST.eos_ids, max_tokens=job.output_max)
    return order, Answer(output, on_text=lambda _text: None, vocab=MANIFEST.vocab)


class Watch:
    """A `job_run.Watcher` that counts hedges."""

    def __init__(self) -> None:
        self.hedges = 0

    def market(self, event: Any) -> None:
        return

    def awarded(self, candidate: Candidate, record: AuctionRecord) -> None:
        return

    def refused(self, candidate: Candidate, refusal: Refusal) -> None:
        return

    def failed(self, candidate: Candidate, why: str) -> None:
        return

    def hedged(self, candidate: Candidate, after_s: float) -> None:
        self.hedges += 1

    def stopped(self, candidate: Candidate, why: str) -> None:
        return

    def locking(self, candidate: Candidate, lock: Lock) -> None:
        return
