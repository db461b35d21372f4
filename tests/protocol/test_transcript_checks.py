"""Client and worker may be in league: what is rightly signed and sealed, and wrong, is refused by
the check that it concerns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from node.protocol import receipts_tree, tabs
from node.protocol.fields import ZERO_HASH
from node.protocol.signing import digest, keccak256
from node.protocol.statements import Split
from node.protocol.transcript_verify import VerifyReport, verify
from tests.protocol import sample_job as job
from tests.protocol.sample_job import NOW_MS, Piece, Sample

Change = Callable[[Piece], None]


def failed(sample: Sample) -> list[str]:
    return names(verify(sample.file(), sample.disclosure()))


def names(report: VerifyReport) -> list[str]:
    return [check.name for check in report.failed]


def by(part: str, **changes: Any) -> Change:
    """Change fields of one statement; the rest is signed anew over it."""
    return lambda piece: piece.change(**{part: replace(getattr(piece, part), **changes)})


def stale(part: str, **changes: Any) -> Change:
    """Change fields of the award or the terms, and leave everything else as it was."""

    def change(piece: Piece) -> None:
        setattr(piece, part, replace(getattr(piece, part), **changes))

    return change


def without(*parts: str) -> Change:
    def change(piece: Piece) -> None:
        for part in parts:
            setattr(piece, part, None)
        if "voucher" in parts:
            piece.paid_micro, piece.proof = 0, None

    return change


def billed(*, out: int = 0, cached: int = 0, micro: int = 0) -> Change:
    """A receipt for more output, with cached tokens, or for another amount, else consistent."""

    def change(piece: Piece) -> None:
        old = piece.receipt
        assert old is not None
        tokens_out = old.tokens_out + out
        amount = job.cost(piece.terms, piece.award, cached=cached, out=tokens_out) + micro
        piece.change(
            receipt=replace(
                old,
                tokens_in=piece.award.tokens_in - cached,
                tokens_cached=cached,
                tokens_out=tokens_out,
                amount=amount,
            )
        )

    return change


def paid(micro: int) -> Change:
    def change(piece: Piece) -> None:
        piece.paid_micro += micro

    return change


def split(bps: int, payee: bytes = job.CURATOR) -> Change:
    return by("terms", splits=(Split(payee=payee, bps=bps),))


def two_splits(piece: Piece) -> None:
    high, low = Split(payee=b"\xdd" * 20, bps=1), Split(payee=job.CURATOR, bps=1)
    piece.change(terms=replace(piece.terms, splits=(high, low)))


def own_split(piece: Piece) -> None:
    split(1, piece.terms.payee)(piece)


def dearer(piece: Piece) -> None:
    """The worker bills by a price that it raised after the award."""
    piece.terms = replace(piece.terms, price_out=4_000_000)


def dearer_bill(piece: Piece) -> None:
    assert piece.receipt is not None
    costly = replace(piece.terms, price_out=4_000_000)
    amount = job.cost(costly, piece.award, cached=0, out=piece.receipt.tokens_out)
    piece.change(receipt=replace(piece.receipt, amount=amount))


FINISHED: list[tuple[str, list[str], Change]] = [
    ("no such tier", ["terms", "output", "text"], by("terms", tier=9)),
    ("a tokenizer in tier ids", ["terms"], by("terms", tokenizer=bytes([1]) * 32)),
    ("a split of nothing", ["terms"], split(0)),
    ("splits over the escrow's limit", ["terms"], split(5_001)),
    ("splits out of order", ["terms"], two_splits),
    ("a split to the payee itself", ["terms"], own_split),
    ("a price raised after the award", ["award", "progress", "receipt"], dearer),
    ("a bill by a price raised after the award", ["receipt"], dearer_bill),
    ("award on other terms", ["award"], by("award", terms=ZERO_HASH)),
    (
        "award to another worker",
        ["award", "acceptance", "progress", "receipt"],
        by("award", worker=job.PAYER),
    ),
    (
        "award of another client",
        ["seal", "award", "continuation", "voucher"],
        by("award", client=job.PAYER),
    ),
    ("award of another job", ["award"], by("award", job=bytes(16))),
    (
        "statements of another award",
        ["acceptance", "progress", "receipt"],
        stale("award", issued_ms=NOW_MS + 1),
    ),
    ("acceptance of another award", ["acceptance"], by("acceptance", award=ZERO_HASH)),
    ("progress of another award", ["progress"], by("progress", award=ZERO_HASH)),
    ("receipt of another award", ["receipt"], by("receipt", award=ZERO_HASH)),
    ("billed, never accepted", ["acceptance", "counts"], without("acceptance")),
    ("billed more output than was sent", ["progress", "output"], billed(out=-33)),
    ("billed output that nobody has", ["output"], billed(out=1)),
    ("billed a micro more", ["receipt"], billed(micro=1)),
    ("billed a micro less", ["receipt"], billed(micro=-1)),
    ("cached tokens only at the end", ["receipt"], billed(cached=4)),
    ("billed for another prompt", ["receipt"], by("receipt", tokens_in=31)),
    ("more than the cap", ["receipt", "amounts"], by("award", cap=20)),
    ("no such end", ["times"], by("receipt", finish=77)),
    ("an end before the acceptance", ["times"], by("receipt", ended_ms=NOW_MS)),
    ("first token after the end", ["times"], by("receipt", first_token_ms=NOW_MS + 6_001)),
    ("another time of acceptance", ["times"], by("receipt", accepted_ms=NOW_MS + 5_011)),
    ("progress after the end", ["times"], by("progress", at_ms=NOW_MS + 6_001)),
    ("accepted two days later", ["times"], by("award", issued_ms=NOW_MS - 2 * 86_400_000)),
    ("more output than awarded", ["counts"], by("award", output_max=39)),
    ("more output awarded than offered", ["counts"], by("terms", output_max=63)),
    ("more context awarded than offered", ["counts"], by("terms", context_max=93)),
    ("an empty request", ["counts", "request"], by("award", request_bytes=0)),
    ("a request beyond the limit", ["counts", "request"], by("award", request_bytes=2**31)),
    ("paid less than the receipt", ["amounts"], paid(-1)),
    ("paid more than the receipt", ["amounts"], paid(1)),
    ("not paid", ["amounts"], without("voucher")),
    (
        "neither receipt nor cutoff",
        ["progress", "cutoff", "counts", "amounts", "inclusion", "output"],
        without("receipt"),
    ),
    ("it starts in the middle", ["continuation", "request", "output"], by("award", position=1)),
    ("it starts from another hash", ["continuation", "output"], by("award", chain=ZERO_HASH)),
    ("it continues another job", ["continuation"], by("award", previous=keccak256(b"x"))),
    ("voucher of another payer", ["voucher"], by("voucher", payer=bytes([1]) * 20)),
    ("voucher to another payee", ["voucher"], by("voucher", payee=job.CURATOR)),
    ("voucher for another model", ["voucher"], by("voucher", model=ZERO_HASH)),
    ("voucher without the splits", ["voucher"], by("voucher", splits=tabs.splits_hash(()))),
    ("voucher below the amount", ["voucher"], by("voucher", cumulative=1)),
    ("voucher that commits to other receipts", ["inclusion"], by("voucher", receipts=ZERO_HASH)),
    ("proof of another leaf", ["inclusion"], by("proof", index=1)),
    ("proof in another tree", ["inclusion"], by("proof", size=9)),
    ("proof cut short", ["inclusion"], by("proof", path=())),
    ("another prompt length", ["progress", "receipt", "prompt"], by("award", tokens_in=31)),
    ("another request", ["request"], by("award", request=ZERO_HASH)),
]
"""Name, the checks that fail and no others, what is changed in a job of one finished segment."""


@pytest.mark.parametrize(
    ("expected", "change"), [case[1:] for case in FINISHED], ids=[case[0] for case in FINISHED]
)
def test_a_wrong_job_is_refused(expected: list[str], change: Change) -> None:
    sample = job.finished_job()
    change(sample.pieces[0])
    assert failed(sample) == expected


def lost(sample: Sample) -> Piece:
    return sample.pieces[0]


def last(sample: Sample) -> Piece:
    return sample.pieces[1]


def on_lost(change: Change) -> Callable[[Sample], None]:
    """Change the first segment; the second names it as it now is."""

    def apply(sample: Sample) -> None:
        change(lost(sample))
        before = digest(lost(sample).award, job.DOMAIN)
        last(sample).change(award=replace(last(sample).award, previous=before))

    return apply


def on_last(change: Change) -> Callable[[Sample], None]:
    return lambda sample: change(last(sample))


def other_model(sample: Sample) -> None:
    by("terms", model=ZERO_HASH)(last(sample))


def never_accepted(piece: Piece) -> None:
    without("acceptance", "progress")(piece)
    by("cutoff", position=0, chain=piece.award.chain)(piece)


def same_worker_poor_voucher(sample: Sample) -> None:
    """Both segments on one tab, whose voucher covers each amount but not their sum."""
    first, second = lost(sample), last(sample)
    assert second.voucher is not None
    second.worker_key = first.worker_key
    second.change(terms=replace(first.terms))
    second.change(award=replace(second.award, worker=first.terms.worker))
    assert second.receipt is not None
    amount = job.cost(second.terms, second.award, cached=0, out=second.receipt.tokens_out)
    assert second.progress is not None
    second.change(
        receipt=replace(second.receipt, amount=amount),
        progress=replace(
            second.progress,
            amount=job.cost(second.terms, second.award, cached=0, out=second.progress.tokens_out),
        ),
    )
    most = max(first.paid_micro, second.paid_micro)
    assert first.voucher is not None
    assert second.voucher is not None
    first.voucher = replace(first.voucher, cumulative=most)
    second.voucher = replace(second.voucher, cumulative=most)


CONTINUED: list[tuple[str, list[str], Callable[[Sample], None]]] = [
    ("attempt that does not rise", ["continuation"], on_last(by("award", attempt=0))),
    ("previous of another segment", ["continuation"], on_last(by("award", previous=ZERO_HASH))),
    ("another seed", ["continuation"], on_last(by("award", seed=8))),
    ("more output than was left", ["continuation"], on_last(by("award", output_max=53))),
    ("a continuation of another payer", ["continuation"], on_last(by("award", payer=job.CURATOR))),
    ("a continuation by another model", ["auction", "continuation"], other_model),
    ("a continuation issued before", ["times"], on_last(by("award", issued_ms=NOW_MS - 1))),
    (
        "a gap",
        ["continuation", "output"],
        on_lost(by("cutoff", position=11, chain=keccak256(b"x"))),
    ),
    ("a cutoff for another award", ["cutoff"], on_lost(by("cutoff", award=ZERO_HASH))),
    ("no such reason", ["cutoff"], on_lost(by("cutoff", reason=99))),
    (
        "a cutoff before what was accepted",
        ["progress", "amounts", "continuation", "output"],
        on_lost(by("cutoff", position=9)),
    ),
    (
        "running total for other output",
        ["progress", "output"],
        on_lost(by("progress", tokens_out=12, amount=8)),
    ),
    ("paid more than was delivered", ["amounts"], on_lost(paid(1))),
    (
        "a proof of no receipt",
        ["inclusion"],
        on_lost(lambda piece: setattr(piece, "proof", receipts_tree.prove([ZERO_HASH], 0))),
    ),
    ("one voucher for two amounts", ["voucher"], same_worker_poor_voucher),
    ("never accepted, yet paid", ["amounts", "continuation"], on_lost(never_accepted)),
]
"""Name, the checks that fail and no others, what is changed in a job of two segments."""


@pytest.mark.parametrize(
    ("expected", "change"), [case[1:] for case in CONTINUED], ids=[case[0] for case in CONTINUED]
)
def test_a_wrong_continuation_is_refused(
    expected: list[str], change: Callable[[Sample], None]
) -> None:
    sample = job.continued_job()
    change(sample)
    assert failed(sample) == expected


def prepaid(prepay_micro: int) -> Sample:
    """Paid with the award, in full or more; no voucher commits to the receipt."""
    sample = job.finished_job()
    piece = sample.pieces[0]
    piece.change(terms=replace(piece.terms, prepay=prepay_micro))
    piece.change(
        paid_micro=prepay_micro, proof=receipts_tree.InclusionProof(index=0, size=0, path=())
    )
    return sample


def test_what_was_prepaid_needs_no_proof_and_may_exceed_the_receipt() -> None:
    receipt = job.finished_job().pieces[0].receipt
    assert receipt is not None
    assert failed(prepaid(receipt.amount)) == []
    assert failed(prepaid(receipt.amount + 7)) == []
    assert failed(prepaid(receipt.amount - 1)) == ["amounts"]
    partly = prepaid(receipt.amount - 1)
    partly.pieces[0].paid_micro = receipt.amount
    assert failed(partly) == ["inclusion"]
