"""An exported decoder's graph, rewritten so that its cache is written in place.

Exporters give `present.N` as past and fresh columns together, which is a copy of the whole cache
in every step, and ONNX Runtime's `Attention` turns all keys around again besides.  Here each
`Attention` becomes: fresh keys and values scattered into the cache (`TensorScatter`, whose output
is bound to the memory of its input), one product over all columns, and a bias that the caller gives
in place of the mask.  Keys are kept turned, [rows, heads, width, columns].

Weights, norms, positions and everything else stay as they are, float32 stays float32, and the
weights are not read: the rewritten graph names the same external data.  Whatever is not exactly
understood leaves the graph alone.
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

STARTS: Final = "gpunode.starts"
"""[rows], int64: the column that each row's first fresh token goes to."""
BIAS: Final = "gpunode.bias"
"""[rows, 1, positions × group, columns] or [rows, 1, 1, columns], float32: added to all scores."""
LOGITS_FROM: Final = "gpunode.logits_from"
"""[1], int64: the first of the fresh positions whose logits are wanted."""
OPSET: Final = 24
"""The first with `TensorScatter`; `Attention` came with 23."""
PLAIN: Final = frozenset({"q_num_heads", "kv_num_heads", "scale", "is_causal", "softcap"})
"""Attributes of `Attention` that are understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A graph that writes in place, and how to call it."""

    model: bytes
    layout: Layout
    """Of the graph as it was exported; the names of the cache are still these."""
    group: int
    """Heads of queries for each head of keys: their rows of the bias follow each other."""
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heads:
    """One `Attention`, as far as it matters."""

    node: Any
    queries: int
    keys: int
    width: int
    value_width: int
    scale: float


class _Unknown(Exception):
    """The graph has something that is not understood; the text says what, for a debugger."""


def column_axis(part: int) -> int:
    """Which axis of a part of the cache has a column per token: keys are turned, values are not."""
    return 3 if part % 2 == 0 else 2


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
        groups = {heads.queries // heads.keys for heads in every}
        if 2 * len(every) != len(self._layout.parts) or len(groups) != 1:
            raise _Unknown("layers without an Attention of their own")
        for mask in {heads.node.input[3] for heads in every}:
            causal.check(self._model, mask, context=context)
        for at, heads in enumerate(every):
            self._instead[heads.node.output[0]] = _in_place(heads, f"gpunode.{at}.")
        vocab = self._sliced_logits()
        self._replace()
        self._inputs()
        self._constants(every)
        for opset in self._model.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = max(OPSET, opset.version)
        return Rewritten(
            model=self._model.SerializeToString(),
            layout=self._layout,
            group=groups.pop(),
            vocab=vocab,
        )

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

    def _replace(self) -> None:
        """Put the new nodes in, and leave out what nobody needs any more."""
        nodes = [new for old in self._graph.node for new in self._instead.get(old.output[0], [old])]
        needed, kept = {output.name for output in self._graph.output}, []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(_copy(node))
        if "attention_mask" in needed or "position_ids" not in needed:
            raise _Unknown("positions that depend on the mask")
        pasts = {part.past for part in self._layout.parts}
        reads = [name for node in kept for name in node.input if name in pasts]
        if len(reads) != len(pasts):
            raise _Unknown("a cache that is read elsewhere too")
        _set(self._graph.node, reversed(kept))
        del self._graph.value_info[:]

    def _inputs(self) -> None:
        from onnx import TensorProto, helper

        parts = {
            name: (part, column_axis(at))
            for at, part in enumerate(self._layout.parts)
            for name in (part.past, part.present)
        }

        def described(info: Any) -> Any:
            if info.name not in parts:
                return _copy(info)
            part, across = parts[info.name]
            shape: list[Any] = ["rows", part.heads, part.width, part.width]
            shape[across] = "columns"
            return helper.make_tensor_value_info(info.name, TensorProto.FLOAT, shape)

        kept = [described(info) for info in self._graph.input if info.name != "attention_mask"]
        added = [
            helper.make_tensor_value_info(STARTS, TensorProto.INT64, ["rows"]),
            helper.make_tensor_value_info(BIAS, TensorProto.FLOAT, ["rows", 1, "seen", "columns"]),
            helper.make_tensor_value_info(LOGITS_FROM, TensorProto.INT64, [1]),
        ]
        outputs = [described(info) for info in self._graph.output]
        _set(self._graph.input, [*kept, *added])
        _set(self._graph.output, outputs)

    def _constants(self, every: Sequence[_Heads]) -> None:
        from onnx import numpy_helper

        arrays: dict[str, Any] = {
            "gpunode.one": np.array([1], dtype=np.int64),
            "gpunode.end": np.array([np.iinfo(np.int64).max], dtype=np.int64),
        }
        for at, heads in enumerate(every):
            wide, values = heads.width * (heads.queries // heads.keys), heads.value_width
            group_out = values * (heads.queries // heads.keys)
            shapes = {
                "by_group": (0, 0, heads.keys, wide),
                "queries": (0, heads.keys, -1, heads.width),
                "keys": (0, 0, heads.keys, heads.width),
                "values": (0, 0, heads.keys, values),
                "out_by_group": (0, heads.keys, -1, group_out),
                "out": (0, 0, heads.queries * values),
            }
            for name, shape in shapes.items():
                arrays[f"gpunode.{at}.shape.{name}"] = np.array(shape, dtype=np.int64)
            arrays[f"gpunode.{at}.scale"] = np.array(heads.scale, dtype=np.float32)
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
    return _Heads(
        node=node,
        queries=queries,
        keys=heads,
        width=keys.width,
        value_width=values.width,
        scale=float(given.get("scale", keys.width**-0.5)),
    )


def _in_place(heads: _Heads, at: str) -> list[Any]:
    """What does the same as one `Attention`, with the cache written in place."""
    query, key, value, _, past_key, past_value = heads.node.input
    out, present_key, present_value = heads.node.output
    shape = f"{at}shape."
    return [
        # Heads that share keys become rows of one product: position after position, in each of
        # them head after head.
        _node("Reshape", [query, shape + "by_group"], at + "q1"),
        _node("Transpose", [at + "q1"], at + "q2", perm=[0, 2, 1, 3]),
        _node("Reshape", [at + "q2", shape + "queries"], at + "q3"),
        _node("Reshape", [key, shape + "keys"], at + "k1"),
        _node("Transpose", [at + "k1"], at + "k2", perm=[0, 2, 3, 1]),
        _node("TensorScatter", [past_key, at + "k2", STARTS], present_key, axis=3),
        _node("Reshape", [value, shape + "values"], at + "v1"),
        _node("Transpose", [at + "v1"], at + "v2", perm=[0, 2, 1, 3]),
        _node("TensorScatter", [past_value, at + "v2", STARTS], present_value, axis=2),
        _node("MatMul", [at + "q3", present_key], at + "products"),
        _node("Mul", [at + "products", at + "scale"], at + "scaled"),
        _node("Add", [at + "scaled", BIAS], at + "scores"),
        _node("Softmax", [at + "scores"], at + "weights", axis=-1),
        _node("MatMul", [at + "weights", present_value], at + "mixed"),
        _node("Reshape", [at + "mixed", shape + "out_by_group"], at + "o1"),
        _node("Transpose", [at + "o1"], at + "o2", perm=[0, 2, 1, 3]),
        _node("Reshape", [at + "o2", shape + "out"], out),
    ]


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, [output], **attributes)


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def _set(field: Any, messages: Iterable[Any]) -> None:
    made = list(messages)
    del field[:]
    field.extend(made)
