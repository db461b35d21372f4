"""Answers, read as the next turn of their conversation would read them, while nobody waits.

What decoding leaves in a job's cache may differ in its last bits from what reading leaves, so that
none of it is kept.  The next turn would have to read the whole answer before its first token; here
that is done already by the time it comes.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from node.adapters.onnx.decoder import Cache, Decoder
from node.adapters.onnx.job import Job
from node.adapters.onnx.prefixes import Prefixes
from node.errors import Unavailable
from node.protocol.prefixes import BLOCK_TOKENS

ANSWERS_MAX: Final = 32
"""That wait to be read; the oldest are given up first."""


@dataclass(slots=True, kw_only=True)
class _Answer:
    """An answer behind its prompt, as far as it goes in whole blocks."""

    owner: bytes
    ids: tuple[int, ...]
    prompt: int
    """How many of the ids were read before the answer was written."""
    cache: Cache | None = None
    """What is read, once that has begun."""


class Answers:
    """Those of one decoder.  Belongs to the loop's thread."""

    def __init__(self, decoder: Decoder[Any], prefixes: Prefixes) -> None:
        """
        Args:
            decoder: What computes.
            prefixes: Where it finds what the prompts left, and leaves what it reads.
        """
        self._decoder = decoder
        self._prefixes = prefixes
        self._waiting: deque[_Answer] = deque(maxlen=ANSWERS_MAX)

    def add(self, job: Job) -> None:
        """A job is over; what it wrote is to be read."""
        owner, prompt = job.request.owner, len(job.before)
        whole = self._prefixes.whole(prompt + job.made)
        if self._prefixes.keeps(owner) and whole > self._prefixes.whole(prompt):
            ids = (*job.before, *job.written)[:whole]
            self._waiting.append(_Answer(owner=owner, ids=ids, prompt=prompt))

    @property
    def waiting(self) -> bool:
        """Whether there is something to read."""
        return bool(self._waiting)

    def read_block(self) -> None:
        """Read one block: whoever comes meanwhile waits no longer than that takes."""
        answer = self._waiting[0]
        try:
            done = self._read_block(answer)
        except Unavailable:  # no memory: the next turn reads it, if it can
            done = True
        if done:
            self._waiting.popleft()

    def _read_block(self, answer: _Answer) -> bool:
        """Whether that was the last one."""
        if answer.cache is None:
            blocks = self._prefixes.find(answer.owner, answer.ids)
            known = len(blocks) * BLOCK_TOKENS
            # Read by the next turn already; or so much was forgotten that all would be read again.
            if known == len(answer.ids) or known + BLOCK_TOKENS <= answer.prompt:
                return True
            answer.cache = self._decoder.begun(blocks, room=len(answer.ids) - known)
        at = answer.cache.length
        ids = np.array([answer.ids[at : at + BLOCK_TOKENS]], dtype=np.int64)
        _, answer.cache = self._decoder.forward(ids, answer.cache, last=True)
        if at + BLOCK_TOKENS < len(answer.ids):
            return False
        self._prefixes.keep(answer.owner, answer.ids, answer.cache.cut)
        return True
