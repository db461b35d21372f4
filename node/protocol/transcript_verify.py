"""Is a transcript what it says?  Runs every check and says what the file proves.

Pure and offline: whoever has the file can repeat it.  What only the chain knows is checked by
`node.app.receipts`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from node.errors import DecodeError, PeerError
from node.protocol import disclosure_checks, transcript, transcript_checks
from node.protocol.disclosure_checks import Disclosed, open_disclosure
from node.protocol.signing import Domain, checksum
from node.protocol.transcript import Disclosure, SealedTranscript, Transcript
from node.units import format_micro

T = TypeVar("T")

FOR_THE_CHAIN: Final = (
    "that the payer authorised the client's key, and what was redeemed: ask the chain"
)
"""What the files leave open, and a check against the chain settles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str
    """One sentence, without a full stop: what holds, or what does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The outcome for one transcript file, with its disclosure file where one was given."""

    checks: tuple[Check, ...]
    """In a fixed order; after an unreadable encoding no other check is run."""
    sealed: SealedTranscript | None
    """None: the file is no transcript."""
    disclosure: Disclosure | None
    proves: tuple[str, ...]
    """What follows, in sentences; empty unless every check passed."""
    unproven: tuple[str, ...]
    """What these files can't show."""

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


def verify(
    file: bytes, disclosure: bytes | None = None, *, domain: Domain | None = None
) -> VerifyReport:
    """Check a transcript file, and its disclosure file where one is given.  Never raises.

    Args:
        file: Bytes of the transcript file.
        disclosure: Bytes of the disclosure file.
        domain: The chain and escrow that the reader expects; None accepts what the file names.
    """
    try:
        sealed = transcript.read(file)
    except DecodeError as error:
        failed = Check(name="encoding", passed=False, detail=str(error))
        return VerifyReport(checks=(failed,), sealed=None, disclosure=None, proves=(), unproven=())
    checks = [Check(name="encoding", passed=True, detail="canonical")]
    checks += [run(name, check, sealed) for name, check in transcript_checks.CHECKS]
    if domain is not None:
        checks.append(run("expected domain", lambda job: _expected(job, domain), sealed.transcript))
    opened = None
    if disclosure is not None:
        opened, more = _disclosed(sealed.transcript, disclosure)
        checks += more
    passed = all(check.passed for check in checks)
    return VerifyReport(
        checks=tuple(checks),
        sealed=sealed,
        disclosure=opened.disclosure if opened else None,
        proves=_proves(sealed.transcript, opened) if passed else (),
        unproven=_unproven(opened),
    )


def run(name: str, check: Callable[[T], str], subject: T) -> Check:
    """The outcome of a check that returns what holds or raises `PeerError`."""
    try:
        return Check(name=name, passed=True, detail=check(subject))
    except PeerError as error:
        return Check(name=name, passed=False, detail=str(error))


def _expected(job: Transcript, domain: Domain) -> str:
    if job.domain != domain:
        raise PeerError(
            f"the statements are bound to chain {job.chain_id}, escrow {checksum(job.escrow)}, "
            f"not to chain {domain.chain_id}, escrow {checksum(domain.escrow)}"
        )
    return "the chain and escrow that were asked for"


def _disclosed(job: Transcript, file: bytes) -> tuple[Disclosed | None, list[Check]]:
    try:
        opened = open_disclosure(job, file)
    except DecodeError as error:
        return None, [Check(name="disclosure", passed=False, detail=str(error))]
    (name, belongs), *others = disclosure_checks.CHECKS
    first = run(name, belongs, opened)
    if not first.passed:
        return opened, [first]
    return opened, [first, *(run(each, check, opened) for each, check in others)]


def _proves(job: Transcript, opened: Disclosed | None) -> tuple[str, ...]:
    first, last = job.segments[0], job.segments[-1]
    client, payer = first.award.statement.client, first.award.statement.payer
    paid_micro = sum(segment.payment.amount for segment in job.segments if segment.payment)
    workers = ", ".join({checksum(each.terms.statement.worker): None for each in job.segments})
    tokens_out, _ = transcript_checks.end_of(last)
    said = [
        f"{checksum(client)} ordered job {job.job.hex()} on terms that {workers} had signed",
        f"{first.award.statement.tokens_in} prompt tokens and {tokens_out} output tokens were "
        "counted and signed for",
        f"{checksum(payer)}'s vouchers, signed by its key or the client's, promise the "
        f"{format_micro(paid_micro)} that it cost, and commit to the receipts",
    ]
    if opened is not None:
        said.append("the request and the output shown are the ones that the statements are about")
    return tuple(said)


def _unproven(opened: Disclosed | None) -> tuple[str, ...]:
    said = [
        FOR_THE_CHAIN,
        "that no other bid was left out: the list of bids is the client's",
        "that the worker ran the model that it names: an audit runs it again",
    ]
    if opened is None:
        said.append("what was asked and answered: that needs the disclosure file")
    elif opened.in_ids:
        said.append("that the text shown is the output ids decoded: that needs the tokenizer")
    return tuple(said)
