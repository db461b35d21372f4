"""How a job ended, in a word."""

from typing import Final, Literal

from node.protocol.statements import Finish
from node.roles.client import Outcome

FinishName = Literal["stop", "length", "cancelled", "error"]

FINISH_NAMES: Final[dict[Finish, FinishName]] = {Finish.STOP: "stop", Finish.LENGTH: "length"}


def finish_of(outcome: Outcome) -> FinishName:
    """`stop` and `length` as OpenAI has them; `cancelled` by the user, `error` for all else."""
    complete = outcome.attempt.job.complete
    if complete is None:
        return "error" if outcome.failure else "cancelled"
    return FINISH_NAMES[complete]
