"""A decoder as exporters write it: the whole cache goes in, and the whole longer one comes out.

Rows of different lengths are aligned at their ends: what a shorter one lacks at its start is
padding, which the attention mask hides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.adapters.onnx.decoder import Array, Block, Ints
from node.adapters.onnx.layout import Layout, detect
from node.adapters.onnx.session import GPU, Sessions, brief
from node.errors import Unavailable
from node.protocol.prefixes import BLOCK_TOKENS

SPREAD_MAX: Final = 512
"""Columns that the shortest row may lack: more padding would cost more than a batch of its own."""


class PastCache:
    """Keys and values of some rows of equal length, kept where the decoder computes."""

    def __init__(self, values: Sequence[Any], pads: Ints, *, length: int, device: str) -> None:
        """
        Args:
            values: In the order of the layout's parts; arrays on the CPU, else OrtValues.
            pads: [rows]: columns at the start of each row that hold nothing.
            length: Columns, padding among them.
            device: "cpu" or "cuda".
        """
        self.values = tuple(values)
        self.pads = pads
        self.length = length
        self._device = device

    @classmethod
    def of(cls, arrays: Sequence[Array], pads: Ints, *, device: str) -> "PastCache":
        """A cache from arrays of [rows, heads, length, width]."""
        values: list[Any] = [np.ascontiguousarray(array) for array in arrays]
        if device != "cpu":
            import onnxruntime

            make = onnxruntime.OrtValue.ortvalue_from_numpy
            values = [make(array, device, 0) for array in values]
        return cls(values, pads, length=arrays[0].shape[2], device=device)

    @property
    def shortest(self) -> int:
        """Tokens of the shortest row."""
        return self.length - int(self.pads.max())

    def arrays(self) -> tuple[Array, ...]:
        """In host memory, [rows, heads, length, width] each; not to be changed."""
        return tuple(
            value if isinstance(value, np.ndarray) else value.numpy() for value in self.values
        )

    def joined(self, other: "PastCache") -> "PastCache":
        """These rows and then the other's."""
        length = max(self.length, other.length)
        parts = [
            np.concatenate((_padded(ours, length), _padded(theirs, length)))
            for ours, theirs in zip(self.arrays(), other.arrays(), strict=True)
        ]
        pads = (self.pads + (length - self.length), other.pads + (length - other.length))
        return PastCache.of(parts, np.concatenate(pads), device=self._device)

    def taken(self, rows: Sequence[int]) -> "PastCache":
        """Some of the rows, without the padding that all of them share."""
        pads = self.pads[list(rows)]
        shared = int(pads.min())
        arrays = [array[list(rows)][:, :, shared:] for array in self.arrays()]
        return PastCache.of(arrays, pads - shared, device=self._device)

    def cut(self, start: int, stop: int) -> tuple[Block, ...]:
        """Copies of the only row's tokens, by block."""
        arrays, starts = self.arrays(), range(start, stop, BLOCK_TOKENS)
        return tuple(
            tuple(array[:, :, at : at + BLOCK_TOKENS].copy() for array in arrays) for at in starts
        )


