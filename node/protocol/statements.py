"""Signed statements: EIP-712 typed data.  Fields are in the order of their type string.

A job's statements together are its transcript.  Times are Unix milliseconds of the issuer's clock;
only the issuer judges an expiry by it.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Annotated

from node.protocol import limits
from node.protocol.fields import U8, U16, U32, U64, Address, Hash, JobId, Many, Micro, Price, Text


class Tier(IntEnum):
    """What a worker's engine shows, and so what a client can count and check."""

    IDS = 1
    """Token ids go in and come out; the client renders, tokenises and decodes."""
    TEXT = 2
    """Text only; both sides count with the tokenizer that the terms name."""


class Skill(IntFlag):
    """What a worker can do with a model besides going on with a text; bits of `Terms.skills`."""

    JSON = 1
    """It makes an output a JSON object."""
    SCHEMA = 2
    """It makes an output fit a JSON Schema."""
    TOOLS = 4
    """In tier text: it shows tools to the model, and calls of them come back."""
    EMBEDDINGS = 8
    """In tier text: it makes vectors of texts, and answers no conversation."""
    DIMENSIONS = 16
    """Besides: as many dimensions as it is asked for."""


class Finish(IntEnum):
    """Why a segment ended."""

    STOP = 1
    LENGTH = 2
    CUTOFF = 3
    """The client cut it off."""
    UNPAID = 4
    """Vouchers stayed away and the unpaid amount reached the quantum."""
    FAILED = 5
    """The engine failed."""
    DRAINED = 6
    """The worker is stopping."""


class CutoffReason(IntEnum):
    """Why a client accepts nothing after a position."""

    CANCELLED = 1
    STALLED = 2
    OVERBILLED = 3
    BAD_STATEMENT = 4
    AFTER_END = 5
    BAD_DATA = 6
    DEADLINE = 7
    LOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A share of a payment that goes to somebody besides the worker."""

    payee: Address
    bps: U16


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A worker's binding terms.  An offer to anyone has `ask` zero; a bid names its ask."""

    worker: Address
    payee: Address
    model: Hash
    tier: U8
    tokenizer: Hash
    """sha256 of the counting tokenizer's file in tier text; zero in tier ids."""
    skills: U8 = 0
    """Bits of `Skill`; unknown ones say nothing."""
    price_in: Price
    price_cached: Price
    price_out: Price
    splits: Annotated[tuple[Split, ...], Many(limits.SPLITS_MAX)]
    quantum: Micro
    """Most that may be delivered and not vouchered."""
    prepay: Micro
    """Voucher that must come with the award; 0 for none."""
    context_max: U32
    output_max: U32
    first_token_ms: U32
    """Promised time from award to first token for a prompt of `ask`'s size (1,024 in an offer)."""
    rate_mtps: U32
    """Promised output rate, in thousandths of a token per second."""
    prefill_tps: U32
    slots_free: U16
    queued: U16
    region: Annotated[str, Text(16)]
    serial: U64
    """Rises with every terms that this worker signs."""
    expires_ms: U64
    ask: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedModel:
    """One model of an announcement, with a rough price."""

    model: Hash
    name: Annotated[str, Text(64)]
    tier: U8
    price_in: Price
    price_out: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A worker's long-lived hint of where it is and what it sells; never awarded on."""

    worker: Address
    payee: Address
    addrs: Annotated[tuple[Annotated[str, Text(256)], ...], Many(8)]
    models: Annotated[tuple[AnnouncedModel, ...], Many(32)]
    region: Annotated[str, Text(16)]
    issued_ms: U64
    """Rises with every announcement of this worker, so that an older one can't replace a newer."""
    ttl_s: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A client's enquiry: sizes, never the prompt."""

    client: Address
    payer: Address
    model: Hash
    tier: U8
    tokens_in: U32
    output_max: U32
    nonce: U64
    expires_ms: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Award:
    """A client's order on some terms.  Its digest names the segment in all later statements."""

    client: Address
    payer: Address
    worker: Address
    job: JobId
    attempt: U16
    terms: Hash
    """Digest of the terms."""
    request: Hash
    """keccak-256 of the request body, whose first field is a salt."""
    request_bytes: U32
    tokens_in: U32
    output_max: U32
    cap: Micro
    """Most that this segment may cost."""
    seed: U64
    position: U32
    """Output tokens of the segments before this one."""
    chain: Hash
    """Chain hash at `position`."""
    previous: Hash
    """Digest of the previous segment's award; zero for the first."""
    issued_ms: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The worker reserved capacity for an award."""

    award: Hash
    accepted_ms: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The worker's running total of a segment."""

    award: Hash
    tokens_in: U32
    tokens_cached: U32
    tokens_out: U32
    amount: Micro
    chain: Hash
    at_ms: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The worker's end of a segment."""

    award: Hash
    tokens_in: U32
    tokens_cached: U32
    tokens_out: U32
    amount: Micro
    chain: Hash
    finish: U8
    accepted_ms: U64
    first_token_ms: U64
    ended_ms: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutoff:
    """The client's last accepted output position of a segment, counted from the job's start."""

    award: Hash
    position: U32
    chain: Hash
    reason: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher:
    """The payer's cumulative promise on one tab; the escrow pays it."""

    payer: Address
    payee: Address
    model: Hash
    splits: Hash
    cumulative: Micro
    receipts: Hash
    """Root of the append-only tree of accepted receipts' digests (protocol.md, "Receipts root")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Part of the payer's deposit reserved for one payee.  `total` replaces, `nonce` rises."""

    payer: Address
    payee: Address
    total: Micro
    nonce: U64
    expiry: U64
    """Unix seconds: judged by the chain's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRelease:
    """The payee lowers a lock."""

    payer: Address
    payee: Address
    total: Micro
    nonce: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptSeal:
    """The client's signature under a transcript file."""

    client: Address
    job: JobId
    content: Hash
    """keccak-256 of the transcript's canonical bytes."""
