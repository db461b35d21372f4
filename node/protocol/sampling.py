"""What a client fixes about how tokens are drawn.  How they are drawn then: `protocol.drawing`."""

from dataclasses import dataclass
from typing import Final

from node.errors import PeerError
from node.protocol import limits
from node.protocol.frames import SamplingFields

FRACTION: Final = 1_000_000
"""`SamplingFields` holds fractions in millionths."""
TEMPERATURE_MAX: Final = 10.0
PENALTY_MAX: Final = 2.0
"""Bound of presence and frequency penalty, in either direction."""
REPETITION_MAX: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn.

    Raises:
        PeerError: A value is outside its range.
    """

    temperature: float = 1.0
    """0 takes the best token."""
    top_k: int = 0
    """Only this many of the best tokens; 0 for all."""
    top_p: float = 1.0
    """Only the best tokens that together have this probability."""
    presence: float = 0.0
    """Taken off each token that the output has."""
    frequency: float = 0.0
    """Taken off for each time that the output has the token."""
    repetition: float = 1.0
    """Divides the positive logits of tokens in prompt and output, multiplies the negative ones."""
    seed: int = 0
    choice: int = 0
    """Which of several answers to the same prompt."""
    logprobs: int | None = None
    """None for no log-probabilities; else how many alternatives are told beside the chosen."""

    def __post_init__(self) -> None:
        _check("temperature", 0.0, self.temperature, TEMPERATURE_MAX)
        _check("top_k", 0, self.top_k, 2**32 - 1)
        _check("top_p", 1 / FRACTION, self.top_p, 1.0)
        _check("presence", -PENALTY_MAX, self.presence, PENALTY_MAX)
        _check("frequency", -PENALTY_MAX, self.frequency, PENALTY_MAX)
        _check("repetition", 1 / FRACTION, self.repetition, REPETITION_MAX)
        _check("seed", 0, self.seed, 2**64 - 1)
        _check("choice", 0, self.choice, 2**32 - 1)
        _check("logprobs", 0, self.logprobs or 0, limits.LOGPROBS_MAX)

    @classmethod
    def of(cls, fields: SamplingFields, *, seed: int) -> "Sampling":
        """What a request asks for; the seed comes from its award."""
        return cls(
            temperature=fields.temperature / FRACTION,
            top_k=fields.top_k,
            top_p=fields.top_p / FRACTION,
            presence=fields.presence / FRACTION,
            frequency=fields.frequency / FRACTION,
            repetition=fields.repetition / FRACTION,
            seed=seed,
            choice=fields.choice,
            logprobs=fields.logprobs - 1 if fields.logprobs else None,
        )

    def fields(self) -> SamplingFields:
        """As a request carries it: fractions rounded to millionths, the seed left to the award."""
        return SamplingFields(
            temperature=round(self.temperature * FRACTION),
            top_k=self.top_k,
            top_p=max(1, round(self.top_p * FRACTION)),
            presence=round(self.presence * FRACTION),
            frequency=round(self.frequency * FRACTION),
            repetition=max(1, round(self.repetition * FRACTION)),
            choice=self.choice,
            logprobs=0 if self.logprobs is None else self.logprobs + 1,
        )

    @property
    def penalises(self) -> bool:
        """Whether what was written before matters."""
        return (self.presence, self.frequency, self.repetition) != (0.0, 0.0, 1.0)


def _check(name: str, low: float, value: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise PeerError(f"sampling: {name} is {value}, not within {low} to {high}")
