"""`node receipts`: list, show and verify transcript files.  Files only, and the chain if asked."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import ConfigError, DecodeError, NodeError
from node.protocol import limits, signing, transcript
from node.protocol.statements import CutoffReason, Finish
from node.protocol.transcript import SealedTranscript, Segment
from node.protocol.transcript_checks import end_of
from node.protocol.transcript_verify import FOR_THE_CHAIN, Check, VerifyReport, verify

TRANSCRIPT_SUFFIX: Final = ".transcript"
DISCLOSURE_SUFFIX: Final = ".disclosure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify_file` found."""

    path: Path
    report: VerifyReport
    chain: tuple[Check, ...] | None
    """Checks against the chain; None when it was not asked."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """All of them, in order."""
        return self.report.checks + (self.chain or ())

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def unproven(self) -> tuple[str, ...]:
        """What was left open."""
        open_ones = self.report.unproven
        return tuple(each for each in open_ones if self.chain is None or each != FOR_THE_CHAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRow:
    """One job, as its transcript has it."""

    job: bytes
    issued_ms: int
    model: bytes
    workers: tuple[bytes, ...]
    tokens_in: int
    tokens_out: int
    paid_micro: int
    ending: str
    """How the last segment ended: `stop`, `length`, …"""
    path: Path


def save(folder: Path, job: bytes, file: bytes, disclosure: bytes | None) -> Path:
    """Keep a sealed transcript, and its disclosure beside it; both are for the owner alone.

    Returns:
        The transcript's path.

    Raises:
        ConfigError: The folder can't be written.
    """
    path = folder / f"{job.hex()}{TRANSCRIPT_SUFFIX}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if disclosure is not None:
            _write(path.with_suffix(DISCLOSURE_SUFFIX), disclosure)
        _write(path, file)
    except OSError as error:
        raise ConfigError(f"the transcript can't be written to {folder}: {error}") from error
    return path


def find(folder: Path, name: str) -> Path:
    """The transcript that a person names: a path, a job id, or the first letters of one.

    Raises:
        ConfigError: There is none, or more than one.
    """
    if "/" in name or name.endswith(TRANSCRIPT_SUFFIX) or Path(name).is_file():
        return Path(name)
    found = [
        path for path in _files(folder) if path.name.startswith(name.lower().removeprefix("0x"))
    ]
    if len(found) != 1:
        what = "no receipt" if not found else f"{len(found)} receipts"
        raise ConfigError(f"{what} of a job that begins with {name}", hint="node receipts list")
    return found[0]


def rows(folder: Path, *, count_max: int) -> tuple[ReceiptRow, ...]:
    """The newest transcripts of a folder, newest first; files that are none are left out."""
    newest = sorted(_files(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    found = []
    for path in newest[:count_max]:
        try:
            found.append(row(path, transcript.read(_read(path, limits.TRANSCRIPT_BYTES_MAX))))
        except NodeError:
            continue  # `verify` of that file says what is wrong with it
    return tuple(sorted(found, key=lambda each: each.issued_ms, reverse=True))


def row(path: Path, sealed: SealedTranscript) -> ReceiptRow:
    """The line of one transcript.  Nothing is verified."""
    segments = sealed.transcript.segments
    first, last = segments[0].award.statement, segments[-1]
    try:
        tokens_out, _ = end_of(last)
    except NodeError:
        tokens_out = last.award.statement.position
    return ReceiptRow(
        job=sealed.transcript.job,
        issued_ms=first.issued_ms,
        model=segments[0].terms.statement.model,
        workers=tuple({segment.terms.statement.worker: None for segment in segments}),
        tokens_in=first.tokens_in,
        tokens_out=tokens_out,
        paid_micro=sum(segment.payment.amount for segment in segments if segment.payment),
        ending=_ending(last),
        path=path,
    )


def read(path: Path) -> SealedTranscript:
    """A transcript, to be shown.  Nothing is verified.

    Raises:
        ConfigError: There is no such file.
        DecodeError: It is no transcript.
    """
    return transcript.read(_read(path, limits.TRANSCRIPT_BYTES_MAX))


def verify_file(
    path: Path, *, disclosure: Path | None = None, rpc: str = "", finality_blocks: int = 0
) -> Verdict:
    """Check a transcript file offline, and against the chain where an RPC URL is given.

    Args:
        path: The transcript.
        disclosure: Its disclosure file, to check prompt and answer too.
        rpc: One or more URLs, separated by commas; empty: the chain is not asked.
        finality_blocks: Blocks on top of one before what it says is believed.

    Raises:
        ConfigError: A file can't be read, or the URL is none.
        Unavailable: The chain was asked for and does not answer.
    """
    file = _read(path, limits.TRANSCRIPT_BYTES_MAX)
    opened = None if disclosure is None else _read(disclosure, limits.DISCLOSURE_BYTES_MAX)
    report = verify(file, opened)
    chain = None
    if rpc and report.passed and report.sealed is not None:
        import trio

        from node.app.receipts_chain import EscrowAtRpc, chain_checks

        escrow = EscrowAtRpc(
            rpc, domain=report.sealed.transcript.domain, finality_blocks=finality_blocks
        )
        chain = trio.run(chain_checks, report.sealed.transcript, escrow)
    return Verdict(path=path, report=report, chain=chain)


def disclosure_beside(path: Path) -> Path | None:
    """The disclosure file that `save` puts beside a transcript, if it is there."""
    beside = path.with_suffix(DISCLOSURE_SUFFIX)
    return beside if beside.is_file() else None


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict for programs."""
    sealed = verdict.report.sealed
    return {
        "path": str(verdict.path),
        "verified": verdict.passed,
        "failed": [check.name for check in verdict.checks if not check.passed],
        "checks": [
            {"name": check.name, "passed": check.passed, "detail": check.detail}
            for check in verdict.checks
        ],
        "proves": list(verdict.report.proves) if verdict.passed else [],
        "unproven": list(verdict.unproven),
        "chain_asked": verdict.chain is not None,
        "receipt": None if sealed is None else row_json(row(verdict.path, sealed)),
    }


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """A verdict for people: a table of the checks, then what follows from them."""
    width = max(len(check.name) for check in verdict.checks)
    for check in verdict.checks:
        yield f"{'ok    ' if check.passed else 'FAILED'}  {check.name:<{width}}  {check.detail}"
    yield ""
    failed = [check.name for check in verdict.checks if not check.passed]
    if failed:
        yield f"Refused: {', '.join(failed)}."
        return
    yield "Verified. It proves that"
    yield from (f"  - {sentence};" for sentence in verdict.report.proves)
    yield "It does not prove"
    yield from (f"  - {sentence};" for sentence in verdict.unproven)