class PastDecoder:
    """Implements `decoder.Decoder`."""

    slices: Final = False

    def __init__(self, graph: Path, *, threads: int) -> None:
        """
        Args:
            graph: The ONNX file; its external data lies beside it.
            threads: For one run, on the CPU; 0: one for each core.

        Raises:
            ConfigError: Not a graph that ONNX Runtime can run, or not an exported decoder.
        """
        self._sessions = Sessions(graph, threads=threads)
        session = self._sessions.long
        self.layout: Layout = detect(session.get_inputs(), session.get_outputs())
        self.device = "cuda" if GPU in session.get_providers() else "cpu"
        heads = min(part.heads for part in self.layout.parts)
        if self.device == "cpu" and self._sessions.threads > heads:
            # Threads that share one head's product cut it in another way, by the rows of the run:
            # the same prompt in other chunks would give other bits.
            del session
            self._sessions = Sessions(graph, threads=heads)
        self._outputs = ["logits", *(part.present for part in self.layout.parts)]

    @property
    def spread_max(self) -> int:
        """Tokens that the shortest row of a batch may lack."""
        return SPREAD_MAX if self.layout.pads else 0

    @property
    def arrays(self) -> int:
        """In a block."""
        return len(self.layout.parts)

    @property
    def token_bytes(self) -> int:
        """What the cache takes for one token."""
        return self.layout.token_bytes

    def begun(self, blocks: Sequence[Block] = (), *, room: int = 0) -> PastCache:
        """The cache of one sequence; every run makes it anew, so that no room is of use."""
        del room
        arrays = [
            np.zeros((1, part.heads, 0, part.width), dtype=self.layout.cache)
            for part in self.layout.parts
        ]
        try:
            if blocks:
                arrays = [np.concatenate(every, axis=2) for every in zip(*blocks, strict=True)]
            return PastCache.of(arrays, np.zeros(1, dtype=np.int64), device=self.device)
        except Exception as error:  # NumPy's, or ONNX Runtime's for a device
            raise Unavailable(f"the engine has no memory for the prompt: {brief(error)}") from error

    def forward(
        self, ids: Ints, cache: PastCache, *, last: bool = False
    ) -> tuple[Array, PastCache]:
        """One run; see `decoder.Decoder`.  The graph gives logits at all positions in any case."""
        del last
        feeds = self._feeds(ids, cache)
        try:
            compute = self._on_host if self.device == "cpu" else self._on_device
            logits, *values = compute(feeds, cache)
        except Exception as error:  # its exceptions share no base of their own
            raise Unavailable(f"the engine failed: {brief(error)}") from error
        length = cache.length + ids.shape[1]
        return logits, PastCache(values, cache.pads, length=length, device=self.device)

    def _on_host(self, feeds: dict[str, Array], cache: PastCache) -> list[Array]:
        # Arrays go in and out without a copy, in a third less time than through a binding, which
        # has to be filled again for every step: the cache is another one each time.
        for part, value in zip(self.layout.parts, cache.values, strict=True):
            feeds[part.past] = value
        session = self._sessions.of(feeds["input_ids"].size)
        outputs: list[Array] = session.run(self._outputs, feeds)
        return outputs

    def _on_device(self, feeds: dict[str, Array], cache: PastCache) -> list[Any]:
        """As `_on_host`; the cache stays in the device's memory."""
        session = self._sessions.long
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for part, value in zip(self.layout.parts, cache.values, strict=True):
            binding.bind_ortvalue_input(part.past, value)
        binding.bind_output("logits", "cpu")
        for part in self.layout.parts:
            binding.bind_output(part.present, self.device)
        session.run_with_iobinding(binding)
        logits, *values = binding.get_outputs()
        return [logits.numpy(), *values]

    def _feeds(self, ids: Ints, cache: PastCache) -> dict[str, Array]:
        layout, pads, (rows, fresh) = self.layout, cache.pads, ids.shape
        total = cache.length + fresh
        feeds: dict[str, Array] = {"input_ids": ids.astype(layout.ids, copy=False)}
        if not pads.any():  # one job alone, mostly: every microsecond of a step is its own
            feeds["attention_mask"] = np.ones((rows, total), layout.mask)
            columns = np.arange(cache.length, total, dtype=layout.positions or np.int64)[None]
            positions = columns if rows == 1 else np.repeat(columns, rows, axis=0)
        else:
            places = np.arange(total)[None]
            feeds["attention_mask"] = (places >= pads[:, None]).astype(layout.mask)
            positions = places[:, cache.length :] - pads[:, None]
        if layout.positions is not None:
            feeds["position_ids"] = positions.astype(layout.positions, copy=False)
        return feeds


def _padded(array: Array, length: int) -> Array:
    lacking = length - array.shape[2]
    return np.pad(array, ((0, 0), (0, 0), (lacking, 0), (0, 0))) if lacking else array
