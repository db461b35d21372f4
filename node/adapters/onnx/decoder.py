"""What the engine needs of a decoder: ids and cache in, logits and a longer cache out.

There are two kinds.  `past.PastDecoder` runs a graph as it was exported, which makes the whole
cache anew in every run.  `inplace.InPlaceDecoder` runs it rewritten, where that can be done: the
cache stays where it is, and a run adds to it.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.errors import ConfigError, Unavailable

Ints = NDArray[np.int64]
Array = NDArray[Any]
Block = tuple[Array, ...]
"""Keys and values of `BLOCK_TOKENS` tokens of one row, in the order of the layout's parts."""


class Cache(Protocol):
    """Keys and values of some rows, which may differ in length."""

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        ...

    @property
    def shortest(self) -> int:
        """Tokens of the shortest row."""
        ...

    def joined(self, other: Self) -> Self:
        """These rows and then the other's; neither of the two may be used any more."""
        ...

    def taken(self, rows: Sequence[int]) -> Self:
        """Some of the rows, in this order; what is here stays as it is."""
        ...

    def cut(self, start: int, stop: int) -> tuple[Block, ...]:
        """Copies of the only row's tokens from one block's start to another's, in host memory."""
        ...


C = TypeVar("C", bound=Cache)


class Decoder(Protocol[C]):
    """A loaded graph.  Not thread-safe: its owner calls it from one thread at a time."""

    @property
    def spread_max(self) -> int:
        """Tokens that the shortest row of a batch may lack."""
        ...

    @property
    def slices(self) -> bool:
        """Whether logits of the last position alone cost less than all of them."""
        ...

    @property
    def arrays(self) -> int:
        """In a block."""
        ...

    @property
    def token_bytes(self) -> int:
        """What the cache takes for one token."""
        ...

    def begun(self, blocks: Sequence[Block] = (), *, room: int = 0) -> C:
        """The cache of one sequence.

        Args:
            blocks: What it begins with, of `cut`; they are copied.
            room: Tokens that are known to follow.

        Raises:
            Unavailable: There is no memory for it.
        """
        ...

    def forward(self, ids: Ints, cache: C, *, last: bool = False) -> tuple[Array, C]:
        """One run.

        Args:
            ids: [rows, fresh]: what follows the cache; one row, or one fresh id each.
            cache: What was before, for the same rows; the one that comes back replaces it.
            last: Whether logits of the last position are enough.

        Returns:
            Logits, [rows, positions, vocabulary], valid until the next run, with the last position
            at the end; and the cache with the fresh tokens.

        Raises:
            Unavailable: ONNX Runtime failed (out of memory, say); `cache` is as before.
        """
        ...


def vocab(decoder: Decoder[Any]) -> int:
    """Logits per position, found by running the graph once."""
    logits, _ = decoder.forward(np.zeros((1, 1), dtype=np.int64), decoder.begun())
    return int(logits.shape[2])


def load(graph: Path, *, threads: int, context: int) -> Decoder[Any]:
    """The fastest decoder that a graph allows.

    Args:
        graph: The ONNX file; its external data lies beside it.
        threads: For one run, on the CPU; 0: one for each core.
        context: Most tokens that a row will have.

    Raises:
        ConfigError: Not a graph that ONNX Runtime can run, or not an exported decoder.
    """
    from node.adapters.onnx import huge_pages
    from node.adapters.onnx.inplace import InPlaceDecoder
    from node.adapters.onnx.past import PastDecoder
    from node.adapters.onnx.rewrite import rewritten

    found = rewritten(graph, context=context)
    if found is not None:
        # A runtime that lacks an operator, or the kernel for these sizes, runs what was exported.
        with suppress(ConfigError, Unavailable):
            decoder = InPlaceDecoder(graph, found, threads=threads)
            vocab(decoder)
            huge_pages.collapse()
            return decoder
    exported = PastDecoder(graph, threads=threads)
    huge_pages.collapse()
    return exported
