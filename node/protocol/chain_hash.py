"""The running hash over a job's output that progress, receipt and cutoff carry.

It starts from the client and the job, so that a head says whose output it is, and it runs through
all segments of a job: a continuation goes on from the head where the segment before it ended.
"""

import hashlib
import struct
from collections.abc import Iterable

from node.protocol.fields import Address, Hash

_START = b"gpu-market chain 1"
_ID = struct.Struct(">I")


def start(client: Address, job: bytes) -> Hash:
    """The head before any output: sha256 of a tag, the client's address and the job id."""
    return hashlib.sha256(_START + client + job).digest()


def extend(head: Hash, ids: Iterable[int]) -> Hash:
    """The head after more token ids (tier ids): per id, sha256(head ‖ big-endian u32)."""
    sha256, pack = hashlib.sha256, _ID.pack
    for token in ids:
        head = sha256(head + pack(token)).digest()
    return head


class TextChain:
    """The head over text (tier text): sha256(start ‖ all visible UTF-8 bytes of the job so far).

    It depends on the bytes alone, never on how they were cut into chunks; with no text the head is
    `start`.  A continuation rebuilds it from the request's prefix.  Like a head it never changes.
    """

    __slots__ = ("_hash", "_start", "size")

    def __init__(self, client: Address, job: bytes, prefix: bytes = b"") -> None:
        self._start = start(client, job)
        self._hash = hashlib.sha256(self._start + prefix)
        self.size = len(prefix)
        """Bytes of text so far."""

    def after(self, text: bytes) -> "TextChain":
        """The chain after more UTF-8 bytes."""
        longer = TextChain.__new__(TextChain)
        longer._start, longer._hash = self._start, self._hash.copy()
        longer._hash.update(text)
        longer.size = self.size + len(text)
        return longer

    @property
    def head(self) -> Hash:
        """The head after all text so far."""
        return self._hash.digest() if self.size else self._start