def row_json(line: ReceiptRow) -> dict[str, Any]:
    """A line of the list for programs."""
    return {
        "job_id": line.job.hex(),
        "issued_ms": line.issued_ms,
        "model": line.model.hex(),
        "workers": [signing.checksum(worker) for worker in line.workers],
        "tokens_in": line.tokens_in,
        "tokens_out": line.tokens_out,
        "paid_micro": line.paid_micro,
        "ending": line.ending,
        "path": str(line.path),
    }


def transcript_json(sealed: SealedTranscript) -> dict[str, Any]:
    """Everything in a transcript, for `node receipts show --json`; bytes as hexadecimal."""
    shown: dict[str, Any] = _plain(sealed)
    return shown


def _ending(segment: Segment) -> str:
    if segment.receipt is not None:
        finish = segment.receipt.statement.finish
        return Finish(finish).name.lower() if finish in list(Finish) else f"code {finish}"
    if segment.cutoff is not None:
        reason = segment.cutoff.statement.reason
        known = reason in list(CutoffReason)
        return f"cut off: {CutoffReason(reason).name.lower() if known else f'code {reason}'}"
    return "open"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    names = getattr(value, "__dataclass_fields__", None)
    return value if names is None else {name: _plain(getattr(value, name)) for name in names}


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob(f"*{TRANSCRIPT_SUFFIX}")


def _read(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(size_max + 1)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if len(content) > size_max:
        raise DecodeError(f"{path} is larger than {size_max} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, also when the power fails in between."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
