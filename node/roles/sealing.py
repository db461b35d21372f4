"""Makes the transcript and the disclosure of a job that has ended."""

from node.protocol import signing, transcript
from node.protocol.auction_record import AuctionRecord
from node.protocol.fields import Signed
from node.protocol.job_client import ClientJob
from node.protocol.statements import Voucher
from node.roles.answer import AnyAnswer
from node.roles.purchase import Evidence
from node.roles.stores import ReceiptProof


def seal(
    job: ClientJob,
    evidence: Evidence,
    answer: AnyAnswer,
    *,
    domain: signing.Domain,
    key: bytes,
    record: AuctionRecord,
    request: bytes,
    voucher: Signed[Voucher] | None,
    proof: ReceiptProof | None,
) -> tuple[bytes, bytes]:
    """The bytes of a job's transcript file, sealed with the client's key, and of its disclosure.

    Args:
        job: As it ended.
        evidence: Its statements.
        answer: What was accepted.
        domain: Chain and escrow.
        key: The client's 32-byte session key.
        record: How the worker was chosen.
        request: The body that the award's hash is of.
        voucher: The tab's newest, once all that was accepted is vouchered.
        proof: That a voucher commits to the receipt, where one does.
    """
    disclosure = transcript.encode_disclosure(
        transcript.Disclosure(
            job=job.award.job,
            requests=(request,),
            output=answer.output,
            text=answer.text.encode(),
        )
    )
    content = transcript.Transcript(
        chain_id=domain.chain_id,
        escrow=domain.escrow,
        job=job.award.job,
        disclosure=transcript.disclosure_hash(disclosure),
        auctions=(
            transcript.AuctionSummary(
                mode=record.mode,
                reason=record.reason,
                bids=record.terms,
                record=record.to_bytes(),
            ),
        ),
        segments=(
            transcript.Segment(
                terms=evidence.terms,
                award=evidence.award,
                acceptance=evidence.acceptance,
                progress=evidence.progress,
                receipt=evidence.receipt,
                cutoff=evidence.cutoff,
                payment=_payment(job, voucher, proof),
            ),
        ),
    )
    return transcript.seal(content, key), disclosure


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
