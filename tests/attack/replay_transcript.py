"""The replay matrix before `node receipts verify`: real transcripts with one statement falsified.

The forger is the client itself, or has its key: each file is sealed anew, so that only what is
wrong inside can give it away.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from node.app import receipts
from node.errors import ExitCode
from node.protocol import signing, transcript
from node.protocol.fields import Signed
from node.protocol.transcript import SealedTranscript, Segment
from tests.attack import replay_matrix as matrix
from tests.attack.replay_matrix import Cell, forged

PLACE: Final = "verify"
_PARTS: Final = ("terms", "award", "acceptance", "progress", "receipt", "cutoff")
_WORKERS_PARTS: Final = ("terms", "acceptance", "progress", "receipt")


class TranscriptMatrix:
    """Falsifies transcripts of one client and one worker whose keys are at hand."""

    def __init__(self, *, client_key: bytes, worker_key: bytes, scratch: Path) -> None:
        self._client_key = client_key
        self._worker_key = worker_key
        self._scratch = scratch
        self._number = 0

    def run(self, files: Sequence[Path], *, by_command: bool, whole: bool) -> list[Cell]:
        """All cells.

        Args:
            files: Genuine transcripts.
            whole: They must have every kind of statement between them.
            by_command: Ask the real `node receipts verify` too, once for each kind.
        """
        cells, seen = [], set[str]()
        for kind, variant, file in self._cases(files, whole=whole):
            path = self._scratch / f"{self._number}{receipts.TRANSCRIPT_SUFFIX}"
            self._number += 1
            path.write_bytes(file)
            verdict = receipts.verify_file(path)
            failed = [check.name for check in verdict.checks if not check.passed]
            refused, how = not verdict.passed, f"failed: {', '.join(failed)}"
            if by_command and kind not in seen:
                seen.add(kind)
                refused &= _command(path) == ExitCode.FAILED
            cells.append(Cell(place=PLACE, kind=kind, variant=variant, refused=refused, how=how))
        return cells

    def _cases(self, files: Sequence[Path], *, whole: bool) -> Iterator[tuple[str, str, bytes]]:
        done = set[str]()
        for path in files:
            assert receipts.verify_file(path).passed, f"{path} is not genuine"
            sealed = transcript.read(path.read_bytes())
            segment = sealed.transcript.segments[0]
            for part in _PARTS:
                signed = getattr(segment, part)
                if signed is not None and part not in done:
                    done.add(part)
                    yield from self._part(sealed, segment, part, signed)
            if segment.payment is not None and "voucher" not in done:
                done.add("voucher")
                yield from self._voucher(sealed, segment)
            if "seal" not in done:
                done.add("seal")
                yield from self._seal(sealed)
        assert not whole or done == {*_PARTS, "voucher", "seal"}, f"only {done}"

    def _part(
        self, sealed: SealedTranscript, segment: Segment, part: str, signed: Signed[Any]
    ) -> Iterator[tuple[str, str, bytes]]:
        key = self._worker_key if part in _WORKERS_PARTS else self._client_key
        cases = forged(signed, domain=sealed.transcript.domain, key=key)
        if hasattr(signed.statement, "award"):
            other = replace(signed.statement, award=bytes(32))
            cases[matrix.OTHER_WORKER] = signing.sign(other, sealed.transcript.domain, key)
        for variant, bad in cases.items():
            changed: Segment = replace(segment, **{part: bad})  # type: ignore[arg-type]
            yield part, variant, self._file(sealed, (changed,))
        if part == "award":
            yield part, matrix.SAME_TWICE, self._file(sealed, (segment, segment))

    def _voucher(
        self, sealed: SealedTranscript, segment: Segment
    ) -> Iterator[tuple[str, str, bytes]]:
        payment = segment.payment
        assert payment is not None
        domain, genuine = sealed.transcript.domain, payment.voucher
        cases = forged(genuine, domain=domain, key=self._client_key)
        # An older one: for less than this segment cost.
        older = replace(genuine.statement, cumulative=payment.amount - 1)
        cases[matrix.OLD_NONCE] = signing.sign(older, domain, self._client_key)
        for variant, bad in cases.items():
            changed = replace(segment, payment=replace(payment, voucher=bad))
            yield "voucher", variant, self._file(sealed, (changed,))

    def _seal(self, sealed: SealedTranscript) -> Iterator[tuple[str, str, bytes]]:
        domain = sealed.transcript.domain
        for variant, bad in forged(sealed.seal, domain=domain, key=self._client_key).items():
            yield "seal", variant, transcript.encode_sealed(replace(sealed, seal=bad))

    def _file(self, sealed: SealedTranscript, segments: tuple[Segment, ...]) -> bytes:
        """Sealed anew; terms that were changed are among the bids, as the auction's check wants."""
        bids = tuple({segment.terms for segment in segments})
        auctions = (replace(sealed.transcript.auctions[0], bids=bids),)
        content = replace(sealed.transcript, segments=segments, auctions=auctions)
        return transcript.seal(content, self._client_key)


def _command(path: Path) -> int:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GPUNODE_")}
    ran = subprocess.run(
        [sys.executable, "-m", "node", "receipts", "verify", str(path)],
        env=environ, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return ran.returncode
