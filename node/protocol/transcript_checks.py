"""The checks of a transcript, each a function that returns what holds or raises what does not.

They look at one decoded file and nothing else; `transcript_verify` runs them in the order of
`CHECKS` and makes the report.
"""

from collections.abc import Callable
from typing import Any, Final

from node.errors import PeerError, SignatureError
from node.protocol import chain_hash, limits, receipts_tree, signing, tabs, transcript
from node.protocol.fields import ZERO_ADDRESS, ZERO_HASH, Address, Hash, Signed
from node.protocol.segment_times import check_clocks, check_receipt_ending
from node.protocol.signing import checksum
from node.protocol.statements import (
    CutoffReason,
    Progress,
    Receipt,
    Tier,
)
from node.protocol.transcript import Payment, SealedTranscript, Segment
from node.units import cost_micro, format_micro

TranscriptCheck = Callable[[SealedTranscript], str]


def end_of(segment: Segment) -> tuple[int, Hash]:
    """Output position (tokens of the whole job) and chain hash where a segment's output ends.

    Raises:
        PeerError: The segment has neither receipt nor cutoff.
    """
    if segment.cutoff is not None:
        return segment.cutoff.statement.position, segment.cutoff.statement.chain
    if segment.receipt is None:
        raise PeerError("a segment has neither a receipt nor a cutoff")
    receipt = segment.receipt.statement
    return segment.award.statement.position + receipt.tokens_out, receipt.chain


def cost_at(segment: Segment, *, tokens_cached: int, tokens_out: int) -> int:
    """What a segment costs, in micro; the prompt is owed with the first output token."""
    if tokens_out == 0:
        return 0
    terms, award = segment.terms.statement, segment.award.statement
    return cost_micro(
        tokens_in=award.tokens_in - tokens_cached,
        tokens_cached=tokens_cached,
        tokens_out=tokens_out,
        price_in=terms.price_in,
        price_cached=terms.price_cached,
        price_out=terms.price_out,
    )


def _seal(sealed: SealedTranscript) -> str:
    statement = sealed.seal.statement
    client = sealed.transcript.segments[0].award.statement.client
    if statement.content != transcript.content_hash(sealed.transcript):
        raise PeerError("the seal is for other content than the file holds")
    if statement.job != sealed.transcript.job or statement.client != client:
        raise PeerError("the seal names another job or client than the awards")
    signing.verify(sealed.seal, sealed.transcript.domain, client)
    return f"sealed by the client {checksum(client)}"


def _domain(sealed: SealedTranscript) -> str:
    said = sealed.transcript.domain
    if not said.chain_id or said.escrow == ZERO_ADDRESS:
        raise PeerError("no chain or no escrow is named")
    return f"chain {said.chain_id}, escrow {checksum(said.escrow)}"


def _auction(sealed: SealedTranscript) -> str:
    job, seen = sealed.transcript, set[Hash]()
    for auction in job.auctions:
        for bid in auction.bids:
            signing.verify(bid, job.domain, bid.statement.worker)
            if bid.statement.model != job.segments[0].terms.statement.model:
                raise PeerError("a bid is for another model than the job's")
            seen.add(signing.digest(bid.statement, job.domain))
    for segment in job.segments:
        if signing.digest(segment.terms.statement, job.domain) not in seen:
            raise PeerError("terms that were awarded on are not among the auction's")
    return f"{len(seen)} signed terms were compared, the awarded ones among them"


def _terms(sealed: SealedTranscript) -> str:
    for segment in sealed.transcript.segments:
        terms = segment.terms.statement
        signing.verify(segment.terms, sealed.transcript.domain, terms.worker)
        tabs.check_splits(terms.splits, payee=terms.payee, escrow=sealed.transcript.escrow)
        if terms.tier not in list(Tier):
            raise PeerError(f"terms of unknown tier {terms.tier}")
        if (terms.tier == Tier.TEXT) != (terms.tokenizer != ZERO_HASH):
            raise PeerError("a counting tokenizer is named in tier text, and only there")
    return f"signed by {_workers(sealed)}"


