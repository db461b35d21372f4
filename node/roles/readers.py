"""Which workers have what this client's prompts and answers begin with: in memory, as hashes."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from node.protocol.fields import Address, Hash
from node.protocol.prefixes import BLOCK_TOKENS, Heads
from node.roles.ports import Clock

HEADS_MAX: Final = 16_384
"""Half a million tokens."""
READERS_MAX: Final = 8
"""Workers per beginning, the latest."""
LIFE_S: Final = 1800.0
"""Longer ago it counts for nothing: workers forget as well."""


class Readers:
    """Who has read what."""

    def __init__(self, clock: Clock) -> None:
        """
        Args:
            clock: Monotonic.
        """
        self._clock = clock
        self._readers: OrderedDict[tuple[Hash, bytes], dict[Address, float]] = OrderedDict()
        """By model and head, with the time; the latest last."""

    def read(self, worker: Address, model: Hash, heads: Heads) -> None:
        """A worker has computed all of these, or had them."""
        now_s = self._clock.monotonic_s()
        for head in heads:
            readers = self._readers.setdefault((model, head), {})
            readers.pop(worker, None)
            readers[worker] = now_s
            if len(readers) > READERS_MAX:
                del readers[next(iter(readers))]
            self._readers.move_to_end((model, head))
        while len(self._readers) > HEADS_MAX:
            self._readers.popitem(last=False)

    def known(self, model: Hash, heads: Heads) -> Mapping[Address, int]:
        """How many tokens of a prompt workers have read before, of those that have any.

        Args:
            model: With which model.
            heads: Of the prompt.
        """
        oldest_s = self._clock.monotonic_s() - LIFE_S
        found: dict[Address, int] = {}
        for blocks, head in enumerate(heads, start=1):
            for worker, at_s in self._readers.get((model, head), {}).items():
                if at_s >= oldest_s:
                    found[worker] = blocks * BLOCK_TOKENS
        return found
