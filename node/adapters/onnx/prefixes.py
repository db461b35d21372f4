"""What prompts left behind: keys and values by block, for whoever begins the same way.

A block is copied out of a job's cache and copied into another's, so that no job can write in it.
It is found by the hash of its owner and of all ids up to its end: nobody finds, and so can neither
time nor be billed by, what another client's prompts have left.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from node.adapters.onnx.decoder import Block, Decoder
from node.protocol import prefixes
from node.protocol.prefixes import BLOCK_TOKENS

log = structlog.get_logger("engine")

ARRAY_BYTES: Final = 128
"""What NumPy needs for an array besides its content."""

Cut = Callable[[int, int], Sequence[Block]]
"""Copies the blocks from one position to another."""


class Prefixes:
    """Blocks of one decoder, the least recently used of which go first.

    Belongs to the loop's thread.
    """

    def __init__(self, decoder: Decoder[Any], *, bytes_max: int) -> None:
        """
        Args:
            decoder: Whose cache it is.
            bytes_max: Most that all blocks take; 0: none are kept.
        """
        self.block_bytes = BLOCK_TOKENS * decoder.token_bytes + decoder.arrays * ARRAY_BYTES
        self._blocks_max = bytes_max // self.block_bytes
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        """The least recently used first; of one prompt the last block before the first."""

    def __len__(self) -> int:
        return len(self._blocks)

    def keeps(self, owner: bytes) -> bool:
        """Whether it keeps anything of theirs."""
        return bool(owner) and self._blocks_max > 0

    def whole(self, count: int) -> int:
        """Of so many ids, how many there may be here: in whole blocks, as far as memory goes."""
        return min(count // BLOCK_TOKENS, self._blocks_max) * BLOCK_TOKENS

    def find(self, owner: bytes, ids: Sequence[int]) -> tuple[Block, ...]:
        """The longest beginning of some ids that is here.

        Args:
            owner: Whose; empty: nobody's, and nothing is found.
            ids: A prompt without what has to be computed in any case.
        """
        heads = self._heads(owner, ids)
        found = heads[: self._known(heads)]
        self._use(found)
        return tuple(self._blocks[head] for head in found)

    def keep(self, owner: bytes, ids: Sequence[int], cut: Cut) -> None:
        """Keep what was computed, as far as it is not here and there can be room for it.

        Args:
            owner: Whose; empty: nobody's, and nothing is kept.
            ids: What was computed.
            cut: Copies it.
        """
        heads = self._heads(owner, ids)
        known = self._known(heads)
        self._use(heads[:known])
        fresh = heads[known:]
        while len(self._blocks) + len(fresh) > self._blocks_max:
            self._blocks.popitem(last=False)
        if fresh:
            try:
                blocks = cut(known * BLOCK_TOKENS, len(heads) * BLOCK_TOKENS)
            except Exception as error:  # no memory, here or on a device, which have no common base
                log.warning("a prompt is not kept", reason=str(error) or repr(error))
                return
            self._blocks.update(zip(fresh, blocks, strict=True))
        self._use(heads)

    def _heads(self, owner: bytes, ids: Sequence[int]) -> prefixes.Heads:
        if not self.keeps(owner):
            return ()
        return prefixes.heads(ids[: self.whole(len(ids))], start=owner)

    def _known(self, heads: prefixes.Heads) -> int:
        """How many of them are here, from the first on."""
        return next((at for at, head in enumerate(heads) if head not in self._blocks), len(heads))

    def _use(self, heads: prefixes.Heads) -> None:
        # A block is of no use without those before it: they are to go after it.
        for head in reversed(heads):
            self._blocks.move_to_end(head)