def _award(sealed: SealedTranscript) -> str:
    job, client = sealed.transcript, sealed.seal.statement.client
    for segment in job.segments:
        award, terms = segment.award.statement, segment.terms.statement
        signing.verify(segment.award, job.domain, client)
        if award.client != client or award.job != job.job:
            raise PeerError("an award is of another client, or for another job")
        if award.terms != signing.digest(terms, job.domain):
            raise PeerError("an award is on other terms than the file shows")
        if award.worker != terms.worker:
            raise PeerError("an award is to another worker than its terms are of")
    return f"{_count(len(job.segments), 'award')}, signed by the client, on the terms shown"


def _acceptance(sealed: SealedTranscript) -> str:
    job, count = sealed.transcript, 0
    for segment in job.segments:
        if segment.acceptance is not None:
            _worker_signed(sealed, segment, segment.acceptance)
            count += 1
        elif segment.progress is not None or segment.receipt is not None:
            raise PeerError("a worker billed what it had not accepted")
    return f"{count} of {_count(len(job.segments), 'award')} accepted, signed by the workers"


def _progress(sealed: SealedTranscript) -> str:
    count = 0
    for segment in sealed.transcript.segments:
        if segment.progress is None:
            continue
        _bill(sealed, segment, segment.progress)
        progress = segment.progress.statement
        position, chain = end_of(segment)
        at = segment.award.statement.position + progress.tokens_out
        if at > position:
            raise PeerError("a running total is ahead of the segment's end")
        if at == position and progress.chain != chain:
            raise PeerError("a running total and the segment's end are for different output")
        count += 1
    return f"{_count(count, 'running total')}, signed by the workers"


def _receipt(sealed: SealedTranscript) -> str:
    count = 0
    for segment in sealed.transcript.segments:
        if segment.receipt is None:
            continue
        _bill(sealed, segment, segment.receipt)
        receipt = segment.receipt.statement
        ended = segment.award.statement.position + receipt.tokens_out
        if (ended, receipt.chain) != end_of(segment):
            raise PeerError("receipt and cutoff end at different output")
        progress = segment.progress.statement if segment.progress else None
        if progress is not None and progress.tokens_cached != receipt.tokens_cached:
            raise PeerError("receipt and running total differ in cached tokens")
        count += 1
    return f"{_count(count, 'receipt')}, signed by the workers"


def _cutoff(sealed: SealedTranscript) -> str:
    job, count = sealed.transcript, 0
    for segment in job.segments:
        end_of(segment)
        if segment.cutoff is None:
            continue
        award = segment.award.statement
        cutoff = signing.verify(segment.cutoff, job.domain, award.client)
        if cutoff.award != signing.digest(award, job.domain):
            raise PeerError("a cutoff is for another award")
        if cutoff.reason not in list(CutoffReason):
            raise PeerError(f"unknown reason {cutoff.reason} for a cutoff")
        count += 1
    return f"{count} of {_count(len(job.segments), 'segment')} cut off, signed by the client"


def _times(sealed: SealedTranscript) -> str:
    issued_ms = 0
    for segment in sealed.transcript.segments:
        award = segment.award.statement
        if award.issued_ms < issued_ms:
            raise PeerError("a later award was issued before an earlier one")
        issued_ms = award.issued_ms
        if segment.acceptance is None:
            continue
        accepted = segment.acceptance.statement
        check_clocks(award, accepted)
        progress = segment.progress.statement if segment.progress else None
        if segment.receipt is not None:
            check_receipt_ending(accepted, progress, segment.receipt.statement)
        elif progress is not None and progress.at_ms < accepted.accepted_ms:
            raise PeerError("the running total is older than the acceptance")
    return "every party's times are in order"


