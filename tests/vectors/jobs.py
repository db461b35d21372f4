"""The vectors of whole jobs: transcripts, disclosures, and files that must be refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from node.protocol import transcript
from node.protocol.transcript_verify import verify
from tests.protocol import sample_job as job
from tests.vectors.examples import to_json

Vectors = dict[str, Any]


def transcripts() -> Vectors:
    """Two whole jobs, and files that must be refused with the first check that fails."""
    valid = []
    for name, made in (("finished", job.finished_job()), ("continued", job.continued_job())):
        report = verify(made.file(), made.disclosure(), domain=job.DOMAIN)
        valid.append(
            {
                "name": name,
                "transcript": to_json(made.file()),
                "disclosure": to_json(made.disclosure()),
                "content_hash": to_json(transcript.content_hash(made.transcript())),
                "fields": to_json(transcript.read(made.file())),
                "checks": [check.name for check in report.checks],
            }
        )
    return {"valid": valid, "invalid": list(_bad_transcripts())}


def _bad_transcripts() -> Iterator[Vectors]:
    made = job.finished_job()
    good = made.file()
    header = len(transcript.TRANSCRIPT_HEADER)
    whole = made.transcript()
    files = {
        "another header": b"GPU-MARKET TRANSCRIPT 2\n" + good[header:],
        "a longer form of the same content": good[:header] + b"\xdc\x00\x02" + good[header + 1 :],
        "a byte after the end": good + b"\x00",
        "a changed byte of a statement": _flipped(good, len(good) // 2),
        "a changed byte of the seal's signature": _flipped(good, len(good) - 1),
        "sealed by another key": transcript.seal(whole, job.WORKER_KEYS[0]),
    }
    for why, change in _wrong_jobs().items():
        other = job.finished_job()
        change(other.pieces[0])
        files[why] = other.file()
    for why, file in files.items():
        failed = [check.name for check in verify(file).failed]
        yield {"why": why, "failed": failed, "transcript": to_json(file)}


def _wrong_jobs() -> dict[str, Callable[[job.Piece], None]]:
    def overbilled(piece: job.Piece) -> None:
        assert piece.receipt is not None
        piece.change(receipt=replace(piece.receipt, amount=piece.receipt.amount + 1))

    def dearer(piece: job.Piece) -> None:
        piece.terms = replace(piece.terms, price_out=piece.terms.price_out * 2)

    def unpaid(piece: job.Piece) -> None:
        piece.paid_micro -= 1

    def not_included(piece: job.Piece) -> None:
        assert piece.proof is not None
        piece.proof = replace(piece.proof, path=())

    return {
        "billed a micro more than the counts come to": overbilled,
        "a price raised after the award": dearer,
        "paid less than the receipt": unpaid,
        "a receipt that the voucher does not commit to": not_included,
    }


def _flipped(file: bytes, at: int) -> bytes:
    return file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]
