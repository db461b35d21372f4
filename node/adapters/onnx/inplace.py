"""A decoder whose cache stays where it is: each run writes its fresh columns into it.

`rewrite` makes the graph.  Inputs and outputs of a step are bound once and stay the same for as
long as the same rows go on and their columns suffice, so that a step costs a few writes into
arrays and the run itself.  Rows need no padding: each has a length of its own, and nobody looks at
the columns behind its end.
"""

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from node.adapters.onnx import rewrite
from node.adapters.onnx.decoder import Array, Block, Ints
from node.adapters.onnx.rewrite import Rewritten
from node.adapters.onnx.session import Sessions, brief
from node.errors import Unavailable
from node.protocol.prefixes import BLOCK_TOKENS

SPREAD_MAX: Final = 512
"""Columns that the shortest row may leave empty: more would cost more than a batch of its own."""
GRAIN: Final = 64
"""Columns come in so many at a time: a copy of the cache once in 64 steps, against memory."""


class InPlaceCache:
    """Keys and values of each layer, [rows, heads, columns, width]."""

    def __init__(self, arrays: Sequence[Array], lengths: Array) -> None:
        """
        Args:
            arrays: In the order of the layout's parts; columns beyond a row's length hold anything.
            lengths: [rows]: tokens of each.
        """
        self.arrays = tuple(arrays)
        self.lengths = lengths.astype(np.int32)  # as the graph takes them
        self.length = int(lengths.max())
        """Tokens of the longest row."""
        self.step: _Binding | None = None
        """For one fresh token in each row."""

    @property
    def shortest(self) -> int:
        """Tokens of the shortest row."""
        return int(self.lengths.min())

    @property
    def columns(self) -> int:
        """Room, in tokens."""
        return int(self.arrays[0].shape[2])

    def joined(self, other: "InPlaceCache") -> "InPlaceCache":
        """These rows and then the other's."""
        return _copied([*self._rows(), *other._rows()])

    def taken(self, rows: Sequence[int]) -> "InPlaceCache":
        """Some of the rows."""
        return _copied([(self, row) for row in rows])

    def grown(self, columns: int) -> "InPlaceCache":
        """The same rows with room for so many tokens."""
        return _copied(self._rows(), columns=columns)

    def _rows(self) -> list["_Row"]:
        return [(self, row) for row in range(len(self.lengths))]

    def cut(self, start: int, stop: int) -> tuple[Block, ...]:
        """Copies of the only row's tokens, by block."""
        starts = range(start, stop, BLOCK_TOKENS)
        return tuple(
            tuple(array[:, :, at : at + BLOCK_TOKENS].copy() for array in self.arrays)
            for at in starts
        )


_Row = tuple[InPlaceCache, int]


def _copied(rows: Sequence[_Row], *, columns: int = 0) -> InPlaceCache:
    """Rows of some caches in one, with room for so many tokens, and at least for what they have."""
    lengths = np.array([cache.lengths[row] for cache, row in rows])
    columns = max(columns, int(lengths.max()))
    shapes = [(array.shape[1], array.shape[3]) for array in rows[0][0].arrays]
    arrays = _blank(shapes, rows=len(rows), columns=columns)
    for at, (cache, row) in enumerate(rows):
        count = lengths[at]
        for new, old in zip(arrays, cache.arrays, strict=True):
            new[at, :, :count] = old[row, :, :count]
    return InPlaceCache(arrays, lengths)


def _blank(shapes: Iterable[tuple[int, int]], *, rows: int, columns: int) -> list[Array]:
    """Arrays of so many heads and such a width, in one piece of memory.

    NumPy asks for huge pages where a piece has 4 MB: the first writing is ten times as fast then.
    """
    columns = _whole_grains(columns)
    full = [(rows, heads, columns, width) for heads, width in shapes]
    ends = np.cumsum([prod(shape) for shape in full])
    pieces = np.split(np.zeros(ends[-1], dtype=np.float32), ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, full, strict=True)]