def _counts(sealed: SealedTranscript) -> str:
    job = sealed.transcript
    for segment in job.segments:
        award, terms = segment.award.statement, segment.terms.statement
        position, chain = end_of(segment)
        if not 0 <= position - award.position <= award.output_max:
            raise PeerError("the output is outside the award's limits")
        if position == award.position and chain != award.chain:
            raise PeerError("no output, yet another chain hash")
        if segment.acceptance is None and position != award.position:
            raise PeerError("output under an award that was not accepted")
        if award.output_max > terms.output_max:
            raise PeerError("an award asks for more output than its terms allow")
        if award.tokens_in + award.output_max > terms.context_max:
            raise PeerError("an award asks for more context than its terms allow")
        if not 0 < award.request_bytes <= limits.REQUEST_BYTES_MAX:
            raise PeerError("an award announces a request of impossible size")
    tokens_in, tokens_out = job.segments[0].award.statement.tokens_in, end_of(job.segments[-1])[0]
    return f"{tokens_in} prompt and {tokens_out} output tokens, within the limits"


def _amounts(sealed: SealedTranscript) -> str:
    total_micro = 0
    for segment in sealed.transcript.segments:
        award, payment = segment.award.statement, segment.payment
        paid_micro = payment.amount if payment else 0
        owed_micro = segment.receipt.statement.amount if segment.receipt else 0
        tokens_out = end_of(segment)[0] - award.position
        # A client that is cut short pays what it knows: that may be the prompt at the price of
        # tokens that were not cached, or what it had paid in advance.
        most_micro = max(
            cost_at(segment, tokens_cached=0, tokens_out=tokens_out),
            owed_micro,
            segment.terms.statement.prepay,
        )
        if paid_micro < owed_micro:
            raise PeerError(f"paid {paid_micro} micro of {owed_micro} that a receipt says")
        if paid_micro > min(most_micro, award.cap):
            raise PeerError(f"paid {paid_micro} micro, more than delivered or than the cap")
        total_micro += paid_micro
    return f"{format_micro(total_micro)} paid, as the counts at the terms' prices come to"


def _continuation(sealed: SealedTranscript) -> str:
    job = sealed.transcript
    first = job.segments[0].award.statement
    if (first.position, first.previous) != (0, ZERO_HASH):
        raise PeerError("the first segment continues another")
    if first.chain != chain_hash.start(first.client, job.job):
        raise PeerError("the first segment's chain hash is not the job's start")
    for before, after in zip(job.segments, job.segments[1:], strict=False):
        _link(sealed, before, after)
    return f"{_count(len(job.segments), 'segment')}, without a gap and without a repetition"


def _link(sealed: SealedTranscript, before: Segment, after: Segment) -> None:
    old, new = before.award.statement, after.award.statement
    if new.attempt <= old.attempt:
        raise PeerError("a continuation's attempt does not rise")
    if new.previous != signing.digest(old, sealed.transcript.domain):
        raise PeerError("a continuation names another segment before it")
    if (new.position, new.chain) != end_of(before):
        raise PeerError("a continuation starts at other output than the segment before it ended")
    if new.position + new.output_max > old.position + old.output_max:
        raise PeerError("a continuation asks for more output than was left")
    if (new.seed, new.payer) != (old.seed, old.payer):
        raise PeerError("a continuation has another seed or payer")
    mine, yours = before.terms.statement, after.terms.statement
    if (mine.model, mine.tier, mine.tokenizer) != (yours.model, yours.tier, yours.tokenizer):
        raise PeerError("a continuation is by another model or in another tier")


def _voucher(sealed: SealedTranscript) -> str:
    """Signatures and tabs; and each tab's best voucher covers all that was paid on it."""
    owed: dict[Hash, int] = {}
    best: dict[Hash, int] = {}
    for segment in sealed.transcript.segments:
        if segment.payment is None:
            continue
        tab = _tab(sealed, segment, segment.payment)
        cumulative = segment.payment.voucher.statement.cumulative
        owed[tab] = owed.get(tab, 0) + segment.payment.amount
        best[tab] = max(best.get(tab, 0), cumulative)
        if cumulative < segment.payment.amount:
            raise PeerError("a voucher is lower than what it is said to pay")
    if any(best[tab] < owed[tab] for tab in owed):
        raise PeerError("the vouchers of a tab are lower than what they are said to pay")
    return f"{_count(len(best), 'voucher')} on the tabs of the terms, signed for the payer"


