"""Makes the transcript and the disclosure of a job that has ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.protocol import signing, transcript
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import Signed
from node.protocol.job_client import ClientJob
from node.protocol.statements import Voucher
from node.roles.answer import AnyAnswer
from node.roles.job_run import Attempt
from node.roles.stores import ReceiptProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one worker did, as it is sealed."""

    attempt: Attempt
    record: AuctionRecord
    """How the worker was chosen."""
    proof: ReceiptProof | None
    """That a voucher commits to the receipt, where one does."""


def seal(
    parts: Sequence[Part], answer: AnyAnswer, *, domain: signing.Domain, key: bytes
) -> tuple[bytes, bytes]:
    """The bytes of a job's transcript file, sealed with the client's key, and of its disclosure.

    Args:
        parts: At least one, in the order of their attempts.
        answer: What was accepted, of all of them.
        domain: Chain and escrow.
        key: The client's 32-byte session key.
    """
    job = parts[0].attempt.job.award.job
    disclosure = transcript.encode_disclosure(
        transcript.Disclosure(
            job=job,
            requests=tuple(part.attempt.request for part in parts),
            output=answer.output,
            text=answer.text.encode(),
        )
    )
    content = transcript.Transcript(
        chain_id=domain.chain_id,
        escrow=domain.escrow,
        job=job,
        disclosure=transcript.disclosure_hash(disclosure),
        auctions=tuple(_auction(part.record) for part in parts),
        segments=tuple(_segment(part) for part in parts),
    )
    return transcript.seal(content, key), disclosure


def _auction(record: AuctionRecord) -> transcript.AuctionSummary:
    return transcript.AuctionSummary(
        mode=record.mode, reason=record.reason, bids=record.terms, record=record.to_bytes()
    )


def _segment(part: Part) -> transcript.Segment:
    evidence = part.attempt.evidence
    return transcript.Segment(
        terms=evidence.terms,
        award=evidence.award,
        acceptance=evidence.acceptance,
        progress=evidence.progress,
        receipt=evidence.receipt,
        cutoff=evidence.cutoff,
        payment=_payment(part.attempt.job, part.attempt.voucher, part.proof),
    )


def _payment(
    job: ClientJob, voucher: Signed[Voucher] | None, proof: ReceiptProof | None
) -> transcript.Payment | None:
    if job.accepted_micro == 0:
        return None
    if proof is not None:
        return transcript.Payment(
            amount=job.accepted_micro,
            voucher=proof.voucher,
            index=proof.proof.index,
            size=proof.proof.size,
            path=proof.proof.path,
        )
    assert voucher is not None, "accepted, released and not vouchered"
    return transcript.Payment(amount=job.accepted_micro, voucher=voucher, index=0, size=0, path=())
