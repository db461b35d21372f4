"""Rows that are computed together, one fresh token each per step.

Rows of different lengths are aligned at their ends: what a shorter one lacks at its start is
padding, which the attention mask hides.  While the same rows go on, the cache is not copied.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.adapters.onnx.decoder import Cache, Decoder

Row = TypeVar("Row")

SPREAD_MAX: Final = 512
"""Columns that the shortest row may lack: more padding would cost more than a batch of its own."""


class Batch(Generic[Row]):
    """Some rows with one cache."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._cache: Cache | None = None
        self._pads = np.zeros(0, dtype=np.int64)
        self.rows: list[Row] = []
        """Whoever each row belongs to, in the order of the cache."""

    def fits(self, length: int) -> bool:
        """Whether a row of this length may join."""
        if self._cache is None:
            return True
        spread = SPREAD_MAX if self._decoder.layout.pads else 0
        longest = max(self._cache.length, length)
        shortest = min(self._cache.length - int(self._pads.max()), length)
        return longest - shortest <= spread

    def join(self, row: Row, cache: Cache) -> None:
        """Add a row with what it has computed so far."""
        if self._cache is None:
            self._cache, self._pads = cache, np.zeros(1, dtype=np.int64)
        else:
            self._cache, self._pads = self._merged(self._cache, cache)
        self.rows.append(row)

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows with what they have computed."""
        gone = set(map(id, rows))
        kept = [at for at, row in enumerate(self.rows) if id(row) not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in kept]
        self._cache, self._pads = self._taken(kept) if kept else (None, self._pads[:0])

    def take(self, row: Row) -> Cache:
        """Remove one row and return its cache, without padding."""
        at = next(at for at, other in enumerate(self.rows) if other is row)
        cache, _ = self._taken([at])
        self.leave([row])
        return cache

    def step(self, ids: Sequence[int]) -> NDArray[Any]:
        """Logits [rows, vocabulary] after one fresh id for each row.

        Raises:
            Unavailable: The engine failed; the batch is as before.
        """
        assert self._cache is not None
        fresh = np.array(ids, dtype=np.int64)[:, None]
        logits, self._cache = self._decoder.forward(fresh, self._cache, pads=self._pads)
        return logits[:, -1]

    def _merged(self, ours: Cache, new: Cache) -> tuple[Cache, NDArray[np.int64]]:
        length = max(ours.length, new.length)
        parts = [
            np.concatenate((_padded(old, length), _padded(fresh, length)))
            for old, fresh in zip(ours.arrays(), new.arrays(), strict=True)
        ]
        pads = np.append(self._pads + (length - ours.length), length - new.length)
        return self._decoder.cache(parts), pads

    def _taken(self, kept: list[int]) -> tuple[Cache, NDArray[np.int64]]:
        """Some rows, without the padding that all of them share."""
        assert self._cache is not None
        pads = self._pads[kept]
        shared = int(pads.min())
        arrays = [array[kept][:, :, shared:] for array in self._cache.arrays()]
        return self._decoder.cache(arrays), pads - shared


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    lacking = length - array.shape[2]
    return np.pad(array, ((0, 0), (0, 0), (lacking, 0), (0, 0))) if lacking else array