def _tab(sealed: SealedTranscript, segment: Segment, payment: Payment) -> Hash:
    award, terms, voucher = (
        segment.award.statement,
        segment.terms.statement,
        payment.voucher.statement,
    )
    signer = signing.recover(payment.voucher, sealed.transcript.domain)
    if signer not in (award.client, award.payer):
        raise SignatureError(f"a voucher is signed by {checksum(signer)}, not for the payer")
    tab = tabs.tab_of_voucher(voucher)
    if tab != tabs.tab_of_terms(terms, payer=award.payer):
        raise PeerError("a voucher is on another tab than the terms'")
    return tabs.tab_id(tab)


def _inclusion(sealed: SealedTranscript) -> str:
    count = 0
    for segment in sealed.transcript.segments:
        payment = segment.payment
        if payment is None:
            continue
        if segment.receipt is None:
            if payment.index or payment.size or payment.path:
                raise PeerError("a proof for a receipt that is not there")
            continue
        if _prepaid(segment, payment):
            continue
        leaf = signing.digest(segment.receipt.statement, sealed.transcript.domain)
        root = payment.voucher.statement.receipts
        if not receipts_tree.verify_inclusion(leaf, payment.proof, root):
            raise PeerError("a receipt is not in the tree that its voucher commits to")
        count += 1
    return f"the payer's vouchers commit to {_count(count, 'receipt')}"


def _prepaid(segment: Segment, payment: Payment) -> bool:
    """What was paid in advance has a voucher older than the receipt, and no later one may exist."""
    no_proof = (payment.index, payment.size, payment.path) == (0, 0, ())
    return no_proof and payment.amount == segment.terms.statement.prepay


def _bill(
    sealed: SealedTranscript, segment: Segment, bill: Signed[Progress] | Signed[Receipt]
) -> None:
    _worker_signed(sealed, segment, bill)
    award, said = segment.award.statement, bill.statement
    if said.tokens_in + said.tokens_cached != award.tokens_in:
        raise PeerError("billed prompt tokens are not the award's")
    due = cost_at(segment, tokens_cached=said.tokens_cached, tokens_out=said.tokens_out)
    if said.amount != due:
        raise PeerError(f"billed {said.amount} micro where the terms come to {due}")
    if said.amount > award.cap:
        raise PeerError(f"billed {said.amount} micro over the cap of {award.cap}")


def _worker_signed(sealed: SealedTranscript, segment: Segment, signed: Signed[Any]) -> None:
    domain, award = sealed.transcript.domain, segment.award.statement
    signing.verify(signed, domain, award.worker)
    if signed.statement.award != signing.digest(award, domain):
        raise PeerError(f"{type(signed.statement).__name__.lower()} is for another award")


def _workers(sealed: SealedTranscript) -> str:
    found: dict[Address, None] = {}
    for segment in sealed.transcript.segments:
        found[segment.terms.statement.worker] = None
    return ", ".join(f"the worker {checksum(worker)}" for worker in found)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


CHECKS: Final[tuple[tuple[str, TranscriptCheck], ...]] = (
    ("seal", _seal),
    ("domain", _domain),
    ("auction", _auction),
    ("terms", _terms),
    ("award", _award),
    ("acceptance", _acceptance),
    ("progress", _progress),
    ("receipt", _receipt),
    ("cutoff", _cutoff),
    ("times", _times),
    ("counts", _counts),
    ("amounts", _amounts),
    ("continuation", _continuation),
    ("voucher", _voucher),
    ("inclusion", _inclusion),
)
"""Name and function, in the order of the report."""
