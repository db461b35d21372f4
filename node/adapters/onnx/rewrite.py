"""An exported decoder's graph, rewritten so that its cache is written in place.

Exporters give `present.N` as past and fresh columns together, which is a copy of the whole cache
in every step, and ONNX Runtime's `Attention` turns all keys around again besides.  Here each
`Attention` becomes ONNX Runtime's `GroupQueryAttention`: it writes fresh keys and values into the
cache, whose output is bound to the memory of its input, and looks at each row's own columns only.
It turns queries and keys by their positions as well, where the graph does it as usual, and takes
them from one product with values, where they are three products of one thing.

Weights, norms and everything else stay as they are, float32 stays float32, and the weights are not
read: the rewritten graph names the same external data.  Whatever is not exactly understood leaves
the graph alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.adapters.onnx import causal
from node.adapters.onnx.layout import Layout, detect
from node.adapters.onnx.session import on_gpu
from node.errors import ConfigError

ENDS: Final = "gpunode.ends"
"""[rows], int32: the column that each row's last fresh token goes to."""
TOTAL: Final = "gpunode.total"
"""Scalar, int32: columns that the longest row has then."""
LOGITS_FROM: Final = "gpunode.logits_from"
"""[1], int64: the first of the fresh positions whose logits are wanted."""
RUNTIMES: Final = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
WIDTHS: Final = 16
"""A head is a multiple of it wide, for `GroupQueryAttention` to turn it."""
PLAIN: Final = frozenset({"q_num_heads", "kv_num_heads", "scale", "is_causal", "softcap"})
"""Attributes of `Attention` that are understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A graph that writes in place, and how to call it."""

    model: bytes
    layout: Layout
    """Of the graph as it was exported; the names of the cache are still these."""
    positions: bool
    """Whether it still wants `position_ids`."""
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heads:
    """One `Attention`, as far as it matters."""

    node: Any
    queries: int
    keys: int
    scale: float


class _Unknown(Exception):
    """The graph has something that is not understood; the text says what, for a debugger."""


def rewritten(graph: Path, *, context: int) -> Rewritten | None:
    """A graph that does the same in place; None if this one is to be run as it is.

    Args:
        graph: The ONNX file.
        context: Most tokens that a row will have.

    Raises:
        ConfigError: Not an ONNX file, or not an exported decoder.
    """
    import onnx

    if on_gpu():
        return None  # not measured there, and its own kernels differ
    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # protobuf's and the file system's share no base
        raise ConfigError(f"{graph}: {error}") from error
    try:
        return _Rewriting(model).done(context)
    except (_Unknown, causal.NotCausal):
        return None


