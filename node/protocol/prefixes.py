"""The beginnings of prompts, named by hashes: so that what was read before is found again.

    head 0 = start;  head k = BLAKE2b-128( head k−1 ‖ the ids of block k, u32 each )

Two prompts with the same head k begin with the same k blocks.  The hashes never leave this node:
the client keeps them to know who has read what, and the engine to know what it has.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from node.protocol import codec

BLOCK_TOKENS: Final = 32
"""Less than a whole block is not worth looking for."""
COMPUTED_TOKENS_MIN: Final = 2
"""The end of a prompt is computed in any case: the first token follows from it.  Two, since many
runtimes compute a single token by another kernel, which differs in its last bits."""
ID_BYTES: Final = 4

Heads = tuple[bytes, ...]
"""One for each whole block, the shortest beginning first."""


def heads(ids: Sequence[int], *, start: bytes = b"") -> Heads:
    """Name every beginning of some ids that is whole blocks.

    Args:
        ids: A prompt, perhaps with output behind it.
        start: Beginnings of another start have other names.
    """
    packed = codec.pack_ids(list(ids))
    size, head, found = BLOCK_TOKENS * ID_BYTES, start, []
    for end in range(size, len(packed) + 1, size):
        head = blake2b(head + packed[end - size : end], digest_size=16).digest()
        found.append(head)
    return tuple(found)


def savable(tokens_in: int) -> int:
    """Most tokens of a prompt that need not be computed again."""
    return max(tokens_in - COMPUTED_TOKENS_MIN, 0) // BLOCK_TOKENS * BLOCK_TOKENS
