"""One decoder in ONNX Runtime: ids and cache in, logits and longer cache out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.adapters.onnx.layout import Layout, detect
from node.errors import ConfigError, Unavailable

Ints = NDArray[np.int64]
Array = NDArray[Any]

GPU: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"


class Cache:
    """Keys and values of some rows of equal length, kept where the decoder computes."""

    def __init__(self, values: Sequence[Any], *, rows: int, length: int) -> None:
        """
        Args:
            values: In the order of the layout's parts; arrays on the CPU, else OrtValues.
            rows: Sequences.
            length: Columns, padding among them.
        """
        self.values = tuple(values)
        self.rows = rows
        self.length = length

    def arrays(self) -> tuple[Array, ...]:
        """In host memory, [rows, heads, length, width] each; not to be changed."""
        return tuple(
            value if isinstance(value, np.ndarray) else value.numpy() for value in self.values
        )


class Decoder:
    """A loaded graph.  Not thread-safe: its owner calls it from one thread at a time."""

    def __init__(self, graph: Path, *, threads: int) -> None:
        """
        Args:
            graph: The ONNX file; its external data lies beside it.
            threads: For the computation of one step, on the CPU.

        Raises:
            ConfigError: Not a graph that ONNX Runtime can run, or not an exported decoder.
        """
        import onnxruntime

        self._runtime = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would take a core from the node's own loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = [GPU, CPU] if GPU in onnxruntime.get_available_providers() else [CPU]
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=wanted)
        except Exception as error:  # its exceptions share no base of their own
            raise ConfigError(f"{graph}: {_brief(error)}") from error
        self.layout: Layout = detect(self._session.get_inputs(), self._session.get_outputs())
        self.device = "cuda" if GPU in self._session.get_providers() else "cpu"
        self._outputs = ["logits", *(part.present for part in self.layout.parts)]

    def empty(self) -> Cache:
        """The cache of one sequence that has nothing yet."""
        return self.cache([self._blank(part.heads, part.width) for part in self.layout.parts])

    def vocab(self) -> int:
        """Logits per position, found by running the graph once."""
        zero = np.zeros((1, 1), dtype=np.int64)
        logits, _ = self.forward(zero, self.empty(), pads=zero[0])
        return int(logits.shape[2])

    def cache(self, arrays: Sequence[Array]) -> Cache:
        """A cache from arrays in the order of the layout's parts."""
        values: list[Any] = [np.ascontiguousarray(array) for array in arrays]
        if self.device != "cpu":
            make = self._runtime.OrtValue.ortvalue_from_numpy
            values = [make(array, self.device, 0) for array in values]
        rows, _, length, _ = arrays[0].shape
        return Cache(values, rows=rows, length=length)

    def forward(self, ids: Ints, cache: Cache, *, pads: Ints) -> tuple[Array, Cache]:
        """One run.

        Args:
            ids: [rows, fresh]: what follows the cache.
            cache: What was before, for the same rows.
            pads: [rows]: columns at the start of each row that hold nothing.

        Returns:
            Logits, [rows, fresh, vocabulary], and the cache with the fresh columns.

        Raises:
            Unavailable: ONNX Runtime failed (out of memory, say).
        """
        feeds = self._feeds(ids, cache, pads)
        try:
            compute = self._on_host if self.device == "cpu" else self._on_device
            logits, *values = compute(feeds, cache)
        except Exception as error:  # its exceptions share no base of their own
            raise Unavailable(f"the engine failed: {_brief(error)}") from error
        return logits, Cache(values, rows=cache.rows, length=cache.length + ids.shape[1])

    def _on_host(self, feeds: dict[str, Array], cache: Cache) -> list[Array]:
        # Arrays go in and out without a copy, in a third less time than through a binding, which
        # has to be filled again for every step: the cache is another one each time.
        for part, value in zip(self.layout.parts, cache.values, strict=True):
            feeds[part.past] = value
        outputs: list[Array] = self._session.run(self._outputs, feeds)
        return outputs

    def _on_device(self, feeds: dict[str, Array], cache: Cache) -> list[Any]:
        """As `_on_host`; the cache stays in the device's memory."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for part, value in zip(self.layout.parts, cache.values, strict=True):
            binding.bind_ortvalue_input(part.past, value)
        binding.bind_output("logits", "cpu")
        for part in self.layout.parts:
            binding.bind_output(part.present, self.device)
        self._session.run_with_iobinding(binding)
        logits, *values = binding.get_outputs()
        return [logits.numpy(), *values]

    def _feeds(self, ids: Ints, cache: Cache, pads: Ints) -> dict[str, Array]:
        layout, (rows, fresh) = self.layout, ids.shape
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

    def _blank(self, heads: int, width: int) -> Array:
        return np.zeros((1, heads, 0, width), dtype=self.layout.cache)


def _brief(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
