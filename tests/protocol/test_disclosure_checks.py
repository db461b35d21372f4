"""A disclosure sealed by a client that lies about prompt or answer is refused."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from node.protocol import chain_hash, codec, transcript
from node.protocol.signing import digest, keccak256
from node.protocol.statements import Tier
from node.protocol.transcript import Disclosure
from node.protocol.transcript_verify import VerifyReport, verify
from tests.protocol import sample_job as job
from tests.protocol.sample_job import Piece, Sample

TOKENIZER = hashlib.sha256(b"a tokenizer").digest()
TEXT = "Hello, wörld".encode()


def failed(report: VerifyReport) -> list[str]:
    return [check.name for check in report.failed]


def sealed_with(sample: Sample, **changes: Any) -> VerifyReport:
    """The client seals another disclosure than the honest one."""
    honest = transcript.read_disclosure(sample.disclosure())
    file = transcript.encode_disclosure(replace(honest, **changes))
    whole = replace(sample.transcript(), disclosure=transcript.disclosure_hash(file))
    return verify(transcript.seal(whole, job.CLIENT_KEY), file)


def reasked(sample: Sample, at: int, **changes: Any) -> VerifyReport:
    """The award of a segment is for another request; everything else follows from it."""
    piece = sample.pieces[at]
    request = replace(codec.decode_request(piece.body), **changes)
    piece.body = codec.encode(request)
    award = replace(piece.award, request=keccak256(piece.body), request_bytes=len(piece.body))
    piece.change(award=award)
    if at + 1 < len(sample.pieces):
        after = sample.pieces[at + 1]
        after.change(award=replace(after.award, previous=digest(piece.award, job.DOMAIN)))
    return verify(sample.file(), sample.disclosure())


def test_a_disclosure_reads_back_as_it_was_made() -> None:
    sample = job.continued_job()
    disclosure = transcript.read_disclosure(sample.disclosure())
    assert disclosure.output == codec.pack_ids(job.OUTPUT)
    assert disclosure.requests == tuple(piece.body for piece in sample.pieces)
    assert verify(sample.file(), sample.disclosure()).disclosure == disclosure


def test_the_disclosure_of_another_job_is_refused() -> None:
    other = job.continued_job().disclosure()
    assert failed(verify(job.finished_job().file(), other)) == ["disclosure"]


@pytest.mark.parametrize("file", [b"", b"x", transcript.DISCLOSURE_HEADER])
def test_what_is_no_disclosure_is_refused(file: bytes) -> None:
    assert failed(verify(job.finished_job().file(), file)) == ["disclosure"]


def test_a_transcript_sealed_without_a_disclosure_proves_none() -> None:
    sample = job.finished_job()
    whole = replace(sample.transcript(), disclosure=transcript.disclosure_hash(None))
    file = transcript.seal(whole, job.CLIENT_KEY)
    assert verify(file).passed
    assert failed(verify(file, sample.disclosure())) == ["disclosure"]


OUTPUT = codec.pack_ids(job.OUTPUT)
LIES: list[tuple[str, list[str], dict[str, Any]]] = [
    ("another job", ["disclosure"], {"job": bytes(16)}),
    ("no request", ["disclosure"], {"requests": ()}),
    ("a request that is none", ["request", "prompt"], {"requests": (b"\x90", b"\x90")}),
    ("output cut short", ["output"], {"output": OUTPUT[:-4]}),
    ("output with one more", ["output"], {"output": OUTPUT + bytes(4)}),
    ("output that is not whole", ["output"], {"output": OUTPUT[:-1]}),
    ("another last token", ["output"], {"output": OUTPUT[:-1] + b"\xff"}),
    ("another first token", ["request", "output"], {"output": b"\xff" + OUTPUT[1:]}),
    ("text that is no text", ["text"], {"text": b"\xff"}),
]


@pytest.mark.parametrize(
    ("expected", "changes"), [case[1:] for case in LIES], ids=[case[0] for case in LIES]
)
def test_a_lie_about_the_content_is_refused(expected: list[str], changes: dict[str, Any]) -> None:
    assert failed(sealed_with(job.continued_job(), **changes)) == expected


def test_another_body_than_awarded_is_refused() -> None:
    sample = job.finished_job()
    body = codec.encode(replace(codec.decode_request(sample.pieces[0].body), salt=bytes(32)))
    assert failed(sealed_with(sample, requests=(body,))) == ["request"]


def test_a_continuation_that_asked_for_something_else_is_refused() -> None:
    assert failed(reasked(job.continued_job(), 1, stop=())) == ["request"]
    sampling = replace(job.SAMPLING, temperature=0)
    assert failed(reasked(job.continued_job(), 1, sampling=sampling)) == ["request"]
    prompt = codec.pack_ids([1] * len(job.PROMPT))
    assert failed(reasked(job.continued_job(), 1, prompt=prompt)) == ["request"]


def test_a_prefix_that_is_not_the_output_is_refused() -> None:
    other = codec.pack_ids([1] * job.CUT_AT)
    assert failed(reasked(job.continued_job(), 1, prefix=other)) == ["request"]
    short = codec.pack_ids(job.OUTPUT[: job.CUT_AT - 1])
    assert failed(reasked(job.continued_job(), 1, prefix=short)) == ["request", "prompt"]


def test_a_prompt_that_was_billed_longer_than_it_is() -> None:
    prompt = codec.pack_ids(job.PROMPT[:-1])
    assert failed(reasked(job.finished_job(), 0, prompt=prompt)) == ["prompt"]


# --- tier text


def in_text(sample: Sample, output: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """The same job in tier text: `cuts` are the bytes at which the segments end."""
    client = sample.pieces[0].award.client
    start = 0
    before: Piece | None = None
    for piece, end in zip(sample.pieces, cuts, strict=True):
        request = codec.decode_request(piece.body)
        piece.body = codec.encode(replace(request, prompt=b"[]", prefix=output[:start]))
        head = chain_hash.TextChain(client, job.JOB, output[:end]).head
        award = replace(
            piece.award,
            request=keccak256(piece.body),
            request_bytes=len(piece.body),
            chain=chain_hash.TextChain(client, job.JOB, output[:start]).head,
        )
        if before is not None:
            award = replace(award, previous=digest(before.award, job.DOMAIN))
        terms = replace(piece.terms, tier=Tier.TEXT, tokenizer=TOKENIZER)
        piece.change(terms=terms, award=replace(award, terms=digest(terms, job.DOMAIN)))
        for name in ("receipt", "cutoff"):
            if getattr(piece, name) is not None:
                piece.change(**{name: replace(getattr(piece, name), chain=head)})
        start, before = end, piece
    file = transcript.encode_disclosure(
        Disclosure(
            job=job.JOB,
            requests=tuple(piece.body for piece in sample.pieces),
            output=output,
            text=output,
        )
    )
    whole = replace(sample.transcript(), disclosure=transcript.disclosure_hash(file))
    return transcript.seal(whole, job.CLIENT_KEY), file


@pytest.mark.parametrize(
    ("made", "cuts"), [(job.finished_job, [len(TEXT)]), (job.continued_job, [4, len(TEXT)])]
)
def test_text_is_checked_by_its_bytes(made: Callable[[], Sample], cuts: list[int]) -> None:
    file, disclosure = in_text(made(), TEXT, cuts)
    report = verify(file, disclosure)
    assert report.failed == ()
    assert any("tokenizer" in check.detail for check in report.checks if check.name == "prompt")


def test_other_text_than_was_signed_for_is_refused() -> None:
    file, disclosure = in_text(job.continued_job(), TEXT, [4, len(TEXT)])
    honest = transcript.read_disclosure(disclosure)
    lies: list[tuple[dict[str, Any], list[str]]] = [
        ({"output": TEXT + b"!", "text": TEXT + b"!"}, ["output"]),
        ({"text": TEXT + b"!"}, ["text"]),
    ]
    for changes, expected in lies:
        lie = transcript.encode_disclosure(replace(honest, **changes))
        whole = transcript.read(file).transcript
        whole = replace(whole, disclosure=transcript.disclosure_hash(lie))
        assert failed(verify(transcript.seal(whole, job.CLIENT_KEY), lie)) == expected
