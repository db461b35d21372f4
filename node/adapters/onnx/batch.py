"""Rows that are computed together, one fresh token each per step."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from node.adapters.onnx.decoder import Array, Cache, Decoder

Row = TypeVar("Row")


class Batch(Generic[Row]):
    """Some rows with one cache."""

    def __init__(self, decoder: Decoder[Any]) -> None:
        self._decoder = decoder
        self._cache: Cache | None = None
        self.rows: list[Row] = []
        """Whoever each row belongs to, in the order of the cache."""

    def fits(self, length: int) -> bool:
        """Whether a row of this length may join."""
        if self._cache is None:
            return True
        longest = max(self._cache.length, length)
        return longest - min(self._cache.shortest, length) <= self._decoder.spread_max

    def join(self, row: Row, cache: Cache) -> None:
        """Add a row with what it has computed so far; the cache is the batch's from now on."""
        self._cache = cache if self._cache is None else self._cache.joined(cache)
        self.rows.append(row)

    def leave(self, rows: Sequence[Row]) -> None:
        """Drop rows with what they have computed."""
        gone = set(map(id, rows))
        kept = [at for at, row in enumerate(self.rows) if id(row) not in gone]
        if self._cache is None or len(kept) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in kept]
        self._cache = self._cache.taken(kept) if kept else None

    def take(self, row: Row) -> Cache:
        """Remove one row and return its cache."""
        assert self._cache is not None
        at = next(at for at, other in enumerate(self.rows) if other is row)
        cache = self._cache.taken([at])
        self.leave([row])
        return cache

    def step(self, ids: Sequence[int]) -> Array:
        """Logits [rows, vocabulary] after one fresh id for each row.

        Raises:
            Unavailable: The engine failed; the batch is as before.
        """
        fresh = np.array(ids, dtype=np.int64)[:, None]
        logits, self._cache = self._decoder.forward(fresh, self._cache, last=True)
        return logits[:, -1]
