"""A segment at its worker, what happens to it, and what follows; `job_worker` has the steps."""

from dataclasses import dataclass
from enum import Enum, auto

from node.protocol.chain_hash import TextChain
from node.protocol.fields import Hash
from node.protocol.frames import Frame
from node.protocol.pieces import Item
from node.protocol.statements import Acceptance, Award, Cutoff, Finish, Progress, Receipt, Terms
from node.units import cost_micro


class Phase(Enum):
    """Where the segment stands; see the diagram in `job_worker`."""

    REQUEST = auto()
    RUNNING = auto()
    CLOSING = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """Everything that decides what the worker does next for one segment."""

    award: Award
    digest: Hash
    """Digest of the award; all later statements carry it."""
    terms: Terms
    phase: Phase = Phase.REQUEST
    request_size: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    chain: Hash
    text: TextChain | None = None
    """What `chain` is the head of, in tier text: set once the request is here."""
    held: tuple[Item, ...] = ()
    """Made by the engine, not yet delivered."""
    held_logprobs: tuple[bytes, ...] = ()
    """A record for each held item; empty where none was asked for."""
    paid_micro: int = 0
    progress_micro: int = 0
    """Amount of the last progress."""
    ending: Finish | None = None
    """Why nothing more is made; the receipt follows once `held` is delivered."""
    receipt: Receipt | None = None
    disowned_micro: int = 0
    """Cost of what was delivered beyond the client's cutoff, as far as it is not paid."""
    accepted_ms: int = 0
    first_token_ms: int = 0

    @property
    def position(self) -> int:
        """Output tokens of the job, all segments together."""
        return self.award.position + self.tokens_out

    @property
    def earned_micro(self) -> int:
        """Cost of what was delivered.  The prompt falls due with the first output token."""
        return self.cost_at(self.tokens_out)

    @property
    def blocked(self) -> bool:
        """Output waits for the client to pay."""
        return self.phase is Phase.RUNNING and bool(self.held)

    def cost_at(self, tokens_out: int) -> int:
        """What the segment costs, in micro, with `tokens_out` tokens delivered."""
        if tokens_out == 0:
            return 0
        return cost_micro(
            tokens_in=self.award.tokens_in - self.tokens_cached,
            tokens_cached=self.tokens_cached,
            tokens_out=tokens_out,
            price_in=self.terms.price_in,
            price_cached=self.terms.price_cached,
            price_out=self.terms.price_out,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Awarded:
    """The role checked the award and reserved a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPart:
    """A request data frame of `size` bytes at `offset`."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChecked:
    """The whole request arrived, matches its hash and can be run."""

    text: TextChain | None = None
    """In tier text: the chain after the request's prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The engine made output.  `logprobs` has an encoded record for each item, or nothing."""

    items: tuple[Item, ...]
    logprobs: tuple[bytes, ...] = ()
    tokens_cached: int = 0
    """Of the prompt; what is said with the first output holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Nothing more will be made: by the engine's own end, a drain, a failure or missing pay."""

    finish: Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """Vouchers for this segment now come to `total_micro`, and are saved."""

    total_micro: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """A verified cutoff; `chain_here` is this worker's chain hash at its position."""

    cutoff: Cutoff
    chain_here: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The session was lost, or the client took too long."""


Event = Awarded | RequestPart | RequestChecked | Generated | Stopped | Paid | CutOff | Gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Sign, save, and only then send."""

    statement: Acceptance | Progress | Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Send; nothing to save."""

    frame: Frame
    items: tuple[Item, ...] = ()
    """What a chunk carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """The request is whole: verify its hash and start the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepCutoff:
    """Save the client's cutoff: the receipt that follows rests on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopEngine:
    """Free the slot; what was made and not delivered is thrown away."""


Effect = Issue | Emit | CheckRequest | KeepCutoff | StopEngine
Step = tuple[WorkerJob, tuple[Effect, ...]]
