"""One job on an open client, with everything that came of it: for clients that tests drive."""

import time
from dataclasses import dataclass
from typing import Any

from node.app.buyer import Buyer
from node.app.ordering import Reader, answer_of, order_of
from node.app.submit_order import preferences_of, question_of
from node.app.submit_request import SubmitRequest
from node.config import Config
from node.errors import NodeError
from node.protocol.job_client import ClientJob, cost_at
from node.roles.answer import AnyAnswer
from node.roles.client import Outcome
from tests.attack.honest import QUESTION, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """What a client has of one job."""

    outcome: Outcome | None
    error: str
    """Why there is no outcome, or what ended the job early; empty when all went well."""
    answer: AnyAnswer | None
    watch: Watch

    @property
    def job(self) -> ClientJob | None:
        """The last award's."""
        return self.outcome.attempt.job if self.outcome else None

    @property
    def paid_micro(self) -> int:
        """Accepted, and so vouchered; 0 without an outcome."""
        return self.job.accepted_micro if self.job else 0

    @property
    def worth_micro(self) -> int:
        """What the tokens that came cost at the awarded prices."""
        return cost_at(self.job, self.job.tokens_out) if self.job else 0


async def buy(
    buyer: Buyer,
    config: Config,
    *,
    worker: str,
    tokens: int,
    question: str = QUESTION,
    **more: Any,
) -> Bought:
    """One job, as `node submit` does it; whatever happens to it is returned."""
    request = SubmitRequest(
        prompt=question,
        max_tokens=tokens,
        ignore_eos=True,
        worker=worker,
        started_s=time.monotonic(),
        **more,
    )
    watch = Watch()
    answer: AnyAnswer | None = None
    try:
        model = await buyer.catalog.choose("")
        asked, reader = question_of(request), Reader.of(model)
        order = order_of(asked, reader, preferences_of(config, request))
        answer = answer_of(asked, reader, lambda _: None)
        outcome = await buyer.client.run(order, answer, watch)
    except NodeError as error:
        said = f"{type(error).__name__}: {error}"
        return Bought(outcome=None, error=said, answer=answer, watch=watch)
    return Bought(outcome=outcome, error=outcome.failure, answer=answer, watch=watch)
