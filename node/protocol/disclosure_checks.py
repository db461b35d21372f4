"""The checks of a disclosure file against its transcript: prompt, answer, who signed for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from node.errors import PeerError
from node.protocol import chain_hash, codec, signing, transcript
from node.protocol.fields import Hash
from node.protocol.frames import Request
from node.protocol.statements import Tier
from node.protocol.transcript import Disclosure, Transcript
from node.protocol.transcript_checks import end_of

ID_SIZE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosed:
    """A decoded disclosure beside the transcript that it belongs to."""

    transcript: Transcript
    disclosure: Disclosure
    file_hash: Hash

    @property
    def in_ids(self) -> bool:
        """Output is token ids, not text."""
        return self.transcript.segments[0].terms.statement.tier == Tier.IDS


DisclosureCheck = Callable[[Disclosed], str]


def open_disclosure(job: Transcript, file: bytes) -> Disclosed:
    """Decode a disclosure file.

    Raises:
        DecodeError: Not the canonical bytes of one disclosure.
    """
    return Disclosed(
        transcript=job,
        disclosure=transcript.read_disclosure(file),
        file_hash=transcript.disclosure_hash(file),
    )


def _belongs(opened: Disclosed) -> str:
    if opened.file_hash != opened.transcript.disclosure:
        raise PeerError("the transcript was sealed with another disclosure file")
    if opened.disclosure.job != opened.transcript.job:
        raise PeerError("it is of another job")
    if len(opened.disclosure.requests) != len(opened.transcript.segments):
        raise PeerError("it does not hold one request per segment")
    return "it is the file that the client sealed"


def _request(opened: Disclosed) -> str:
    first = codec.decode_request(opened.disclosure.requests[0])
    for segment, body in zip(opened.transcript.segments, opened.disclosure.requests, strict=True):
        award, request = segment.award.statement, codec.decode_request(body)
        if signing.keccak256(body) != award.request or len(body) != award.request_bytes:
            raise PeerError("a request is not the one that its award is for")
        if _asked(request) != _asked(first):
            raise PeerError("a continuation asked for something else than the job")
        if not opened.disclosure.output.startswith(request.prefix):
            raise PeerError("a continuation's prefix is not the output before it")
        if opened.in_ids and len(request.prefix) != award.position * ID_SIZE:
            raise PeerError("a continuation's prefix does not end at its position")
    return "every request is the one that its award carries the hash of"


def _prompt(opened: Disclosed) -> str:
    if not opened.in_ids:
        return "the prompt is text: counting it needs the terms' tokenizer"
    for segment, body in zip(opened.transcript.segments, opened.disclosure.requests, strict=True):
        request = codec.decode_request(body)
        count = len(codec.unpack_ids(request.prompt)) + len(codec.unpack_ids(request.prefix))
        if count != segment.award.statement.tokens_in:
            raise PeerError(
                f"the prompt has {count} tokens, the award {segment.award.statement.tokens_in}"
            )
    return f"{opened.transcript.segments[0].award.statement.tokens_in} prompt tokens, as awarded"


def _output(opened: Disclosed) -> str:
    return _ids(opened) if opened.in_ids else _text_chain(opened)


def _ids(opened: Disclosed) -> str:
    job, ids = opened.transcript, codec.unpack_ids(opened.disclosure.output)
    if len(ids) != end_of(job.segments[-1])[0]:
        raise PeerError("the output has another number of tokens than was signed for")
    for segment in job.segments:
        award = segment.award.statement
        at, head = award.position, award.chain
        marks = [end_of(segment)]
        if segment.progress is not None:
            progress = segment.progress.statement
            marks.insert(0, (award.position + progress.tokens_out, progress.chain))
        for position, chain in marks:
            head = chain_hash.extend(head, ids[at:position])
            at = position
            if head != chain:
                raise PeerError("the output is not what the chain hash was signed over")
    return f"{len(ids)} output tokens, the ones that were signed for"


def _text_chain(opened: Disclosed) -> str:
    """Positions count tokens, so the cuts are where the next request's prefix ends."""
    job, output = opened.transcript, opened.disclosure.output
    client = job.segments[0].award.statement.client
    bodies = opened.disclosure.requests[1:]
    ends = [len(codec.decode_request(body).prefix) for body in bodies] + [len(output)]
    for segment, end in zip(job.segments, ends, strict=True):
        if chain_hash.TextChain(client, job.job, output[:end]).head != end_of(segment)[1]:
            raise PeerError("the output is not what the chain hash was signed over")
    return f"{len(output)} bytes of output, the ones that were signed for"


def _text(opened: Disclosed) -> str:
    text, output = opened.disclosure.text, opened.disclosure.output
    try:
        text.decode()
    except UnicodeDecodeError:
        raise PeerError("the text is not UTF-8") from None
    if not opened.in_ids and text != output:
        raise PeerError("the text is not the output")
    return "the text is the one that the client sealed"


def _asked(request: Request) -> tuple[object, ...]:
    return request.prompt, request.sampling, request.stop, request.ignore_eos, request.format


CHECKS: Final[tuple[tuple[str, DisclosureCheck], ...]] = (
    ("disclosure", _belongs),
    ("request", _request),
    ("prompt", _prompt),
    ("output", _output),
    ("text", _text),
)
"""Name and function, in the order of the report; the first guards the rest."""
