"""A transcript is accepted as it is, and refused, by the check that it concerns, when it is not."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import DecodeError
from node.protocol import limits, signing, transcript
from node.protocol.signing import Domain, keccak256, sign
from node.protocol.transcript import SealedTranscript, Transcript
from node.protocol.transcript_verify import VerifyReport, verify
from tests.protocol import sample_job as job
from tests.protocol import strategies
from tests.protocol.sample_job import Sample

STRANGER = job.STRANGER_KEY
CHANGES = 1_000
FILE = job.continued_job().file()


def failed(report: VerifyReport) -> list[str]:
    return [check.name for check in report.failed]


@pytest.mark.parametrize("made", [job.finished_job, job.continued_job])
def test_an_honest_job_passes_every_check(made: Callable[[], Sample]) -> None:
    sample = made()
    report = verify(sample.file(), sample.disclosure(), domain=job.DOMAIN)
    assert report.failed == ()
    assert report.passed
    assert len({check.name for check in report.checks}) == len(report.checks) == 22
    assert all(check.detail for check in report.checks)
    assert len(report.proves) == 4
    assert len(report.unproven) == 4


def test_without_a_disclosure_nothing_is_said_about_the_content() -> None:
    report = verify(job.finished_job().file())
    assert report.passed
    assert report.disclosure is None
    assert len(report.proves) == 3
    assert any("disclosure" in sentence for sentence in report.unproven)


def test_a_file_reads_back_as_it_was_made() -> None:
    sample = job.continued_job()
    sealed = transcript.read(sample.file())
    assert sealed.transcript == sample.transcript()
    assert transcript.encode_sealed(sealed) == sample.file()
    assert verify(sample.file()).sealed == sealed
    assert sealed.transcript.domain == job.DOMAIN


# --- every byte


@pytest.mark.parametrize("made", [job.finished_job, job.continued_job])
def test_a_thousand_single_byte_changes_are_each_refused_by_name(
    made: Callable[[], Sample],
) -> None:
    file = made().file()
    draw = random.Random(1)
    places = [at % len(file) for at in range(CHANGES)] if len(file) < CHANGES else []
    places = places or draw.sample(range(len(file)), CHANGES)
    for at in places:
        changed = bytearray(file)
        changed[at] ^= draw.randint(1, 255)
        report = verify(bytes(changed))
        assert not report.passed, at
        assert report.failed[0].detail, at
        assert report.proves == ()


def test_every_byte_of_the_file_is_covered() -> None:
    file = job.finished_job().file()
    draw = random.Random(2)
    for at in range(len(file)):
        changed = bytearray(file)
        changed[at] ^= 1 << draw.randrange(8)
        assert failed(verify(bytes(changed)))[0] in ("encoding", "seal"), at


@settings(deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_byte_may_be_anything_else(at: int, byte: int) -> None:
    file = FILE
    changed = bytearray(file)
    changed[at % len(file)] = byte
    assert verify(bytes(changed)).passed == (bytes(changed) == file)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bytes_taken_out_or_put_in_are_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FILE)))
    put = data.draw(st.binary(max_size=3))
    cut = data.draw(st.integers(0, 3))
    changed = FILE[:at] + put + FILE[at + cut :]
    assert verify(changed).passed == (changed == FILE)


def test_every_byte_of_the_disclosure_is_covered() -> None:
    sample = job.continued_job()
    file, disclosure = sample.file(), sample.disclosure()
    draw = random.Random(3)
    for at in range(len(disclosure)):
        changed = bytearray(disclosure)
        changed[at] ^= draw.randint(1, 255)
        report = verify(file, bytes(changed))
        assert failed(report) == ["disclosure"], at


# --- encoding


def test_what_is_no_transcript_is_refused_as_such() -> None:
    for file in (b"", b"\x90", transcript.TRANSCRIPT_HEADER, FILE[1:], FILE + b"\x00", FILE[:-1]):
        report = verify(file)
        assert failed(report) == ["encoding"]
        assert report.sealed is None


def test_another_encoding_of_the_same_content_is_refused() -> None:
    body = FILE[len(transcript.TRANSCRIPT_HEADER) :]
    assert body[0] == 0x92
    longer = transcript.TRANSCRIPT_HEADER + b"\xdc\x00\x02" + body[1:]
    report = verify(longer)
    assert failed(report) == ["encoding"]
    assert "canonical" in report.failed[0].detail


def test_files_over_their_size_are_not_looked_at() -> None:
    with pytest.raises(DecodeError, match="a file of"):
        transcript.read(bytes(limits.TRANSCRIPT_BYTES_MAX + 1))
    with pytest.raises(DecodeError, match="a file of"):
        transcript.read_disclosure(bytes(limits.DISCLOSURE_BYTES_MAX + 1))


def test_a_transcript_without_a_segment_is_refused() -> None:
    sealed = transcript.read(FILE)
    empty = replace(sealed, transcript=replace(sealed.transcript, segments=()))
    assert failed(verify(transcript.encode_sealed(empty))) == ["encoding"]


# --- seal and domain


def resealed(change: Callable[[Transcript], Transcript], key: bytes = job.CLIENT_KEY) -> bytes:
    return transcript.seal(change(job.continued_job().transcript()), key)


def test_a_seal_by_another_key_is_refused() -> None:
    assert failed(verify(resealed(lambda whole: whole, STRANGER))) == ["seal"]


def test_a_seal_for_another_job_is_refused() -> None:
    whole = job.finished_job().transcript()
    file = transcript.seal(replace(whole, job=bytes(16)), job.CLIENT_KEY)
    assert "award" in failed(verify(file))


def test_a_seal_of_other_content_is_refused() -> None:
    sealed = transcript.read(FILE)
    other = replace(sealed.transcript, disclosure=keccak256(b"another"))
    file = transcript.encode_sealed(SealedTranscript(transcript=other, seal=sealed.seal))
    assert failed(verify(file)) == ["seal"]


@pytest.mark.parametrize("other", [Domain(1, job.DOMAIN.escrow), Domain(31337, bytes([9]) * 20)])
def test_statements_of_another_chain_or_escrow_are_refused(other: Domain) -> None:
    file = resealed(lambda whole: replace(whole, chain_id=other.chain_id, escrow=other.escrow))
    assert {"terms", "award", "receipt", "voucher"} <= set(failed(verify(file)))
    assert failed(verify(FILE, domain=other)) == ["expected domain"]


def test_no_domain_is_refused() -> None:
    file = resealed(lambda whole: replace(whole, escrow=bytes(20)))
    assert "domain" in failed(verify(file))


# --- each statement: signed by somebody else


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("terms", "terms"),
        ("award", "award"),
        ("acceptance", "acceptance"),
        ("progress", "progress"),
        ("receipt", "receipt"),
        ("cutoff", "cutoff"),
    ],
)
def test_a_statement_signed_by_a_stranger_is_refused(statement: str, name: str) -> None:
    def change(whole: Transcript) -> Transcript:
        at = 0 if statement == "cutoff" else 1
        segment = whole.segments[at]
        signed = getattr(segment, statement)
        forged: Any = sign(signed.statement, job.DOMAIN, STRANGER)
        segments = list(whole.segments)
        segments[at] = replace(segment, **{statement: forged})
        return replace(whole, segments=tuple(segments))

    assert failed(verify(resealed(change))) == [name]


def test_a_voucher_signed_by_a_stranger_is_refused() -> None:
    def change(whole: Transcript) -> Transcript:
        last = whole.segments[-1]
        assert last.payment is not None
        forged = sign(last.payment.voucher.statement, job.DOMAIN, STRANGER)
        last = replace(last, payment=replace(last.payment, voucher=forged))
        return replace(whole, segments=(*whole.segments[:-1], last))

    report = verify(resealed(change))
    assert failed(report) == ["voucher"]
    assert "not for the payer" in report.failed[0].detail


def test_a_payer_that_is_the_client_itself_is_accepted() -> None:
    sample = job.finished_job()
    piece = sample.pieces[0]
    client = signing.address_of_key(job.CLIENT_KEY)
    piece.change(award=replace(piece.award, payer=client))
    assert piece.voucher is not None
    assert piece.voucher.payer == client
    assert verify(sample.file(), sample.disclosure()).passed


# --- hostile content


@settings(max_examples=60, deadline=None)
@given(sealed=strategies.messages(SealedTranscript), disclosure=st.binary(max_size=60))
def test_no_content_makes_it_raise(sealed: SealedTranscript, disclosure: bytes) -> None:
    file = transcript.encode_sealed(sealed)
    report = verify(file, transcript.DISCLOSURE_HEADER + disclosure, domain=job.DOMAIN)
    assert not report.passed
    assert all(check.detail for check in report.failed)


@settings(max_examples=60, deadline=None)
@given(disclosure=strategies.messages(transcript.Disclosure))
def test_no_disclosure_makes_it_raise(disclosure: transcript.Disclosure) -> None:
    file = transcript.encode_disclosure(disclosure)
    whole = replace(job.continued_job().transcript(), disclosure=transcript.disclosure_hash(file))
    disclosure = replace(disclosure, job=whole.job, requests=(disclosure.output,) * 2)
    file = transcript.encode_disclosure(disclosure)
    whole = replace(whole, disclosure=transcript.disclosure_hash(file))
    assert not verify(transcript.seal(whole, job.CLIENT_KEY), file).passed
