"""Frames of a session, in both directions: one class per kind (protocol.md, "Frames")."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, ClassVar

from node.protocol import limits
from node.protocol.fields import (
    I32,
    U8,
    U16,
    U32,
    U64,
    ZERO_HASH,
    Address,
    Blob,
    Bool,
    Fixed,
    Hash,
    JobId,
    Many,
    Micro,
    Signed,
    Text,
)
from node.protocol.statements import (
    Acceptance,
    Announcement,
    Ask,
    Award,
    Cutoff,
    Lock,
    LockRelease,
    Progress,
    Receipt,
    Terms,
    Voucher,
)

NO_JOB = bytes(16)

Data = Annotated[bytes, Blob(limits.DATA_BYTES_MAX)]
Signature = Annotated[bytes, Fixed(64, "bytes")]
Note = Annotated[str, Text(200)]


class Refused(IntEnum):
    """Why a worker does not bid on an ask, or does not accept an award."""

    BUSY = 1
    MODEL_UNKNOWN = 2
    CONTEXT_TOO_LONG = 3
    PRICE_TOO_LOW = 4
    TERMS_EXPIRED = 5
    TERMS_UNKNOWN = 6
    LOCK_REQUIRED = 7
    DEPOSIT_TOO_LOW = 8
    EXIT_PENDING = 9
    CHAIN_UNAVAILABLE = 10
    DUPLICATE = 11
    DRAINING = 12
    BAD_REQUEST = 13
    TIER = 14
    BLOCKED = 15
    PREPAY_REQUIRED = 16
    UNPAID = 17
    """An earlier job of this payer is disputed or not paid."""
    CLIENT_UNAUTHORISED = 18
    RATE_LIMITED = 19
    NO_CONTINUATION = 20


class Fault(IntEnum):
    """Code of an error frame, sent before a session is closed."""

    PROTOCOL = 1
    VERSION = 2
    CHAIN = 3
    LIMIT = 4
    SHUTDOWN = 5
    INTERNAL = 6
    NOT_FOUND = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame of each side."""

    kind: ClassVar[int] = 1
    version_min: U16
    version_max: U16
    chain_id: U64
    escrow: Address
    payer: Address
    """Account that this side's awards spend from; zero if it does not buy."""
    payee: Address
    """Account that this side's terms pay to; zero if it does not sell."""
    sells: Bool
    job_window: U32
    agent: Annotated[str, Text(64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    kind: ClassVar[int] = 2
    nonce: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    kind: ClassVar[int] = 3
    nonce: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFrame:
    """Something ended: the job named, or with `NO_JOB` the session."""

    kind: ClassVar[int] = 4
    job: JobId
    code: U16
    detail: Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """The reader consumed `size` bytes of frames of this job; the writer may send as many more."""

    kind: ClassVar[int] = 5
    job: JobId
    size: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcements:
    kind: ClassVar[int] = 10
    items: Annotated[tuple[Signed[Announcement], ...], Many(limits.ANNOUNCEMENTS_PER_EXCHANGE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncementsWanted:
    """Exchange: which workers of this model does the other side know?"""

    kind: ClassVar[int] = 11
    model: Hash
    count_max: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class OffersWanted:
    """Push me offers for these models from now on; an empty list ends it."""

    kind: ClassVar[int] = 12
    models: Annotated[tuple[Hash, ...], Many(32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    kind: ClassVar[int] = 13
    terms: Signed[Terms]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskFrame:
    kind: ClassVar[int] = 14
    ask: Signed[Ask]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    kind: ClassVar[int] = 15
    terms: Signed[Terms]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No bid for an ask, or no acceptance of an award; carries fresh terms where there are any."""

    kind: ClassVar[int] = 16
    job: JobId
    subject: Hash
    """Digest of the ask or award."""
    code: U16
    detail: Note
    offer: Signed[Terms] | None
    lock_total: Micro
    """With LOCK_REQUIRED: the lock's total that would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwardFrame:
    """Opens a job's channel on the session."""

    kind: ClassVar[int] = 20
    job: JobId
    award: Signed[Award]
    voucher: "VoucherFrame | None"
    """The prepaid voucher, where the terms ask for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestData:
    kind: ClassVar[int] = 21
    job: JobId
    offset: U32
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceFrame:
    kind: ClassVar[int] = 22
    job: JobId
    acceptance: Signed[Acceptance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of output: token ids as big-endian u32 in tier ids, UTF-8 in tier text."""

    kind: ClassVar[int] = 23
    job: JobId
    position: U32
    """Output position of the first token, counted from the job's start."""
    data: Data
    logprobs: Data
    """Empty, or per protocol.md, "Logprobs"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressFrame:
    kind: ClassVar[int] = 24
    job: JobId
    progress: Signed[Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """By how much a voucher rose for one segment."""

    job: JobId
    attempt: U16
    amount: Micro


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherFrame:
    """A voucher, why it rose, and the receipts that its root gained, in order."""

    kind: ClassVar[int] = 25
    voucher: Signed[Voucher]
    rises: Annotated[tuple[Rise, ...], Many(limits.RISES_MAX)]
    receipts: Annotated[tuple[Hash, ...], Many(limits.RISES_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The explicit end of output; end-of-file proves nothing."""

    kind: ClassVar[int] = 26
    job: JobId
    finish: U8
    position: U32
    """Output tokens of the job, all segments together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptFrame:
    kind: ClassVar[int] = 27
    job: JobId
    receipt: Signed[Receipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoffFrame:
    kind: ClassVar[int] = 28
    job: JobId
    cutoff: Signed[Cutoff]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFrame:
    kind: ClassVar[int] = 29
    lock: Signed[Lock]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockReleaseFrame:
    kind: ClassVar[int] = 30
    release: Signed[LockRelease]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """After a reconnect, per tab: the last voucher that this side holds or gave."""

    kind: ClassVar[int] = 31
    vouchers: Annotated[tuple[Signed[Voucher], ...], Many(64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWanted:
    """Opens a transfer; `job` is a random id of its channel."""

    kind: ClassVar[int] = 40
    job: JobId
    sha256: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class FileData:
    kind: ClassVar[int] = 41
    job: JobId
    offset: U32
    size: U32
    """Size of the whole file."""
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFields:
    """Sampling parameters; fractions are integers in millionths (protocol.md, "Sampling")."""

    temperature: U32
    top_p: U32
    top_k: U32
    presence: I32
    frequency: I32
    repetition: U32
    logprobs: U8
    choice: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The body that `Award.request` is the hash of; it travels in request data frames.

    It is encoded like a frame, and is longer than one: `codec.decode_request`.
    """

    kind: ClassVar[int] = 100
    salt: Hash
    prompt: Annotated[bytes, Blob(limits.REQUEST_BYTES_MAX)]
    """Token ids as big-endian u32 (tier ids) or UTF-8 JSON messages (tier text)."""
    prefix: Annotated[bytes, Blob(limits.REQUEST_BYTES_MAX)]
    """Output so far, for a continuation."""
    sampling: SamplingFields
    stop: Annotated[tuple[Annotated[str, Text(limits.STOP_BYTES_MAX)], ...], Many(limits.STOPS_MAX)]
    ignore_eos: Bool
    format: Annotated[str, Text(limits.FORMAT_BYTES_MAX)] = ""
    """A JSON Schema that the output is made to fit (`protocol.formats`); empty for none."""
    scope: Annotated[bytes, Blob(limits.SCOPE_BYTES_MAX)] = b""
    """Whose requests, of the client's, this one may share a cache with."""


Frame = (
    Hello
    | Ping
    | Pong
    | ErrorFrame
    | Credit
    | Announcements
    | AnnouncementsWanted
    | OffersWanted
    | Offer
    | AskFrame
    | Bid
    | Refusal
    | AwardFrame
    | RequestData
    | AcceptanceFrame
    | Chunk
    | ProgressFrame
    | VoucherFrame
    | End
    | ReceiptFrame
    | CutoffFrame
    | LockFrame
    | LockReleaseFrame
    | Resume
    | FileWanted
    | FileData
)

FRAMES: dict[int, type[Any]] = {cls.kind: cls for cls in Frame.__args__}
OPENERS = (AwardFrame, FileWanted)
"""Frames that open a channel at their receiver."""


def channel_of(frame: Frame) -> bytes:
    """The channel that a frame belongs to, or `NO_JOB`.

    Vouchers, locks and refusals of asks concern the session; a `Refusal` of an award names its job.
    """
    return getattr(frame, "job", NO_JOB)


__all__ = ["FRAMES", "NO_JOB", "OPENERS", "ZERO_HASH", "Frame", "channel_of"]