class _Rewriting:
    """The rewriting of one model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._graph = model.graph
        self._layout = _layout(model.graph)
        self._made_by = {name: node for node in self._graph.node for name in node.output}
        self._instead: dict[str, list[Any]] = {}
        """Nodes in place of the one with this first output."""

    def done(self, context: int) -> Rewritten:
        attentions = [node for node in self._graph.node if node.op_type == "Attention"]
        every = [_heads(node, self._layout) for node in attentions]
        if 2 * len(every) != len(self._layout.parts):
            raise _Unknown("layers without an Attention of their own")
        for mask in {heads.node.input[3] for heads in every}:
            causal.check(self._model, mask, context=context)
        for heads in every:
            self._instead[heads.node.output[0]] = self._in_place(heads)
        vocab = self._sliced_logits()
        needed = self._replace()
        self._inputs(needed)
        self._constants()
        _set(
            self._model.opset_import,
            [each for each in self._model.opset_import if each.domain != RUNTIMES],
        )
        self._model.opset_import.add(domain=RUNTIMES, version=1)
        return Rewritten(
            model=self._model.SerializeToString(),
            layout=self._layout,
            positions="position_ids" in needed,
            vocab=vocab,
        )

    def _in_place(self, heads: _Heads) -> list[Any]:
        """What does the same as one `Attention`, with the cache written in place."""
        query, key, value, _, past_key, past_value = heads.node.input
        made, tables = list[Any](), list[str]()
        queries, keys = self._turned(query, heads.queries), self._turned(key, heads.keys)
        if queries is not None and keys is not None and queries[1] == keys[1]:
            (query, tables), (key, _) = queries, keys
        weights = self._factors(query, key, value)
        if weights:
            at = f"{heads.node.output[0]}.gpunode."
            made = [
                _node("Concat", weights, at + "weights", axis=-1),
                _node("MatMul", [self._made_by[query].input[0], at + "weights"], at + "product"),
            ]
            query, key, value = at + "product", "", ""
        inputs = [query, key, value, past_key, past_value, ENDS, TOTAL, *tables]
        attention = _node(
            "GroupQueryAttention",
            inputs,
            *heads.node.output,
            domain=RUNTIMES,
            num_heads=heads.queries,
            kv_num_heads=heads.keys,
            scale=heads.scale,
            do_rotary=int(bool(tables)),
        )
        return [*made, attention]

    def _turned(self, name: str, heads: int) -> tuple[str, list[str]] | None:
        """Where a plain `RotaryEmbedding` by the caller's positions has it from, and its tables."""
        from onnx import helper

        node = self._made_by.get(name)
        if node is None or node.op_type != "RotaryEmbedding" or len(node.input) != 4:
            return None
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        source, *tables, positions = node.input
        if positions != "position_ids" or given != {"num_heads": heads}:
            return None
        return source, tables

    def _factors(self, *names: str) -> list[str]:
        """What one and the same thing is multiplied by to make each of these; empty if not so."""
        nodes = [self._made_by.get(name) for name in names]
        if any(node is None or node.op_type != "MatMul" for node in nodes):
            return []
        shared = {node.input[0] for node in nodes if node is not None}
        return [node.input[1] for node in nodes if node is not None] if len(shared) == 1 else []

    def _sliced_logits(self) -> int:
        """Logits of the wanted positions only: the others are not computed."""
        last = self._made_by["logits"]
        while last.op_type == "Identity":
            last = self._made_by[last.input[0]]
        shape = next(out for out in self._graph.output if out.name == "logits").type.tensor_type
        if last.op_type != "MatMul" or len(shape.shape.dim) != 3:
            raise _Unknown("logits that are no product")
        hidden, weights = last.input
        sliced = _node("Slice", [hidden, LOGITS_FROM, "gpunode.end", "gpunode.one"], "gpunode.last")
        product = _node("MatMul", ["gpunode.last", weights], last.output[0])
        self._instead[last.output[0]] = [sliced, product]
        if not (vocab := shape.shape.dim[2].dim_value):
            raise _Unknown("a vocabulary of unknown size")
        return int(vocab)

    def _replace(self) -> set[str]:
        """Put the new nodes in, and leave out what nobody needs any more; returns what is read."""
        nodes = [new for old in self._graph.node for new in self._instead.get(old.output[0], [old])]
        needed, kept = {output.name for output in self._graph.output}, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(_copy(node))
        if "attention_mask" in needed:
            raise _Unknown("positions that depend on the mask")
        pasts = {part.past for part in self._layout.parts}
        reads = [name for node in kept for name in node.input if name in pasts]
        if len(reads) != len(pasts):
            raise _Unknown("a cache that is read elsewhere too")
        _set(self._graph.node, reversed(kept))
        del self._graph.value_info[:]
        return needed

    def _inputs(self, needed: set[str]) -> None:
        from onnx import TensorProto, helper

        parts = {name: part for part in self._layout.parts for name in (part.past, part.present)}

        def described(info: Any) -> Any:
            if info.name not in parts:
                return _copy(info)
            part = parts[info.name]
            shape: list[Any] = ["rows", part.heads, "columns", part.width]
            return helper.make_tensor_value_info(info.name, TensorProto.FLOAT, shape)

        kept = [described(info) for info in self._graph.input if info.name in needed]
        added = [
            helper.make_tensor_value_info(ENDS, TensorProto.INT32, ["rows"]),
            helper.make_tensor_value_info(TOTAL, TensorProto.INT32, []),
            helper.make_tensor_value_info(LOGITS_FROM, TensorProto.INT64, [1]),
        ]
        outputs = [described(info) for info in self._graph.output]
        _set(self._graph.input, [*kept, *added])
        _set(self._graph.output, outputs)

    def _constants(self) -> None:
        from onnx import numpy_helper

        arrays = {
            "gpunode.one": np.array([1], dtype=np.int64),
            "gpunode.end": np.array([np.iinfo(np.int64).max], dtype=np.int64),
        }
        made = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        self._graph.initializer.extend(made)


def _layout(graph: Any) -> Layout:
    inner = {tensor.name for tensor in graph.initializer}
    inputs = [_Typed(info) for info in graph.input if info.name not in inner]
    layout = detect(inputs, [_Typed(info) for info in graph.output])
    if layout.cache is not np.float32 or not layout.pads:
        raise _Unknown("a cache that is not float32, or positions that can't be given")
    return layout


class _Typed:
    """An input or output as a session would describe it."""

    NAMES: Final = {
        1: "tensor(float)",
        6: "tensor(int32)",
        7: "tensor(int64)",
        10: "tensor(float16)",
    }

    def __init__(self, info: Any) -> None:
        tensor = info.type.tensor_type
        self.name: str = info.name
        self.type = self.NAMES.get(tensor.elem_type, f"element type {tensor.elem_type}")
        self.shape = [
            d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim
        ]


def _heads(node: Any, layout: Layout) -> _Heads:
    from onnx import helper

    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    inputs, outputs = list(node.input), list(node.output)
    if given.keys() - PLAIN or given.get("is_causal") or given.get("softcap"):
        raise _Unknown("attention with more to it")
    if len(inputs) != 6 or not all(inputs) or len(outputs) != 3 or not all(outputs):
        raise _Unknown("attention without a mask, or without a cache")
    parts = {part.past: (at, part) for at, part in enumerate(layout.parts)}
    (at, keys), (other, values) = (parts.get(name, (-1, None)) for name in inputs[4:6])
    if keys is None or values is None or at % 2 or other != at + 1:
        raise _Unknown("attention over something else than one layer's cache")
    if outputs[1:] != [keys.present, values.present]:
        raise _Unknown("a cache that is changed before it goes out")
    # With these attributes queries, keys and values are [rows, positions, heads × width].
    queries, heads = given.get("q_num_heads", 0), given.get("kv_num_heads", 0)
    if heads != keys.heads or heads != values.heads or not queries or queries % heads:
        raise _Unknown("heads that don't match the cache")
    if keys.width != values.width or keys.width % WIDTHS:
        raise _Unknown("heads of a width that GroupQueryAttention does not take")
    return _Heads(
        node=node,
        queries=queries,
        keys=heads,
        scale=float(given.get("scale", keys.width**-0.5)),
    )


def _node(kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, **attributes)


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def _set(field: Any, messages: Iterable[Any]) -> None:
    made = list(messages)
    del field[:]
    field.extend(made)
