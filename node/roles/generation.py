"""The port to whatever computes tokens.

Engines own nothing of the market: they get ids and give ids, or in tier text a conversation and
give text.  Positions are the job's, so a request with a prefix goes on where another engine
stopped.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.protocol.embeddings import TextPrompt
from node.protocol.fields import ZERO_HASH, Hash
from node.protocol.logprobs import TokenLogprob
from node.protocol.manifest import Manifest
from node.protocol.pieces import CountTokens
from node.protocol.sampling import Sampling
from node.protocol.statements import Tier
from node.protocol.stops import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One job's work for an engine."""

    model: bytes
    """Model id: 32 bytes."""
    prompt_ids: tuple[int, ...] = ()
    """Empty in tier text."""
    prefix_ids: tuple[int, ...] = ()
    """Output that earlier segments of the job produced; the first new token follows it."""
    chat: TextPrompt | None = None
    """In tier text: what is to be answered, or the texts that are to become vectors."""
    prefix_text: str = ""
    """In tier text: what earlier segments wrote."""
    max_tokens: int
    """Most new tokens, the prefix not counted."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    format: str = ""
    """A JSON Schema that the output has to fit (`protocol.formats`); empty for none."""
    owner: bytes = b""
    """Whose job it is: what is kept of it serves jobs of the same owner alone.  Empty: nothing is
    kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStep:
    """What was produced since the last step: one token or several; the last step may have none."""

    ids: tuple[int, ...] = ()
    """In order; an end token that ended the job is among them, and counts."""
    text: str = ""
    """In tier text, instead of ids: visible text, without half characters.  Stop strings in it are
    looked for by whoever reads it."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each id, under the model itself (before penalties, temperature and filters); empty
    unless asked for."""
    finish: FinishReason | None = None
    """Set in the last step only."""
    stop: str | None = None
    """The stop string that ended the job, if one did."""
    tokens_cached: int = 0
    """Prompt tokens that were not computed again: the same in every step of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRates:
    """What this engine measured of itself at start; a claim, as far as others are concerned."""

    prefill_tps: float
    """Prompt tokens per second of one job alone."""
    decode_tps: float
    """Output tokens per second of one job alone."""
    decode_batch_tps: float
    """Output tokens per second over all slots together."""
    first_token_ms: float
    """From a short prompt's request to its first token, idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """A model that the engine has loaded."""

    manifest: Manifest
    context: int
    """Most tokens of prompt and output together."""
    slots: int
    """Jobs that are computed at once; more wait in the queue."""
    rates: EngineRates
    exact: bool
    """Whether it samples by the shared seed, so that another engine can go on or check."""
    continues: bool = True
    """Whether it goes on with another's output.  One that would begin anew is given none."""
    tier: Tier = Tier.IDS
    tokenizer: Hash = ZERO_HASH
    """sha256 of the file that counts, in tier text: the manifest's tokenizer."""
    count: CountTokens | None = None
    """What counts, in tier text."""
    skills: int = 0
    """What it can do besides: bits of `Skill`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy the engine is now."""

    active: int
    """Jobs that hold a slot."""
    slots: int
    queued: int
    """Jobs that wait for one."""
    queue_max: int


class Engine(Protocol):
    """Something that turns prompts into tokens."""

    def models(self) -> tuple[EngineModel, ...]:
        """What can be used now; empty before `run` has started.  Answers at once.

        A model may leave and come back: an engine may run elsewhere, and be restarted there.
        """
        ...

    def load(self) -> EngineLoad:
        """How busy it is; answers at once."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the models, then serve until cancelled.  Started once models can be used.

        Raises:
            ConfigError: A model can't be loaded.
        """
        ...

    def generate(
        self, request: GenerationRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[TokenStep]]:
        """A job.  Leaving the context ends it within one step and frees its slot.

        A reader that takes no steps makes the engine pause this job, and no other.  The iterator
        ends after the step that has `finish`.

        Raises:
            PeerError: A prompt that is empty, too long or not in the vocabulary, or a model that
                is not loaded: on entering, or instead of the first step.
            Unavailable: On entering: the queue is full.  While iterating: the engine failed.
        """
        ...
