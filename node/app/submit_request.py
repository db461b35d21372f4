"""What `node submit` was asked for, checked as far as the command line can."""

from dataclasses import dataclass
from typing import Literal

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
