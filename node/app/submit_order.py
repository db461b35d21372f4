"""From `node submit`'s options to what the market understands."""

from node.app.ordering import Question, worker_named
from node.app.submit_request import SubmitRequest
from node.config import Config
from node.errors import PeerError, UsageError
from node.protocol.chat import ChatMessage
from node.protocol.sampling import Sampling
from node.roles.market import Preferences


def question_of(request: SubmitRequest) -> Question:
    """What is asked.

    Raises:
        UsageError: An option has a value that no worker could be asked for.
    """
    messages = [ChatMessage(role="user", content=request.prompt)]
    if request.system:
        messages.insert(0, ChatMessage(role="system", content=request.system))
    return Question(
        messages=tuple(messages),
        sampling=_sampling(request),
        max_tokens=request.max_tokens,
        stops=request.stops,
        ignore_eos=request.ignore_eos,
        seed=request.seed,
    )


def preferences_of(config: Config, request: SubmitRequest) -> Preferences:
    """Which offers will do.

    Raises:
        UsageError: `worker` names none.
    """
    cap = config.client.job_cap_micro
    wanted = request.price_micro_max
    return Preferences(
        price_micro_max=cap if wanted is None else min(cap, wanted),
        deadline_s=request.deadline_s,
        sort=request.sort,
        worker=worker_named(request.worker) if request.worker else None,
        region=request.region,
        value_of_time_micro_per_s=config.client.value_of_time_micro_per_s,
        prepay_micro_max=config.client.prepay_max_micro,
    )


def _sampling(request: SubmitRequest) -> Sampling:
    try:
        return Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            presence=request.presence_penalty,
            frequency=request.frequency_penalty,
        )
    except PeerError as error:
        raise UsageError(f"the job can't be asked for: {error}") from error
