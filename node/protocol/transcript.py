"""A job's transcript: everything that was signed in it, in one file that its client seals.

The transcript says who was asked, who answered, what it cost and who paid.  What was asked and
answered stands in the disclosure, a second file that is shown only to whom the client chooses; the
transcript carries its hash, and every request body in it begins with a salt, so that the hash tells
nothing.  Both files are canonical: one content has one form (protocol.md, "Transcripts").
"""

from dataclasses import dataclass
from typing import Annotated, Final

from node.errors import DecodeError
from node.protocol import codec, limits, receipts_tree, signing
from node.protocol.fields import (
    U64,
    ZERO_HASH,
    Address,
    Blob,
    Hash,
    JobId,
    Many,
    Micro,
    Signed,
    Text,
)
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    Progress,
    Receipt,
    Terms,
    TranscriptSeal,
    Voucher,
)

TRANSCRIPT_HEADER: Final = b"GPU-MARKET TRANSCRIPT 1\n"
DISCLOSURE_HEADER: Final = b"GPU-MARKET DISCLOSURE 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuctionSummary:
    """How a worker was chosen: the signed terms compared, and the client's own account of it."""

    mode: Annotated[str, Text(32)]
    """``direct`` or ``ask``."""
    reason: Annotated[str, Text(limits.REASON_BYTES_MAX)]
    """Why this worker: one sentence."""
    bids: Annotated[tuple[Signed[Terms], ...], Many(limits.BIDS_MAX)]
    record: Annotated[bytes, Blob(limits.RECORD_BYTES_MAX)]
    """UTF-8 JSON: scores, promises, refusals with their codes.  Claims of the client alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What a segment was paid: its amount, the voucher that covers it, and its receipt's proof."""

    amount: Micro
    """Sum of the vouchers' rises for this segment."""
    voucher: Signed[Voucher]
    """The tab's voucher once this segment's receipt was in its receipts tree, or a later one."""
    index: U64
    """The receipt's place among the leaves of the tree; 0 where there is no receipt."""
    size: U64
    """Leaves of the tree whose root the voucher carries; 0 where there is no receipt."""
    path: Annotated[tuple[Hash, ...], Many(receipts_tree.DEPTH_MAX)]

    @property
    def proof(self) -> receipts_tree.InclusionProof:
        """That the receipt is in the tree whose root the voucher carries."""
        return receipts_tree.InclusionProof(index=self.index, size=self.size, path=self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one worker did under one award, in the order in which it was signed."""

    terms: Signed[Terms]
    award: Signed[Award]
    acceptance: Signed[Acceptance] | None
    """None: the worker was lost before it accepted; then it delivered nothing."""
    progress: Signed[Progress] | None
    """The last one that the client accepted."""
    receipt: Signed[Receipt] | None
    cutoff: Signed[Cutoff] | None
    """At least one of receipt and cutoff is there; with both, they end at the same position."""
    payment: Payment | None
    """None: nothing was owed and nothing was paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A whole job.  Its client is that of its awards."""

    chain_id: U64
    escrow: Address
    job: JobId
    disclosure: Hash
    """keccak-256 of the disclosure file; zero when none was kept."""
    auctions: Annotated[tuple[AuctionSummary, ...], Many(limits.SEGMENTS_MAX)]
    segments: Annotated[tuple[Segment, ...], Many(limits.SEGMENTS_MAX)]

    @property
    def domain(self) -> signing.Domain:
        """The chain and contract that all statements are bound to."""
        return signing.Domain(self.chain_id, self.escrow)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedTranscript:
    """What a transcript file holds after its header."""

    transcript: Transcript
    seal: Signed[TranscriptSeal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """Prompt and answer of a job, for whoever is meant to see them."""

    job: JobId
    requests: Annotated[
        tuple[Annotated[bytes, Blob(limits.REQUEST_BYTES_MAX)], ...], Many(limits.SEGMENTS_MAX)
    ]
    """Per segment, the request body whose hash its award carries: salt, prompt, sampling."""
    output: Annotated[bytes, Blob(limits.OUTPUT_BYTES_MAX)]
    """The accepted output of all segments: ids as big-endian u32 (tier ids), UTF-8 (tier text)."""
    text: Annotated[bytes, Blob(limits.OUTPUT_BYTES_MAX)]
    """The answer as it was shown, UTF-8.  In tier ids it is what the client's tokenizer made."""


def content_hash(transcript: Transcript) -> Hash:
    """What the seal signs: keccak-256 of the header and the transcript's canonical bytes."""
    return signing.keccak256(TRANSCRIPT_HEADER + codec.encode_struct(transcript))


def encode_sealed(sealed: SealedTranscript) -> bytes:
    """The bytes of a transcript file."""
    return TRANSCRIPT_HEADER + codec.encode_struct(sealed)


def seal(transcript: Transcript, key: bytes) -> bytes:
    """The bytes of a transcript file, sealed with the client's 32-byte session key."""
    assert transcript.segments, "a job without an award has no transcript"
    statement = TranscriptSeal(
        client=transcript.segments[0].award.statement.client,
        job=transcript.job,
        content=content_hash(transcript),
    )
    signed = signing.sign(statement, transcript.domain, key)
    return encode_sealed(SealedTranscript(transcript=transcript, seal=signed))


def read(file: bytes) -> SealedTranscript:
    """A transcript file's content; nothing but its encoding is checked.

    Raises:
        DecodeError: Not the canonical bytes of one transcript.
    """
    body = _body(file, TRANSCRIPT_HEADER, limits.TRANSCRIPT_BYTES_MAX)
    sealed = codec.decode_struct(SealedTranscript, body)
    if encode_sealed(sealed) != file:
        raise DecodeError("the encoding is not canonical")
    if not sealed.transcript.segments:
        raise DecodeError("a transcript without a segment")
    return sealed


def encode_disclosure(disclosure: Disclosure) -> bytes:
    """The bytes of a disclosure file."""
    return DISCLOSURE_HEADER + codec.encode_struct(disclosure)


def disclosure_hash(file: bytes | None) -> Hash:
    """What the transcript carries for a disclosure file, or for none."""
    return ZERO_HASH if file is None else signing.keccak256(file)


def read_disclosure(file: bytes) -> Disclosure:
    """A disclosure file's content; nothing but its encoding is checked.

    Raises:
        DecodeError: Not the canonical bytes of one disclosure.
    """
    body = _body(file, DISCLOSURE_HEADER, limits.DISCLOSURE_BYTES_MAX)
    disclosure = codec.decode_struct(Disclosure, body)
    if encode_disclosure(disclosure) != file:
        raise DecodeError("the encoding is not canonical")
    return disclosure


def _body(file: bytes, header: bytes, size_max: int) -> bytes:
    if len(file) > size_max:
        raise DecodeError(f"a file of {len(file)} bytes")
    if not file.startswith(header):
        raise DecodeError(f"no header '{header.decode().strip()}'")
    return file[len(header) :]
