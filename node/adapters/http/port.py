"""What the HTTP side needs of the market, and what it gives to it."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from node.protocol.chat import ChatMessage, Toolbox
from node.protocol.embeddings import Inputs
from node.protocol.sampling import Sampling
from node.protocol.tool_calls import CallPart

Sort = Literal["price", "throughput", "latency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Which workers will do, as OpenRouter's `provider` says it.  Workers: address or PeerID."""

    order: tuple[str, ...] = ()
    """To be tried one after the other, before the rest."""
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    """Whether workers besides those of `order` will do, and models besides the first."""
    sort: Sort | None = None
    """None: the best score."""
    quantizations: tuple[str, ...] = ()
    """Precisions that will do; empty: any."""
    price_in_max: int | None = None
    """Micro per million tokens, as is the next."""
    price_out_max: int | None = None
    first_token_ms_max: int | None = None
    """Preferred: whoever is slower is only asked if nobody else is there.  So is the next."""
    rate_mtps_min: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for one or several answers."""

    models: tuple[str, ...]
    """Names or 0x-hashes: the wanted one, then those that would do as well."""
    messages: tuple[ChatMessage, ...] = ()
    """A conversation; or else `prompts`."""
    prompts: tuple[str | tuple[int, ...], ...] = ()
    inputs: tuple[Inputs, ...] = ()
    """Or else texts to embed: the vectors of each of these are an answer."""
    choices: int = 1
    """Answers to the conversation, or to each prompt."""
    sampling: Sampling
    max_tokens: int | None = None
    """None: the gateway's default, within the model's context."""
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    format: str = ""
    """A JSON Schema that the answer has to fit (`protocol.formats`); empty for none."""
    toolbox: Toolbox = field(default_factory=Toolbox)
    """What the answer may call."""
    routing: Routing = field(default_factory=Routing)

    @property
    def answers(self) -> int:
        """Answers in all."""
        return self.choices * max(len(self.prompts), len(self.inputs), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """One token of an answer with its log probability, and those that were likely instead."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LastResort:
    """No worker was left, and the owner's own server took over."""

    after_tokens: int
    """What workers had delivered; 0: all of the answer is that server's."""
    reason: str
    """Why nobody on the market goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker has an answer's job, or the server that is the last resort."""

    job_id: str
    """32 hexadecimal digits."""
    model: str
    provider: str
    """The worker's address."""
    last_resort: LastResort | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an answer ended, and what it cost."""

    started: Started
    finish: Literal["stop", "length", "tool_calls", "cancelled", "error"]
    failure: str
    """One sentence on what ended it early; empty when nothing did."""
    tokens_in: int
    """Prompt, cached tokens among them."""
    tokens_cached: int
    tokens_out: int
    cost_micro: int
    receipt: str | None
    """Path of the transcript; None if it could not be written."""


class Sink(Protocol):
    """Where an answer grows.  Its methods must be quick."""

    def started(self, started: Started) -> None:
        """A worker is being sent the job.  Again, if that one does not do it."""
        ...

    def write(self, text: str, tokens: tuple[TokenText, ...]) -> None:
        """More of the answer; tokens only where log probabilities were asked for."""
        ...

    def call(self, part: CallPart) -> None:
        """The beginning of a call, or more of its arguments."""
        ...


class Job(Protocol):
    """One answer to be bought."""

    async def run(self) -> Ended:
        """Buy it.

        Raises:
            ApiError: There is none, not even a part.
        """
        ...

    async def cancel(self, why: str) -> None:
        """End it at the worker at once; what was delivered is paid, and `run` returns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """On whose account a request is."""

    key_id: str
    """Empty: the owner's, without a key."""


class Keys(Protocol):
    """Who may ask."""

    @property
    def needed(self) -> bool:
        """Whether a request without a key is refused."""
        ...

    def find(self, secret: str) -> Customer | None:
        """Whose key it is; None if it is nobody's, or no longer."""
        ...


class Desk(Protocol):
    """The market, as the gateway's clients see it."""

    def jobs(self, ask: Ask, sinks: tuple[Sink, ...], customer: Customer) -> tuple[Job, ...]:
        """One job for each answer, in the order of the sinks; nothing is begun.

        Raises:
            ApiError: The ask can't be met by anybody.
        """
        ...

    async def models(self) -> list[dict[str, Any]]:
        """Every model that is sold."""
        ...

    async def endpoints(self, name: str) -> dict[str, Any]:
        """Who sells a model, on which terms, and how they did.

        Raises:
            ApiError: Nobody sells it.
        """
        ...

    async def generation(self, job_id: str) -> dict[str, Any]:
        """The figures of a transcript.

        Raises:
            ApiError: There is none of this job.
        """
        ...
