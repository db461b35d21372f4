"""What `node submit` was asked for, checked as far as the command line can."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from node.errors import UsageError

Sort = Literal["score", "price", "latency", "throughput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """One job: the question, how to generate, and which offers will do."""

    prompt: str
    system: str = ""
    """System message before the prompt; empty for the template's own."""
    model: str = ""
    """Name or 0x-hash; empty: any model, the best score decides."""
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """Number of likeliest tokens kept; 0 keeps all."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    """None: the client draws one after the price is bound."""
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    price_micro_max: int | None = None
    """Most that the whole job may cost; None: `client.job_cap_micro`."""
    deadline_s: float | None = None
    """Offers predicted to take longer in all are passed over."""
    sort: Sort = "score"
    worker: str = ""
    """PeerID or address of the one worker to use; empty: whoever is best."""
    region: str = ""
    timeout_s: float = 300.0
    """The job is cut off after this, and what arrived is kept."""
    started_s: float
    """Monotonic time at which the command line began: `timings` count from it."""

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: object) -> "SubmitRequest":
        """A request that another process made, of the same version.

        Raises:
            UsageError: It is none.
        """
        if not isinstance(told, Mapping) or told.keys() != {each.name for each in fields(cls)}:
            raise UsageError("not a job's request")
        stops = told["stops"]
        values = {**told, "stops": tuple(stops) if isinstance(stops, list) else stops}
        for each in fields(cls):
            if not _is_a(each.type, values[each.name]):
                raise UsageError(f"not a job's request: {each.name}")
        return cls(**values)


_KINDS: Final[Mapping[Any, tuple[type, ...]]] = {
    str: (str,),
    int: (int,),
    bool: (bool,),
    float: (float, int),
    int | None: (int, type(None)),
    float | None: (float, int, type(None)),
    Sort: (str,),
}


def _is_a(kind: Any, value: object) -> bool:
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(type(each) is str for each in value)
    return type(value) in _KINDS[kind]