class InPlaceDecoder:
    """Implements `decoder.Decoder`, on the CPU."""

    slices: Final = True
    spread_max: Final = SPREAD_MAX

    def __init__(self, graph: Path, found: Rewritten, *, threads: int) -> None:
        """
        Args:
            graph: The ONNX file as it was exported; its external data lies beside it.
            found: The same, rewritten.
            threads: For the computation of one step.

        Raises:
            ConfigError: Not a graph that ONNX Runtime can run.
        """
        self.sessions = Sessions(graph, threads=threads, rewritten=found.model)
        self.found = found

    @property
    def arrays(self) -> int:
        """In a block."""
        return len(self.found.layout.parts)

    @property
    def token_bytes(self) -> int:
        """What the cache takes for one token."""
        return self.found.layout.token_bytes

    def begun(self, blocks: Sequence[Block] = (), *, room: int = 0) -> InPlaceCache:
        """The cache of one sequence."""
        length = len(blocks) * BLOCK_TOKENS
        shapes = [(part.heads, part.width) for part in self.found.layout.parts]
        try:
            arrays = _blank(shapes, rows=1, columns=length + room)
        except MemoryError as error:
            raise Unavailable("the engine has no memory for the prompt") from error
        for array, every in zip(arrays, zip(*blocks, strict=True), strict=bool(blocks)):
            np.concatenate(every, axis=2, out=array[:, :, :length])
        return InPlaceCache(arrays, np.array([length]))

    def forward(
        self, ids: Ints, cache: InPlaceCache, *, last: bool = False
    ) -> tuple[Array, InPlaceCache]:
        """One run; see `decoder.Decoder`."""
        fresh = ids.shape[1]
        if cache.length + fresh > cache.columns:
            cache = cache.grown(cache.length + fresh)
        if fresh == 1:
            binding = cache.step or _Binding(self, cache, fresh=1, last=True)
            cache.step = binding
        else:
            binding = _Binding(self, cache, fresh=fresh, last=last)
        try:
            logits = binding.run(ids, cache.length + fresh)
        except Exception as error:  # its exceptions share no base of their own
            raise Unavailable(f"the engine failed: {brief(error)}") from error
        cache.lengths += fresh
        cache.length += fresh
        return logits, cache


class _Binding:
    """Inputs and outputs of runs of one shape over one cache."""

    def __init__(
        self, decoder: InPlaceDecoder, cache: InPlaceCache, *, fresh: int, last: bool
    ) -> None:
        import onnxruntime

        found, rows = decoder.found, len(cache.lengths)
        self._session, self._lengths = decoder.sessions.of(rows * fresh), cache.lengths
        self._fresh = fresh
        self._binding = self._session.io_binding()
        self._shared = onnxruntime.OrtValue.ortvalue_from_numpy
        self._kept: list[Array] = []
        """Whatever is bound: ONNX Runtime reads and writes the arrays' memory, and owns none."""
        self._ids = self._input("input_ids", np.zeros((rows, fresh), dtype=found.layout.ids))
        # One fresh token goes behind the row's end: where that is, the lengths say by themselves.
        self._ends = self._input(
            rewrite.ENDS, cache.lengths if fresh == 1 else np.zeros(rows, dtype=np.int32)
        )
        self._total = self._input(rewrite.TOTAL, np.zeros((), dtype=np.int32))
        self._positions: Array | None = None
        if found.positions:
            blank = np.zeros((rows, fresh), dtype=found.layout.positions)
            self._positions = self._input("position_ids", blank)
        self._input(rewrite.LOGITS_FROM, np.array([fresh - 1 if last else 0], dtype=np.int64))
        for part, array in zip(found.layout.parts, cache.arrays, strict=True):
            self._input(part.past, array)
            self._output(part.present, array)
        shape = (rows, 1 if last else fresh, found.vocab)
        self._logits = self._output("logits", np.zeros(shape, dtype=np.float32))

    def run(self, ids: Ints, total: int) -> Array:
        """Logits; they are overwritten by the next run.  `total`: the longest row's length then."""
        self._ids[:] = ids
        if self._fresh > 1:
            self._ends[:] = self._lengths + (self._fresh - 1)
        self._total[...] = total
        if self._positions is not None:
            self._positions[:] = self._lengths[:, None] + np.arange(self._fresh)
        self._session.run_with_iobinding(self._binding)
        return self._logits

    def _input(self, name: str, array: Array) -> Array:
        self._kept.append(array)
        self._binding.bind_ortvalue_input(name, self._shared(array))
        return array

    def _output(self, name: str, array: Array) -> Array:
        self._kept.append(array)
        self._binding.bind_ortvalue_output(name, self._shared(array))
        return array


def _whole_grains(columns: int) -> int:
    return -(-columns // GRAIN) * GRAIN
